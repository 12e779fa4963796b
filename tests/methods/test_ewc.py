import jax
import jax.numpy as jnp
import numpy as np
import pytest
import softmax

from jax_cl.methods import ewc, online_ewc

KEY = jax.random.key(0)


def pull(method, cl, p, stage=1):
  obj, _ = softmax.linear()
  batch = softmax.rows([[1.0, 0.0, 0.0]])
  g, aux = method.grads(obj, cl, p, batch, None, stage, KEY)
  return g["w"] - aux["task_grads"]["w"], aux["penalty"]


def test_two_anchors_by_hand():
  """.5 * 2 * (3 * (1 - 0)^2 + 1 * (1 - 3)^2) = 7, slope 2 * (3 - 2) = 2."""
  one = lambda x: jnp.full((3, 4), x)
  cl = {
    "fisher": {"w": jnp.stack([one(3.0), one(1.0), one(0.0)])},
    "anchor": {"w": jnp.stack([one(0.0), one(3.0), one(0.0)])},
  }
  slope, value = pull(ewc.make(lr=1e-3, lam=2.0), cl, {"w": one(1.0)})
  np.testing.assert_allclose(value, 7 * 12, rtol=1e-6)
  np.testing.assert_allclose(slope, 2.0, rtol=1e-4)


def test_the_cap_is_on_the_sum_over_stages():
  """lr * lambda * sum_k F_k = .1 * 10 * 4: a step goes to the mean anchor."""
  one = lambda x: jnp.full((3, 4), x)
  cl = {
    "fisher": {"w": jnp.stack([one(3.0), one(1.0)])},
    "anchor": {"w": jnp.stack([one(0.0), one(4.0)])},
  }
  slope, _ = pull(ewc.make(lr=0.1, lam=10.0), cl, {"w": one(2.0)})
  # The F-weighted mean of the anchors is 1.
  np.testing.assert_allclose(2.0 - 0.1 * slope, 1.0, rtol=1e-5)


def test_a_stage_writes_into_its_own_place():
  obj, p = softmax.linear()
  method = ewc.make(lr=0.1, fisher="exact", samples=2)
  x = jax.random.normal(jax.random.key(1), (1, 2, 3))
  batches = jax.tree.map(lambda a: a[None], softmax.rows(x[0]))
  cl = method.init(p, 3, KEY)
  cl, same = method.end(obj, cl, p, batches, jnp.int32(1), KEY)
  assert same is p
  assert np.any(cl["fisher"]["w"][1]) and not np.any(cl["fisher"]["w"][0])
  np.testing.assert_array_equal(cl["anchor"]["w"][1], p["w"])
  assert not np.any(cl["anchor"]["w"][2])


def test_after_one_stage_it_is_online_ewc():
  obj, p = softmax.linear()
  batches = softmax.rows(jax.random.normal(jax.random.key(1), (6, 3)))
  batches = jax.tree.map(lambda a: a[None], batches)
  moved = {"w": p["w"] + 0.5}
  got = []
  for file in (ewc, online_ewc):
    method = file.make(lr=0.1, lam=3.0, samples=4)
    cl, _ = method.end(
      obj, method.init(p, 2, KEY), p, batches, jnp.int32(0), KEY
    )
    got.append(pull(method, cl, moved)[0])
  assert np.abs(got[0]).max() > 0.01
  np.testing.assert_allclose(got[0], got[1], rtol=1e-6)


def test_wrong_values():
  with pytest.raises(ValueError, match="samples 0"):
    ewc.make(lr=0.1, samples=0)
  with pytest.raises(ValueError, match="did you mean 'sampled'"):
    ewc.make(lr=0.1, fisher="sample")
