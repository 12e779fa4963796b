import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_cl.methods import packnet

P = {"w": jnp.array([[4.0, -3.0], [2.0, -1.0]]), "b": jnp.array([0.5, 0.25])}
STAGES = 2


def started(stage=0, **options):
  method = packnet.make(**options)
  cl = method.init(P, STAGES, jax.random.key(0))
  return method, method.start(cl, P, stage, jax.random.key(0))[0]


def prune(method, cl, p, stage):
  ((_, f),) = method.phases
  return f(cl, p, stage, jax.random.key(0))


def test_a_stage_keeps_its_largest_weights_and_frees_the_rest():
  method, cl = started()
  cl, p = prune(method, cl, P, 0)
  # An equal share of two stages: two of four, those of size 4 and 3.
  np.testing.assert_array_equal(p["w"], [[4.0, -3.0], [0.0, 0.0]])
  np.testing.assert_array_equal(cl["owner"]["w"], [[0, 0], [-1, -1]])
  # Biases are stage 0's own.
  np.testing.assert_array_equal(p["b"], P["b"])
  np.testing.assert_array_equal(cl["owner"]["b"], [0, 0])
  # What is kept is retrained, what is free is not.
  u = jax.tree.map(jnp.ones_like, P)
  masked = method.update(cl, p, u, 0)
  np.testing.assert_array_equal(masked["w"], [[1, 1], [0, 0]])
  # The last stage trains what is free, keeps all of it, and sees everything.
  cl, p = method.start(cl, p, 1, jax.random.key(0))
  masked = method.update(cl, p, u, 1)
  np.testing.assert_array_equal(masked["w"], [[0, 0], [1, 1]])
  np.testing.assert_array_equal(masked["b"], [0, 0])
  p = jax.tree.map(jnp.add, p, masked)
  cl, p = prune(method, cl, p, 1)
  np.testing.assert_array_equal(method.view(cl, p, 1)["w"], [[4, -3], [1, 1]])
  np.testing.assert_array_equal(method.view(cl, p, 0)["w"], [[4, -3], [0, 0]])
  assert method.report(cl, ())["free_share"] == 0


def test_ties_do_not_give_more_than_the_share():
  x = jnp.full((4, 5), 2.0)
  owner = jnp.full(x.shape, packnet.FREE, jnp.int16)
  claimed = packnet.claim(x, owner, 0.25, jnp.int32(3))
  assert int(jnp.sum(claimed == 3)) == 5 and claimed.dtype == jnp.int16


def test_owned_weights_do_not_move_by_one_bit_under_adamw():
  """With weight decay and momentum, which masked gradients let through."""
  method, cl = started()
  cl, p = prune(method, cl, P, 0)
  owned = np.array(p["w"][0])
  cl, p = method.start(cl, p, 1, jax.random.key(0))
  tx = optax.adamw(0.05, weight_decay=0.1)
  opt = tx.init(p)
  moved = p
  for _ in range(30):
    g = jax.tree.map(jnp.cos, p)
    u, opt = tx.update(g, opt, p)
    p = optax.apply_updates(p, method.update(cl, p, u, 1))
    moved = optax.apply_updates(moved, u)
  assert np.array(p["w"][0]).tobytes() == owned.tobytes()
  assert np.all(np.abs(np.array(moved["w"][0]) - owned) > 0.01)
  assert np.all(np.array(p["w"][1]) != 0)


@pytest.mark.parametrize("options", [{"keep": 1.5}, {"at": 0.0}, {"keep": -1}])
def test_refused(options):
  with pytest.raises(ValueError, match="packnet needs keep in"):
    packnet.make(**options)
