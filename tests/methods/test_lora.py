import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_cl.methods import _deltas, lora, olora, progressive

P = {"w": jnp.arange(6.0).reshape(3, 2), "b": jnp.ones(2)}
ADAPTERS = {"q": {"lora_a": jnp.ones((3, 4)), "lora_b": jnp.ones((4, 2))}}
KEY = jax.random.key(0)


def begun(method, p, n_stages, stage):
  p = method.extend(p, n_stages, KEY)
  cl = method.init(p, n_stages, KEY)
  return method.start(cl, p, jnp.int32(stage), KEY)


def test_a_delta_of_b_zero_is_the_tree_itself():
  merged = _deltas.merge(_deltas.extend(P, 2, KEY))
  jax.tree.map(np.testing.assert_array_equal, merged, P)


def test_merge_by_hand():
  p = _deltas.extend(P, 1, KEY)
  p.delta["w"]["lora_a"] = jnp.array([[1.0], [0.0], [2.0]])
  p.delta["w"]["lora_b"] = jnp.array([[10.0, -1.0]])
  p.delta["b"]["delta"] = jnp.array([0.5, 0.0])
  merged = _deltas.merge(p)
  np.testing.assert_array_equal(merged["w"], [[10, 0], [2, 3], [24, 3]])
  np.testing.assert_array_equal(merged["b"], [1.5, 1.0])


def test_each_stage_has_an_adapter_of_its_own():
  method = lora.make()
  cl, p = begun(method, ADAPTERS, 3, 0)
  learned = jax.tree.map(lambda x: x + 7, p)
  cl, p = method.start(cl, learned, jnp.int32(1), KEY)
  jax.tree.map(np.testing.assert_array_equal, p, ADAPTERS)  # a fresh one
  p = jax.tree.map(lambda x: x - 3, p)
  jax.tree.map(np.testing.assert_array_equal, method.view(cl, p, 0), learned)
  jax.tree.map(np.testing.assert_array_equal, method.view(cl, p, 1), p)


def test_without_adapters_stage_0_learns_the_tree_and_then_it_is_frozen():
  method = lora.make(rank=2)
  cl, p = begun(method, P, 3, 0)
  u = jax.tree.map(jnp.ones_like, p)
  first, later = (method.update(cl, p, u, jnp.int32(k)) for k in (0, 1))
  every = lambda x, value: all(
    np.all(np.array(leaf) == value) for leaf in jax.tree.leaves(x)
  )
  assert every(first.base, 1) and every(first.delta, 0)
  assert every(later.base, 0) and every(later.delta, 1)


def test_olora_divides_the_rank_among_the_stages():
  method = olora.make()
  cl, p = begun(method, ADAPTERS, 2, 1)
  u = jax.tree.map(jnp.ones_like, p)
  mine = method.update(cl, p, u, jnp.int32(1))["q"]
  np.testing.assert_array_equal(mine["lora_a"][0], [0, 0, 1, 1])
  np.testing.assert_array_equal(mine["lora_b"][:, 0], [0, 0, 1, 1])
  np.testing.assert_array_equal(_deltas.slots(5, 2), [0, 0, 1, 1, 1])


def test_olora_penalty_by_hand_pulls_on_the_new_directions_alone():
  # A = [old | new], old = (1, 2), new = (3, -1): |A_old^T A_new| = |3 - 2| = 1
  a = jnp.array([[1.0, 3.0], [2.0, -1.0]])
  method = olora.make(lam=0.5)
  cl, p = begun(method, {"q": {"lora_a": a, "lora_b": jnp.zeros((2, 1))}}, 2, 1)
  value, g = jax.value_and_grad(method.grads.term, argnums=2)(
    None, cl, p, None, jnp.int32(1), KEY
  )
  assert value == 0.5
  # d|old . new| / d new = sign * old, and nothing on the old
  np.testing.assert_allclose(g["q"]["lora_a"], [[0, 0.5], [0, 1.0]])
  assert method.grads.term(None, cl, p, None, jnp.int32(0), KEY) == 0


def test_olora_on_too_small_a_rank_says_what_to_do():
  with pytest.raises(ValueError, match="rank 4 for 5 stages; give the model"):
    begun(olora.make(), ADAPTERS, 5, 0)


def test_olora_gives_adapters_to_the_matrices_it_is_told():
  tree_ = {"head": {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}, **P}
  p = olora.make(targets="w").extend(tree_, 3, KEY)
  assert sorted(_deltas.adapters(p)) == ["delta/w/lora_a"]
  merged = _deltas.merge(p)
  jax.tree.map(np.testing.assert_array_equal, merged, tree_)
  with pytest.raises(ValueError, match="'b' match no matrix among b, w"):
    olora.make(targets="b").extend(P, 3, KEY)


def test_olora_knows_what_stage_0_read_by_what_it_changed():
  # The change is rank one and reads (3, 4, 0) / 5: that is all that its slot's
  # A reads. B stays 0, so nothing acts anew.
  method = olora.make(rank=2)
  cl, p = begun(method, P, 3, 0)
  change = jnp.outer(jnp.array([3.0, 4.0, 0.0]), jnp.array([1.0, -2.0]))
  learned = p._replace(base={**p.base, "w": p.base["w"] + change})
  ((when, settle),) = method.phases
  _, after = settle(cl, learned, jnp.int32(0), KEY)
  a = after.delta["w"]["lora_a"]
  for column in jnp.abs(a[:, :2]).T:
    np.testing.assert_allclose(column, [0.6, 0.8, 0], atol=1e-6)
  np.testing.assert_array_equal(a[:, 2:], p.delta["w"]["lora_a"][:, 2:])
  jax.tree.map(
    np.testing.assert_array_equal, method.view(cl, after, 0), learned.base
  )
  _, later = settle(cl, learned, jnp.int32(1), KEY)
  jax.tree.map(np.testing.assert_array_equal, later, learned)
  assert when == 1.0


def test_a_column_adds_its_share_of_earlier_ones():
  method = progressive.make()
  cl, p = begun(method, P, 3, 0)
  first = p._replace(own=jax.tree.map(lambda x: x + 1, p.own))
  cl, p = method.start(cl, first, jnp.int32(1), KEY)
  jax.tree.map(np.testing.assert_array_equal, method.view(cl, p, 1), P)
  p.laterals["w"] = jnp.array([0.5, 9.0, 9.0])  # of later ones nothing counts
  seen = method.view(cl, p, 1)
  np.testing.assert_array_equal(seen["w"], P["w"] + 0.5 * first.own["w"])
  np.testing.assert_array_equal(seen["b"], P["b"])
  jax.tree.map(np.testing.assert_array_equal, method.view(cl, p, 0), first.own)
