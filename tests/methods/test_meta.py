import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_cl.methods import isolation, maml, oml, reptile
from jax_cl.types import Batch, Objective

KEY = jax.random.key(0)


def batch(x):
  x = jnp.asarray(x, jnp.float32)
  return Batch(
    **dict.fromkeys(Batch._fields, jnp.ones(len(x)))
    | {"obs": x, "logp_old": jnp.zeros((len(x), 1))}
  )


def loss(p, b, key):
  """Mean over rows of .5 |p - x|^2, summed over the leaves a and b."""
  gap = 0.5 * ((p["a"] - b.obs) ** 2 + (p["b"] - b.obs) ** 2)
  return jnp.mean(gap), {}


OBJ = Objective(loss, None, None, None, None)
P = {"a": jnp.float32(3.0), "b": jnp.float32(3.0)}


def grads(method, x):
  return method.grads(OBJ, (), P, batch(x), None, 0, KEY)


def test_reptile_goes_part_of_the_way_back():
  """phi 3, two SGD steps of -.5 on theta, eps .3: phi - .3 * 1."""
  method = reptile.make(eps=0.3, inner=2)
  p, u = {"a": jnp.float32(3.0)}, {"a": jnp.float32(-0.5)}
  cl = method.init(p, 3, KEY)
  seen = []
  for _ in range(4):
    new = optax.apply_updates(p, method.update(cl, p, u, 0))
    cl = method.step(cl, p, new, None, {}, 0)
    p = new
    seen.append(float(p["a"]))
  np.testing.assert_allclose(seen, [2.5, 2.7, 2.2, 2.4], rtol=1e-6)


def test_reptile_brings_in_what_is_left_at_the_end_of_a_stage():
  method = reptile.make(eps=0.25, inner=10)
  ((when, settle),) = method.phases
  cl = method.init({"a": jnp.float32(3.0)}, 3, KEY)
  cl, p = settle(cl, {"a": jnp.float32(1.0)}, 0, KEY)
  assert when == 1.0 and p["a"] == 2.5 and cl["slow"]["a"] == 2.5


def test_maml_is_the_gradient_after_a_step():
  # L = .5 (p - 1)^2 a leaf: p' = p - alpha (p - 1), dL(p')/dp = (1 - alpha)^2
  # (p - 1) = .81 * 2; to first order .9 * 2.
  plain = maml.make(batch_size=2, alpha=0.1, ratio=0.0, clip=0.0)
  g, aux = grads(plain, [1.0, 1.0])
  np.testing.assert_allclose(g["a"], 0.81 * 2, rtol=1e-6)
  np.testing.assert_allclose(aux["task_grads"]["a"], 2.0)
  first = maml.make(
    batch_size=2, alpha=0.1, ratio=0.0, clip=0.0, first_order=True
  )
  np.testing.assert_allclose(grads(first, [1.0, 1.0])[0]["a"], 0.9 * 2, 1e-6)


def test_maml_cuts_the_norm_of_its_gradient():
  # Both leaves 1.62, norm 1.62 sqrt(2) = 2.29: cut to 2 it is sqrt(2) each.
  cut = maml.make(batch_size=2, alpha=0.1, ratio=0.0)
  g, aux = grads(cut, [1.0, 1.0])
  np.testing.assert_allclose(g["a"], 2**0.5, rtol=1e-6)
  np.testing.assert_allclose(aux["task_grads"]["a"], 2.0)
  g, _ = grads(cut, [2.0, 2.0])  # .81 each is short enough
  np.testing.assert_allclose(g["a"], 0.81, rtol=1e-6)


def test_oml_steps_on_the_head_row_after_row():
  # Rows 1 and 2 in turn, head b: b1 = b - .1 (b - 1), b2 = b1 - .1 (b1 - 2).
  method = oml.make(batch_size=2, alpha=0.1, steps=2, ratio=0.0)
  g, _ = grads(method, [1.0, 2.0])
  b2 = 0.9 * (3 - 0.1 * 2) + 0.1 * 2
  # Outer loss: the mean over both rows at (a, b2); d b2 / d b = .81.
  np.testing.assert_allclose(g["a"], 3 - 1.5, rtol=1e-6)
  np.testing.assert_allclose(g["b"], 0.81 * (b2 - 1.5), rtol=1e-6)


def test_oml_names_the_leaves_there_are():
  with pytest.raises(ValueError, match="'c' matches no leaf; there are a, b"):
    oml.make(batch_size=2, steps=2, ratio=0.0, head="c").init(P, 3, KEY)
  with pytest.raises(ValueError, match="3 parts, and 32 rows do not divide"):
    oml.make(batch_size=32, steps=3)


def test_isolation_gives_every_weight_to_one_stage():
  p = {"w": jnp.ones((40, 30))}
  method = isolation.make(shared=0.2)
  cl = method.init(p, 4, KEY)
  u = {"w": jnp.full((40, 30), 2.0)}
  moved = [np.array(method.update(cl, p, u, k)["w"]) == 2 for k in range(4)]
  assert np.all(np.sum(moved, axis=0)[np.array(cl["owner"]["w"]) >= 0] == 1)
  # of each stage a quarter of .8, and the shared .2
  np.testing.assert_allclose(np.mean(moved, axis=(1, 2)), 0.4, atol=0.05)


def test_isolation_acts_with_what_was_learned_by_then():
  method = isolation.make()
  cl = method.init(P, 2, KEY)
  cl["owner"] = {"a": jnp.int16(0), "b": jnp.int16(1)}
  now = {"a": jnp.float32(7.0), "b": jnp.float32(8.0)}
  assert method.view(cl, now, 0) == {"a": 7.0, "b": 3.0}  # b as it started
  assert method.view(cl, now, 1) == {"a": 7.0, "b": 8.0}
