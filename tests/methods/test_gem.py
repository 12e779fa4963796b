import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import OBJ, OLD, P, gradient

from jax_cl import memory
from jax_cl.methods import agem, gem

PROJECT = jax.jit(gem.project)


def tree_of(x):
  x = jnp.asarray(x, jnp.float32)
  return {"a": x[..., :1], "b": x[..., 1:]}


def flat(t):
  return np.concatenate([t["a"], t["b"]], axis=-1)


def test_two_constraints_by_hand():
  # g = (-1, -1) breaks both g.(1, 0) >= 0 and g.(1, 1) >= 0. The nearest point
  # of the cone x >= 0, x + y >= 0 is its tip: nothing of g is left.
  out, broken = PROJECT(tree_of([-1.0, -1]), tree_of([[1.0, 0], [1, 1]]))
  assert broken
  np.testing.assert_allclose(flat(out), [0, 0], atol=1e-6)
  # g = (-1, 3) breaks the first alone and lands on its edge, x = 0.
  out, _ = PROJECT(tree_of([-1.0, 3]), tree_of([[1.0, 0], [1, 1]]))
  np.testing.assert_allclose(flat(out), [0, 3], atol=1e-6)


def test_one_constraint_is_that_of_agem():
  g, ref = tree_of([1.0, -2, 0.5]), tree_of([1.0, 1, -1])
  lead = jax.tree.map(lambda x: x[None], ref)
  np.testing.assert_allclose(
    flat(PROJECT(g, lead)[0]), flat(agem.project(g, ref)[0]), rtol=1e-6
  )


def test_a_step_that_breaks_nothing_stays_whatever_the_margin():
  g, refs = tree_of([1.0, 2]), tree_of([[1.0, 0], [0, 0]])
  out, broken = PROJECT(g, refs, 0.5)
  assert not broken and (flat(out) == flat(g)).all()


def test_the_margin_leans_to_the_memory():
  # v = max(1, margin) = 2 here: g + 2 (1, 0) = (1, 3).
  out, _ = PROJECT(tree_of([-1.0, 3]), tree_of([[1.0, 0]]), 2.0)
  np.testing.assert_allclose(flat(out), [1, 3], atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_answer_is_feasible_and_optimal(seed):
  """KKT: g~ - g is a mixture of the constraints that hold with equality."""
  rng = np.random.default_rng(seed)
  g, G = rng.normal(size=8), rng.normal(size=(4, 8))
  if (G @ g >= 0).all():
    g = -g
  v = np.asarray(gem.dual(jnp.asarray(G @ G.T), jnp.asarray(G @ g), 0.0))
  out, _ = PROJECT(tree_of(g), tree_of(G))
  slack = G @ flat(out)
  np.testing.assert_allclose(flat(out), g + G.T @ v, atol=1e-5)
  assert (v >= 0).all() and (slack > -1e-4).all()
  np.testing.assert_allclose(v * slack, 0, atol=1e-3)


def test_a_domain_without_rows_asks_for_nothing():
  method = gem.make(batch_size=2, margin=0.0)
  against = OLD._replace(action=1 - OLD.action)
  rows = jax.tree.map(lambda *x: jnp.stack(x), against, against)
  none = rows._replace(weight=rows.weight.at[1].set(0.0))
  place = jnp.zeros((2, 2), jnp.int32)
  mem = lambda rows: memory.Sample(rows, (), place, place)
  new = OLD._replace(adv=jnp.ones(2))
  run = lambda m: method.grads(OBJ, (), P, new, m, 1, jax.random.key(0))
  g, aux = run(mem(none))
  ref = gradient(against._replace(adv=jnp.ones(2)))
  assert aux["projected"] == 1
  np.testing.assert_allclose(jnp.vdot(g["w"], ref), 0, atol=1e-6)
  twice, _ = run(mem(rows))  # the same constraint twice is the same constraint
  np.testing.assert_allclose(twice["w"], g["w"], atol=1e-5)
  g, aux = run(mem(rows._replace(weight=jnp.zeros((2, 2)))))
  assert aux["projected"] == 0 and (g["w"] == gradient(new)).all()


def test_refused():
  with pytest.raises(ValueError, match="margin is -1"):
    gem.make(batch_size=4, margin=-1)
  with pytest.raises(ValueError, match="0.1 of 4 is 0"):
    gem.make(batch_size=4, ratio=0.1)
