import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_cl.methods import si
from jax_cl.types import Batch, Objective

H = jnp.array([4.0, 1.0, 0.0])  # curvature of a quadratic loss
OBJ = Objective(
  lambda p, batch, key: (0.5 * jnp.sum(H * p**2), {}), None, None, None, None
)
EMPTY = Batch(*[None] * len(Batch._fields))
KEY = jax.random.key(0)


def walk(method, cl, p, lr, steps, stage=0):
  """SGD on the quadratic and on the penalty; (cl, p, every p)."""

  def one(carry, _):
    cl, p = carry
    g, aux = method.grads(OBJ, cl, p, EMPTY, None, stage, KEY)
    new = p - lr * g
    return (method.step(cl, p, new, g, aux, stage), new), new

  (cl, end), seen = jax.lax.scan(one, (cl, p), length=steps)
  return cl, end, jnp.concatenate([p[None], seen])


def started(method, p, stage=0):
  return method.start(method.init(p, 2, KEY), p, stage, KEY)[0]


def test_the_path_integral_is_the_loss_drop_of_a_quadratic():
  """omega_i = drop_i + sum_t h_i dtheta_t^2 / 2, exactly; so drop at small
  steps."""
  method, p = si.make(lr=0.1), jnp.array([1.0, -2.0, 3.0])
  cl, end, seen = walk(method, started(method, p), p, 0.1, 7)
  drop = 0.5 * H * (p**2 - end**2)
  excess = 0.5 * H * jnp.sum(jnp.diff(seen, axis=0) ** 2, axis=0)
  np.testing.assert_allclose(cl["omega"], drop + excess, rtol=1e-5)
  cl, end, _ = walk(method, started(method, p), p, 1e-3, 700)
  drop = 0.5 * H * (p**2 - end**2)
  np.testing.assert_allclose(cl["omega"], drop, rtol=5e-3, atol=1e-6)


def test_importance_is_the_omega_a_distance_and_adds_up():
  method, p = si.make(lr=0.1, xi=0.5), jnp.array([1.0, -2.0, 3.0])
  cl, end, _ = walk(method, started(method, p), p, 0.1, 7)
  once, _ = method.start(cl, end, 1, KEY)
  want = cl["omega"] / ((end - p) ** 2 + 0.5)
  np.testing.assert_allclose(once["importance"], want, rtol=1e-6)
  assert want[2] == 0  # no slope, no importance
  np.testing.assert_array_equal(once["anchor"], end)
  assert not np.any(once["omega"])
  lost = {**once, "omega": -jnp.ones(3)}  # a path uphill earns nothing
  twice, _ = method.start(lost, end + 1, 2, KEY)
  np.testing.assert_array_equal(twice["importance"], once["importance"])


def test_the_path_is_of_the_task_alone():
  """Pulled by the penalty only, at a flat loss, nothing becomes important."""
  method = si.make(lr=0.1)
  cl = started(method, jnp.zeros(3))
  cl = {**cl, "importance": jnp.ones(3), "anchor": jnp.ones(3)}
  flat = OBJ._replace(loss=lambda p, batch, key: (0.0 * jnp.sum(p), {}))
  p = jnp.zeros(3)
  g, aux = method.grads(flat, cl, p, EMPTY, None, 1, KEY)
  np.testing.assert_allclose(g, -2.0)  # 2 lambda Omega (0 - 1)
  cl = method.step(cl, p, p - 0.1 * g, g, aux, 1)
  assert not np.any(cl["omega"])


def test_cap():
  method = si.make(lr=0.1, lam=1e5)
  cl = started(method, jnp.zeros(3))
  cl = {**cl, "importance": jnp.ones(3), "anchor": jnp.ones(3)}
  flat = OBJ._replace(loss=lambda p, batch, key: (0.0 * jnp.sum(p), {}))
  g, _ = method.grads(flat, cl, jnp.zeros(3), EMPTY, None, 1, KEY)
  np.testing.assert_allclose(-0.1 * g, 1.0, rtol=1e-5)  # onto the anchor


def test_wrong_values():
  with pytest.raises(ValueError, match="xi > 0; got lam 1.0, xi 0"):
    si.make(lr=0.1, xi=0)
