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


# ------------------------------------------- reservoir, priorities, statistics


def test_a_reservoir_keeps_every_row_alike():
  """300 reservoirs of 4 slots see 12 rows in batches of 5: chi-square."""

  def fill(key):
    buffer = memory.init(items(0, [0.0]), TRAINS, 4)
    for i, values_ in enumerate(([0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11])):
      k = jax.random.fold_in(key, i)
      buffer = memory.reservoir(buffer, items(0, values_), jnp.int32(i), k)
    return buffer.rows.obs["x"][0, :, 0], buffer.added[0], buffer.id[0]

  keys = jax.random.split(jax.random.key(0), 300)
  x, added, id_ = jax.jit(jax.vmap(fill))(keys)
  assert (added == 12).all() and (id_ == x).all()
  assert all(len(set(one)) == 4 for one in x.tolist())  # no row twice
  counts = np.bincount(np.asarray(x, int).ravel(), minlength=12)
  chi2 = np.sum((counts - 100) ** 2 / 100)
  assert chi2 < 31.3  # 11 degrees of freedom, p = .001


def test_a_reservoir_takes_all_while_there_is_room():
  add = jax.jit(memory.reservoir)
  one = items([0, 1, 0], [1, 2, 3], keep=[True, True, False])
  buffer = memory.init(one, TRAINS, 4)
  buffer = add(buffer, one, jnp.int32(0), jax.random.key(0))
  assert held(buffer, 0) == [1] and held(buffer, 1) == [2]
  assert buffer.added.tolist() == [1, 1, 0]


def with_priority(value, priority, capacity=8):
  one = items(0, value)._replace(priority=jnp.asarray(priority, jnp.float32))
  return filled(one, capacity=capacity)


def test_surprise_takes_the_highest_loss():
  buffer = with_priority(range(6), [0.1, 3.0, 0.2, 2.0, 0.3, 2.5])
  assert sorted(values(draw(buffer, 3, "surprise", stage=1))) == [1, 3, 5]


def test_importance_draws_in_proportion_to_the_root_of_the_loss():
  # Roots 1, 2, 3, 0, 4, 0 of a sum of 10; 7 slots make two blocks of 3 and 1.
  buffer = with_priority(range(6), [1, 4, 9, 0, 16, 0], capacity=7)
  got = np.asarray(values(draw(buffer, 5000, "importance", stage=1)), int)
  counts = np.bincount(got, minlength=7)
  want = np.array([1, 2, 3, 4]) * 500
  chi2 = np.sum((counts[[0, 1, 2, 4]] - want) ** 2 / want)
  assert chi2 < 16.3  # 3 degrees of freedom, p = .001
  assert counts[3] + counts[5] < 10 and counts[6] == 0  # 6 is empty


def test_importance_keeps_domains_apart():
  one = items([0, 0, 1, 1], [1, 2, 3, 4])
  one = one._replace(priority=jnp.array([0.0, 1.0, 9.0, 0.0]))
  mem = draw(filled(one), 400, "importance")
  got = np.bincount(np.asarray(values(mem), int), minlength=5)
  assert got[2] > 190 and got[3] > 190 and got.sum() == 400


def test_distinct_is_without_replacement_and_uniform():
  buffer = filled(items(0, range(6)), capacity=8)
  four = lambda key: memory.sample(buffer, key, 4, memory.distinct)
  keys = jax.random.split(jax.random.key(0), 300)
  x = jax.jit(jax.vmap(four))(keys).rows.obs["x"][:, 0, :, 0]
  assert all(len(set(got)) == 4 for got in x.tolist())
  counts = np.bincount(np.asarray(x, int).ravel(), minlength=6)
  assert np.sum((counts - 200) ** 2 / 200) < 20.5  # 5 degrees, p = .001


@pytest.mark.parametrize("capacity", [50, 49, 7])
def test_the_best_are_the_best_of_all_blocks(capacity):
  rng = np.random.default_rng(capacity)
  for score in (rng.random(capacity), rng.integers(0, 3, capacity)):
    buffer = filled(items(0, range(capacity), reward=score), capacity=capacity)
    got = np.asarray(values(draw(buffer, 6, "high_reward", stage=1)), int)
    np.testing.assert_allclose(score[got], np.sort(score)[::-1][:6])
    assert len(set(got)) == 6


