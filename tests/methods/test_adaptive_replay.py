import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import NEW

from jax_cl import memory
from jax_cl.methods import adaptive_replay, base

TRAINS = np.eye(3, dtype=bool)


def make(**options):
  given = {"batch_size": 10, "n_domains": 3, "trains": TRAINS}
  return adaptive_replay.make(**{**given, **options})


def path(method, observed):
  """The ratio after each (val row, stage)."""
  cl = method.init((), 3, jax.random.key(0))
  out = []
  for row, stage in observed:
    cl = method.observe(cl, jnp.array(row, jnp.float32), jnp.int32(stage))
    out.append(round(float(cl["ratio"]), 6))
  return out


def test_the_ratio_follows_the_drop_on_val():
  observed = [
    ([0.8, 0.1, 0.0], 0),  # the first domain: nothing is an earlier one
    ([0.6, 0.5, 0.0], 1),  # .8 -> .6, a drop of .2 > .1: up
    ([0.5, 0.6, 0.3], 2),  # .8 -> .5: up
    ([0.9, 0.6, 0.3], 2),  # all at their best: down
    ([0.81, 0.55, 0.3], 2),  # drops of .09 and .05: not more than .1, down
    ([0.9, 0.3, 0.9], 2),  # .6 -> .3 in the second alone: up
  ]
  assert path(make(), observed) == [0.2, 0.3, 0.4, 0.3, 0.2, 0.3]


def test_it_stays_between_its_bounds():
  bad, good = ([0.0, 0.5, 0], 1), ([1.0, 0.5, 0], 1)
  observed = [([1.0, 0, 0], 0)] + [bad] * 5 + [good] * 6
  want = [0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1]
  assert path(make(), observed) == want


def test_scores_of_later_domains_and_missing_ones_move_nothing():
  nan = float("nan")
  observed = [
    ([0.5, 0.9, 0.9], 0),
    ([nan, 0.1, 0.2], 1),  # the earlier domain was not evaluated
    ([nan, nan, nan], 1),
    ([0.5, 0.1, 0.1], 1),  # the third fell, but nothing was learned of it
  ]
  assert path(make(), observed) == [0.2, 0.2, 0.2, 0.1]


def filled():
  items = memory.Items(NEW, jnp.ones(4, bool))
  buffer = memory.init(items, TRAINS, 32)
  for step in range(6):
    buffer = memory.add(buffer, items, jnp.int32(step))
  return buffer


@pytest.mark.parametrize("ratio, used", [(0.1, 1), (0.3, 3), (0.5, 5)])
def test_rows_beyond_the_ratio_weigh_nothing(ratio, used):
  method = make()
  cl = {**method.init((), 3, None), "ratio": jnp.float32(ratio)}
  mem = method.draw(cl, filled(), jnp.int32(1), jax.random.key(1))
  assert mem.rows.weight.shape == (1, 5)  # int(10 * .5), always
  assert mem.rows.weight[0].tolist() == [1.0] * used + [0.0] * (5 - used)
  assert method.report(cl, filled())["replay_ratio"] == jnp.float32(ratio)


def test_tasks_are_rolled_out_again_by_the_ratio_of_now():
  method = make(kind="replay_env", prompts=8)
  cl = {**method.init((), 3, None), "ratio": jnp.float32(0.25)}
  share = method.mix(cl, jnp.int32(2))
  np.testing.assert_allclose(share, [0.125, 0.125, 1.0])
  assert make().mix(cl, jnp.int32(2)) is None


def test_ratio_0_is_sequential_and_bounds_are_checked():
  assert make(**adaptive_replay.OFF) == base.Method()
  with pytest.raises(ValueError, match="got 0.3, 0.2, 0.5"):
    make(min_ratio=0.3)
