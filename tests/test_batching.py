"""Advantages, rows and padding, by hand."""

import numpy as np
import pytest

from jax_cl import batching
from jax_cl.types import Decision, Episode, TaskSpec, Verdict

SPEC = {"x": ((2,), np.float32), "mask": ((3,), np.bool_)}


def _episode(reward, group, n=1, task="0", failure=""):
  obs = {"x": np.full(2, reward, np.float32), "mask": np.ones(3, bool)}
  return Episode(
    task=TaskSpec("airline", task, "train"),
    turns=(),
    verdict=Verdict(reward, {}, ()),
    termination="user_stop",
    decisions=tuple(Decision(obs, i, -0.5) for i in range(n)),
    info={"group": group},
    failure=failure,
  )


def _rows(episodes, adv):
  return batching.rows(
    episodes, adv, {"airline": 1}, {("airline", "0"): 4}, SPEC
  )


def test_group_advantage_is_reward_minus_the_groups_mean():
  episodes = [_episode(r, "a") for r in (1.0, 0.0, 0.0, 1.0)]
  adv = batching.advantages(episodes)
  np.testing.assert_array_equal(adv, [0.5, -0.5, -0.5, 0.5])


def test_other_baselines_by_hand():
  episodes = [_episode(r, "a") for r in (1.0, 0.0, 0.0, 0.0)]
  # Mean 1/4; squares .5625 + 3 * .0625 = .75 over n - 1 = 3: sd .5.
  np.testing.assert_allclose(
    batching.advantages(episodes, "group_sd"),
    np.array([0.75, -0.25, -0.25, -0.25]) / 0.5001,
    rtol=1e-6,
  )
  # The others' means: 0 for the first, 1/3 for the rest.
  np.testing.assert_allclose(
    batching.advantages(episodes, "leave_one_out"),
    [1, -1 / 3, -1 / 3, -1 / 3],
    rtol=1e-6,
  )


@pytest.mark.parametrize("baseline", ["group", "group_sd", "leave_one_out"])
def test_a_group_of_which_one_is_left_teaches_nothing(baseline):
  episodes = [_episode(1.0, "a"), _episode(0.0, "a", failure="TimeoutError")]
  assert np.isnan(batching.advantages(episodes, baseline)).all()


def test_groups_without_variance_and_failures_are_left_out():
  episodes = [
    _episode(1.0, "all pass"),
    _episode(1.0, "all pass"),
    _episode(1.0, "mixed"),
    _episode(0.0, "mixed"),
    _episode(0.0, "mixed", failure="TimeoutError"),
  ]
  adv = batching.advantages(episodes)
  # The failed one moves no mean: 1/2, not 1/3.
  np.testing.assert_array_equal(adv[2:4], [0.5, -0.5])
  assert np.isnan(adv[[0, 1, 4]]).all()


def test_running_baseline_keeps_every_episode_that_did_not_fail():
  episodes = [_episode(1.0, 0), _episode(0.0, 1)]
  adv = batching.advantages(episodes, "running", running=0.25)
  np.testing.assert_array_equal(adv, [0.75, -0.25])


def test_an_unknown_baseline_names_the_known_ones():
  with pytest.raises(ValueError, match="'mean'.*known: .*'leave_one_out'"):
    batching.advantages([], "mean")


def test_a_row_a_decision_of_the_episodes_that_count():
  episodes = [_episode(1.0, 0, n=3), _episode(0.0, 0, n=2)]
  rows = _rows(episodes, [0.5, np.nan])
  np.testing.assert_array_equal(rows.action[:, 0], [0, 1, 2])
  np.testing.assert_array_equal(rows.adv, [0.5] * 3)
  np.testing.assert_array_equal(rows.domain, [1] * 3)
  np.testing.assert_array_equal(rows.task, [4] * 3)
  np.testing.assert_array_equal(rows.reward, [1.0] * 3)
  np.testing.assert_array_equal(rows.logp_old, np.full((3, 1), -0.5))


def test_padding_weighs_nothing_and_keeps_a_legal_option():
  batch = batching.fit(_rows([_episode(1.0, 0, n=3)], [1.0]), 5, seed=0)
  np.testing.assert_array_equal(batch.weight, [1, 1, 1, 0, 0])
  np.testing.assert_array_equal(batch.mask[:, 0], [1, 1, 1, 0, 0])
  np.testing.assert_array_equal(batch.task, [4, 4, 4, -1, -1])
  assert batch.obs["mask"].any(axis=1).all()


def test_no_episode_still_makes_a_batch():
  batch = batching.fit(_rows([], []), 4, seed=0)
  assert batch.weight.sum() == 0 and batch.obs["x"].shape == (4, 2)


def test_too_many_rows_are_sampled_without_replacement_and_by_seed():
  rows = _rows([_episode(1.0, 0, n=50)], [1.0])
  a, b, c = (batching.fit(rows, 10, seed=s).action[:, 0] for s in (0, 0, 1))
  assert len(set(a.tolist())) == 10
  np.testing.assert_array_equal(a, b)
  assert (a != c).any()


def test_a_sample_keeps_the_mean_over_rows():
  rows = _rows([_episode(1.0, 0, n=40)], [1.0])
  means = [batching.fit(rows, 8, s).action.mean() for s in range(400)]
  # sd of one mean is 11.5 / sqrt(8) * sqrt(32/39) = 3.7; of 400, .18
  assert abs(np.mean(means) - 19.5) < 0.75
