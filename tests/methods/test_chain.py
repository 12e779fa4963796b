import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_cl.methods import (
  base,
  online_ewc,
  packnet,
  replay,
  reptile,
  sequential,
)
from jax_cl.methods.base import Method
from jax_cl.types import Batch, Objective

LOSS = lambda p, batch, key: (0.5 * p**2, {})
OBJ = Objective(LOSS, None, None, None, None)
EMPTY = Batch(*[None] * len(Batch._fields))


def square(at, weight):
  """A method that pulls p to `at`."""
  return Method(
    grads=base.penalty(
      lambda obj, cl, p, batch, stage, key: 0.5 * weight * (p - at) ** 2
    )
  )


def grads(method, p, cl):
  return method.grads(OBJ, cl, p, EMPTY, None, 0, jax.random.key(0))


def test_penalties_add():
  both = base.chain(square(1.0, 2.0), square(-1.0, 3.0))
  g, aux = grads(both, 2.0, ((), ()))
  assert g == 2 + 2 * (2 - 1) + 3 * (2 + 1)
  assert aux["penalty"] == 0.5 * 2 * 1 + 0.5 * 3 * 9
  assert aux["task_grads"] == 2  # what SI needs


def test_views_and_updates_compose_in_order():
  add = Method(view=lambda cl, p, s: p + 1, update=lambda cl, p, u, s: u + 1)
  twice = Method(view=lambda cl, p, s: p * 2, update=lambda cl, p, u, s: u * 2)
  both = base.chain(add, twice)
  assert both.view(((), ()), 3, 0) == 8
  assert both.update(((), ()), None, 3, 0) == 8


def test_states_and_hooks_stay_apart():
  count = lambda n: Method(
    init=lambda p, n_stages, key: n,
    step=lambda cl, *a: cl + 1,
    observe=lambda cl, row, stage: cl * 10,
    start=lambda cl, p, stage, key: (cl, p + cl),
    end=lambda obj, cl, p, batches, stage, key: (cl + 5, p),
    report=lambda cl, buffer: {f"n{n}": cl},
    phases=((0.1 * n, lambda cl, p, stage, key: (cl + 100, p)),),
  )
  both = base.chain(count(2), count(1))
  cl = both.init(None, 3, jax.random.key(0))
  assert cl == (2, 1)
  assert both.step(cl, None, None, None, {}, 0) == (3, 2)
  assert both.observe(cl, None, 0) == (20, 10)
  assert both.start(cl, 0, 0, jax.random.key(0)) == ((2, 1), 3)
  assert both.end(None, cl, 0, None, 0, jax.random.key(0)) == ((7, 6), 0)
  assert both.report(cl, None) == {"n2": 2, "n1": 1}
  (first, f), (second, _) = both.phases
  assert (first, second) == (0.1, 0.2)  # by time, not by place
  assert f(cl, 0, 0, None) == ((2, 101), 0)


def test_replay_and_ewc_keep_one_memory():
  parts = replay.make(batch_size=4, ratio=0.5), online_ewc.make(lr=0.1)
  both = base.chain(*parts)
  assert both.capacity == 1000 and both.rows == 100
  assert both.needs == {"memory"}
  with pytest.raises(ValueError, match="one method with a memory"):
    base.chain(parts[0], parts[0])


def test_a_chain_with_sequential_is_the_other_one():
  p, anchor = jnp.float32(3.0), jnp.float32(1.0)
  ewc = online_ewc.make(lr=0.1, lam=2.0)
  cl = {"fisher": jnp.float32(1), "anchor": anchor, "stages": jnp.float32(1)}
  alone, _ = grads(ewc, p, cl)
  chained, _ = grads(base.chain(sequential.make(), ewc), p, ((), cl))
  np.testing.assert_array_equal(alone, chained)


def test_a_view_that_makes_the_agents_tree_comes_last():
  """Whatever its place, the others see the tree that is trained."""
  pair = Method(
    extend=lambda p, n_stages, key: {"base": p, "delta": 0.0 * p},
    view=lambda cl, p, s: p["base"] + p["delta"],
  )
  twice = Method(view=lambda cl, p, s: jax.tree.map(lambda x: 2 * x, p))
  for chained in (base.chain(pair, twice), base.chain(twice, pair)):
    p = chained.extend(3.0, 2, None)
    assert p == {"base": 3.0, "delta": 0.0}
    p["delta"] = 1.0
    assert chained.view(((), ()), p, 0) == 2 * 3 + 2 * 1
  with pytest.raises(ValueError, match="one method with weights of its own"):
    base.chain(pair, pair)


def test_what_freezes_weights_comes_last_and_holds():
  """EWC pulls, Reptile jumps back; what PackNet owns stays, to the bit."""
  p = {"w": jnp.array([[4.0, -3.0], [2.0, -1.0]])}
  parts = (
    online_ewc.make(lr=0.1, lam=5.0),
    reptile.make(inner=1),
    packnet.make(),
  )
  both = base.chain(*parts)
  key = jax.random.key(0)
  cl = both.init(p, 2, key)
  cl, p = both.start(cl, p, 0, key)
  (_, prune), _ = both.phases
  cl, p = prune(cl, p, 0, key)
  cl, p = both.start(cl, p, 1, key)
  u = both.update(cl, p, {"w": jnp.full((2, 2), 0.5)}, 1)
  assert both.needs == {"stage_at_test"}
  np.testing.assert_array_equal(u["w"][0], [0.0, 0.0])
  assert jnp.all(u["w"][1] != 0)
