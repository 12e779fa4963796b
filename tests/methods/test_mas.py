import jax
import jax.numpy as jnp
import numpy as np
import pytest
import softmax

from jax_cl.methods import mas

KEY = jax.random.key(0)


def test_sensitivity_of_a_linear_policy():
  """||x W||^2 has the gradient 2 x_i (x W)_j."""
  obj, p = softmax.linear()
  x = jax.random.normal(jax.random.key(1), (5, 3))
  each = 2 * x[:, :, None] * (x @ p["w"])[:, None, :]
  got = mas.sensitivity(obj, p, softmax.rows(x))
  np.testing.assert_allclose(
    got["w"], jnp.mean(jnp.abs(each), axis=0), rtol=1e-5
  )
  weight = [1.0, 1.0, 0.0, 0.0, 0.0]
  got = mas.sensitivity(obj, p, softmax.rows(x, weight=weight))
  np.testing.assert_allclose(
    got["w"], jnp.mean(jnp.abs(each[:2]), axis=0), rtol=1e-5
  )


def test_options_that_are_not_legal_have_no_part():
  obj, p = softmax.linear()
  mask = jnp.array([0.0, 0.0, -1e9, -1e9])
  masked = obj._replace(out=lambda p, b: obj.out(p, b) + mask[None, None])
  batch = softmax.rows(jnp.ones((2, 3)))
  z = jnp.sum(p["w"], axis=0)
  np.testing.assert_allclose(
    mas.norm(masked, p, batch), z[0] ** 2 + z[1] ** 2, rtol=1e-5
  )
  assert not np.any(mas.sensitivity(masked, p, batch)["w"][:, 2:])


def test_two_stages_add_up_and_pull_to_the_latest():
  obj, p = softmax.linear()
  method = mas.make(lr=1e-3, lam=0.5, samples=4)
  rows = softmax.rows(jax.random.normal(jax.random.key(1), (4, 3)))
  batches = jax.tree.map(lambda x: x[None], rows)
  one, _ = method.end(obj, method.init(p, 2, KEY), p, batches, 0, KEY)
  two, _ = method.end(obj, one, p, batches, 1, KEY)
  Omega = one["importance"]["w"]
  np.testing.assert_allclose(two["importance"]["w"], 2 * Omega, rtol=1e-6)
  moved = {"w": p["w"] + 1.0}
  g, aux = method.grads(obj, one, moved, rows, None, 1, KEY)
  # lambda Omega gap^2 has the slope 2 * .5 * Omega * 1
  slope = g["w"] - aux["task_grads"]["w"]
  np.testing.assert_allclose(slope, Omega, rtol=1e-3, atol=1e-5)
  np.testing.assert_allclose(aux["penalty"], 0.5 * jnp.sum(Omega), rtol=1e-4)


def test_wrong_values():
  with pytest.raises(ValueError, match="lam -1"):
    mas.make(lr=0.1, lam=-1)
