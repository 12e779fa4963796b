import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_cl import memory
from jax_cl.types import Batch

ADD = jax.jit(memory.add)
TRAINS = np.eye(3, dtype=bool)  # stage k trains on domain k


def batch(domain, value, reward=None, weight=None):
  """One row for each value; `obs` holds the value."""
  n = len(value)
  value = jnp.asarray(value, jnp.float32)
  return Batch(
    obs={"x": value[:, None]},
    action=jnp.zeros((n, 1), jnp.int32),
    mask=jnp.ones((n, 1)),
    logp_old=jnp.zeros((n, 1)),
    adv=jnp.ones(n),
    weight=jnp.ones(n) if weight is None else jnp.asarray(weight, jnp.float32),
    domain=jnp.broadcast_to(jnp.asarray(domain, jnp.int32), (n,)),
    task=jnp.arange(n, dtype=jnp.int32),
    reward=jnp.ones(n) if reward is None else jnp.asarray(reward, jnp.float32),
  )


def items(*args, keep=None, **kwargs):
  rows = batch(*args, **kwargs)
  n = len(rows.weight)
  return memory.Items(
    rows, jnp.ones(n, bool) if keep is None else jnp.asarray(keep), ()
  )


def filled(*added, capacity=4):
  buffer = memory.init(added[0], TRAINS, capacity)
  for step, one in enumerate(added):
    buffer = ADD(buffer, one, jnp.int32(step))
  return buffer


def held(buffer, domain):
  n = int(memory.size(buffer)[domain])
  return sorted(np.asarray(buffer.rows.obs["x"])[domain, :n, 0].tolist())


def test_a_ring_forgets_the_oldest_of_its_own_domain():
  buffer = filled(items(0, [1, 2, 3]), items(1, [9]), items(0, [4, 5]))
  assert held(buffer, 0) == [2, 3, 4, 5]
  assert held(buffer, 1) == [9] and held(buffer, 2) == []
  assert buffer.added.tolist() == [5, 1, 0]
  assert buffer.time[0].tolist() == [2, 0, 0, 2]  # slot 0 was written again


def test_rows_of_weight_0_and_rows_not_kept_stay_out():
  one = items(0, [1, 2, 3], weight=[1, 0, 1], keep=[True, True, False])
  assert held(filled(one), 0) == [1]


def test_more_rows_than_slots_leave_the_newest():
  assert held(filled(items(0, range(7))), 0) == [3, 4, 5, 6]


def test_domains_mixed_in_one_batch():
  buffer = filled(items([0, 1, 0, 2, 1], [1, 2, 3, 4, 5]))
  assert [held(buffer, d) for d in range(3)] == [[1, 3], [2, 5], [4]]


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _draw(buffer, key, stage, b, strategy, min_size):
  domains = memory.earlier(buffer, stage)
  choose = memory.strategy(strategy)
  return memory.sample(buffer, key, b, choose, domains, min_size)


def draw(buffer, b, strategy="random", stage=2, key=0, min_size=1):
  key = jax.random.key(key)
  return _draw(buffer, key, jnp.int32(stage), b, strategy, min_size)


def values(sample):
  real = np.asarray(sample.rows.weight[0]) > 0
  return np.asarray(sample.rows.obs["x"])[0, real, 0].tolist()


def test_a_sample_is_shared_evenly_among_earlier_domains():
  buffer = filled(items(0, [1, 2]), items(1, [3, 4]), items(2, [5, 6]))
  mem = draw(buffer, 6)
  assert mem.rows.obs["x"].shape == (1, 6, 1)
  assert sorted(mem.domain[0].tolist()) == [0, 0, 0, 1, 1, 1]
  assert all(x in (1, 2, 3, 4) for x in values(mem))
  assert sorted(draw(buffer, 3, stage=1).domain[0].tolist()) == [0, 0, 0]


def test_what_does_not_divide_goes_by_lot():
  buffer = filled(items(0, [1, 2]), items(1, [3, 4]))
  one = [int(draw(buffer, 1, key=k).domain[0, 0]) for k in range(40)]
  assert 8 < sum(one) < 32