def test_touch_takes_new_priorities_of_what_was_replayed():
  buffer = with_priority(range(4), [1.0, 1, 1, 1], capacity=4)
  place = jnp.zeros((1, 3), jnp.int32), jnp.array([[0, 2, 3]], jnp.int32)
  rows = jax.tree.map(lambda x: x[place], buffer.rows)
  mem = memory.Sample(rows, (), *place)
  aux = {
    "priority": jnp.array([[5.0, 6.0, 7.0]]),
    "replayed": jnp.array([[True, False, True]]),
  }
  buffer = memory.touch(buffer, mem, aux)
  assert buffer.priority[0].tolist() == [5, 1, 1, 7]
  assert buffer.used[0].tolist() == [1, 0, 0, 1]
  assert buffer.replayed.tolist() == [2, 0, 0]


def test_rows_of_each_domain_apart():
  buffer = filled(items(0, [1, 2]), items(2, [5, 6]))
  on = jnp.array([True, True, False])
  mem = memory.sample_each(buffer, jax.random.key(0), 3, on)
  assert mem.rows.weight.tolist() == [[1, 1, 1], [0, 0, 0], [0, 0, 0]]
  assert set(np.asarray(mem.rows.obs["x"])[0, :, 0].tolist()) <= {1, 2}
  assert mem.domain.tolist() == [[0] * 3, [1] * 3, [2] * 3]


def test_statistics_a_domain():
  buffer = filled(
    items(0, [1, 2, 3], reward=[0.2, 1.0, 0.9]),
    items(1, [4], reward=[-1.0]),
  )
  report = jax.jit(memory.report)(buffer)
  close = lambda name, want: np.testing.assert_allclose(report[name], want)
  close("buffer_per_domain", [3, 1, 0])
  close("buffer_reward_mean", np.array([0.7, -1.0, 0.0], np.float32))
  close("buffer_reward_max", [1.0, -1.0, 0.0])
  close("buffer_reward_min", np.array([0.2, -1.0, 0.0], np.float32))
  close("buffer_high_reward", [2, 0, 0])


# ------------------------------------------------ JSON Lines, and what it costs


def test_json_lines_bring_the_buffer_back_bit_for_bit(tmp_path):
  rows = batch([0, 1, 0], [1, 2, 1 / 3], reward=[0.1, 1e-9, 0.7])
  rows.obs["half"] = jnp.array([[0.1, -1e4]] * 3, jnp.float16)
  rows.obs["mask"] = jnp.array([[True, False]] * 3)
  extra = {"z": jnp.array([[-1e9], [2 / 3], [0.0]])}
  one = memory.Items(rows, jnp.ones(3, bool), extra, jnp.array([0.3, 2.0, 0.1]))
  buffer = filled(one, one, capacity=3)
  buffer = memory.touch(buffer, memory.sample(buffer, jax.random.key(0), 4))
  memory.save_jsonl(buffer, tmp_path / "buffer.jsonl")
  lines = (tmp_path / "buffer.jsonl").read_text().splitlines()
  assert len(lines) == 1 + 3 + 2  # a head, three of domain 0, two of domain 1
  empty = memory.init(one, TRAINS, 3)
  again = memory.load_jsonl(empty, tmp_path / "buffer.jsonl")
  for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(buffer), strict=True):
    assert a.dtype == b.dtype and np.array_equal(a, b)


def test_a_file_of_another_buffer_is_refused(tmp_path):
  path = tmp_path / "buffer.jsonl"
  memory.save_jsonl(filled(items(0, [1])), path)
  with pytest.raises(ValueError, match="3 domains of 4 slots, this .* 3 of 5"):
    memory.load_jsonl(memory.init(items(0, [1]), TRAINS, 5), path)
  other = memory.Items(batch(0, [1]), jnp.ones(1, bool), {"z": jnp.ones(1)})
  with pytest.raises(ValueError, match="of another agent or method"):
    memory.load_jsonl(memory.init(other, TRAINS, 4), path)


@pytest.mark.parametrize("strategy", memory.STRATEGIES)
def test_a_draw_never_handles_the_whole_payload(strategy):
  """No step of the program makes something of the payload's size."""
  rows = batch(0, [1.0])._replace(obs={"x": jnp.zeros((1, 1000))})
  buffer = memory.init(memory.Items(rows, jnp.ones(1, bool)), TRAINS, 64)
  payload = buffer.rows.obs["x"].size
  choose = memory.strategy(strategy)
  draw_ = lambda b, k: memory.sample(b, k, 8, choose)
  program = jax.make_jaxpr(draw_)(buffer, jax.random.key(0))
  sizes = [
    v.aval.size
    for line in program.jaxpr.eqns
    for v in line.outvars
    if hasattr(v.aval, "size")
  ]
  assert 8 * 1000 <= max(sizes) < payload / 2