def test_an_earlier_domain_that_holds_nothing_gives_its_share_away():
  buffer = filled(items(1, [3, 4]))
  assert draw(buffer, 4).domain[0].tolist() == [1, 1, 1, 1]


def test_nothing_is_drawn_before_there_is_enough():
  buffer = filled(items(0, [1, 2]), items(2, [5, 6, 7]))
  assert values(draw(buffer, 2, stage=0)) == []  # no earlier domain
  assert values(draw(buffer, 2, min_size=3)) == []  # 2 < 3 rows
  assert len(values(draw(buffer, 2, min_size=2))) == 2


def test_a_domain_trained_on_again_is_no_earlier_one():
  trains = np.array([[1, 0], [0, 1], [1, 0]], bool)
  buffer = memory.init(items(0, [1]), trains, 2)
  now = lambda k, **kw: memory.earlier(buffer, jnp.int32(k), **kw).tolist()
  assert [now(k) for k in range(3)] == [
    [False, False], [True, False], [False, True],
  ]  # fmt: skip
  joint = memory.init(items(0, [1]), np.ones((1, 2), bool), 2)
  assert memory.earlier(joint, jnp.int32(0)).tolist() == [False, False]


def test_only_the_last_domains():
  buffer = filled(items(0, [1]), items(1, [2]))
  last = memory.earlier(buffer, jnp.int32(2), last_only=True)
  assert last.tolist() == [False, True, False]


def test_random_is_uniform():
  buffer = filled(items(0, range(4)))
  mem = draw(buffer, 4000, stage=1)
  counts = np.bincount(np.asarray(values(mem), int), minlength=4)
  chi2 = np.sum((counts - 1000) ** 2 / 1000)
  assert chi2 < 16.3  # 3 degrees of freedom, p = .001


def test_high_reward_takes_the_best_without_replacement():
  reward = [0.1, 0.9, 0.5, 0.9, 0.2]
  buffer = filled(items(0, range(5), reward=reward), capacity=8)
  assert sorted(values(draw(buffer, 3, "high_reward", stage=1))) == [1, 2, 3]
  first = {values(draw(buffer, 1, "high_reward", 1, k))[0] for k in range(20)}
  assert first == {1, 3}  # ties by lot


def test_high_reward_prefers_a_held_row_to_an_empty_slot():
  buffer = filled(items(0, [7], reward=[-1.0]), capacity=8)
  assert values(draw(buffer, 2, "high_reward", stage=1)) == [7, 7]


def test_balanced_takes_passed_and_failed_in_turn():
  reward = [1, 0, 0, 0, 0, 0, 0, 1]
  buffer = filled(items(0, range(8), reward=reward), capacity=8)
  got = values(draw(buffer, 4, "balanced", stage=1))
  assert len(set(got)) == 4 and {0, 7} < set(got)


def test_recent_draws_from_the_newest_quarter():
  buffer = filled(items(0, range(8)), items(0, [8, 9, 10]), capacity=8)
  seen = set(values(draw(buffer, 50, "recent", stage=1)))
  assert seen == {9, 10}


def test_touch_counts_real_rows_alone():
  buffer = filled(items(0, [1, 2]), items(1, [3, 4]))
  buffer = memory.touch(buffer, draw(buffer, 4))
  buffer = memory.touch(buffer, draw(buffer, 2, stage=0))  # weights 0
  assert buffer.replayed.tolist() == [2, 2, 0]
  assert int(buffer.used.sum()) == 4
  report = memory.report(buffer)
  assert int(report["total_replay_samples"]) == 4
  assert report["buffer_per_domain"].tolist() == [2, 2, 0]


def test_extra_payload_travels_with_its_row():
  rows = batch(0, [1, 2, 3])
  extra = {"logits": rows.obs["x"] * 10}
  buffer = filled(memory.Items(rows, jnp.ones(3, bool), extra))
  mem = draw(buffer, 5, stage=1)
  np.testing.assert_array_equal(mem.extra["logits"], mem.rows.obs["x"] * 10)


def test_unknown_strategy():
  with pytest.raises(ValueError, match="did you mean 'recent'"):
    memory.strategy("recnet")
