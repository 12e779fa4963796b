import dataclasses
import functools
import json
import re
import shutil

import jax
import numpy as np
import pytest
import small

from jax_cl import build, checkpoint, logs, metrics, train
from jax_cl.problems import supervised
from jax_cl.types import Episode, TaskSpec, Verdict


def rows(workdir, name):
  return [json.loads(x) for x in (workdir / name).read_text().splitlines()]


@pytest.fixture
def copied(finished, tmp_path):
  """A workdir like `finished`, to be spoilt."""
  return shutil.copytree(finished[0], tmp_path / "run")


def replaying():
  config = small.config()
  config.cl.name = "replay"
  return config


def test_the_matrix_has_a_row_a_stage_and_the_start(finished):
  workdir, results = finished
  assert np.shape(results["test"]["matrix"]) == (4, 3)
  assert results["domains"] == ["perm0", "perm1", "perm2"]
  assert metrics.recompute(workdir) == results  # from the raw logs alone


def test_the_start_row_comes_before_any_training(finished):
  episodes = rows(finished[0], "episodes.jsonl")
  first = [r for r in episodes if r["stage"] == -1]
  assert episodes[: len(first)] == first
  assert {r["split"] for r in first} == {"val", "test"}
  assert all(r["step"] == 0 for r in first)
  assert checkpoint.places(finished[0])[0] == (0, 0)


def test_val_is_read_before_test_in_every_stage(finished):
  rows_ = [
    r for r in rows(finished[0], "metrics.jsonl") if r["phase"] == "eval"
  ]
  for k in range(-1, 3):
    splits = [r["split"] for r in rows_ if r["stage"] == k]
    assert splits == ["val"] * 3 + ["test"] * 3


def test_interval_rows_are_means_over_their_steps(finished):
  train_rows = [
    r for r in rows(finished[0], "metrics.jsonl") if r["phase"] == "train"
  ]
  assert [r["step"] for r in train_rows] == [4, 6, 10, 12, 16, 18]
  assert all(np.isfinite(r["loss"]) for r in train_rows)
  # int(16 * .2) = 3 of 16, once there are 20 rows of an earlier domain
  assert [r["replay_ratio"] for r in train_rows] == [0, 0] + [3 / 16] * 4


def test_a_stage_row_holds_metrics_and_replay_statistics(finished):
  stages = [
    r for r in rows(finished[0], "metrics.jsonl") if r["phase"] == "stage"
  ]
  assert [r["total_replay_samples"] for r in stages] == [0, 18, 36]
  last = stages[-1]
  assert sum(last["replay_samples_per_domain"].values()) == 36
  assert last["replay_samples_per_domain"]["perm2"] == 0
  assert last["buffer_per_domain"] == {"perm0": 40, "perm1": 40, "perm2": 40}
  assert last["metrics"]["forgetting"] is not None


def test_the_same_command_again_changes_nothing(copied, finished, capsys):
  before = {p: p.read_bytes() for p in copied.glob("*.jsonl")}
  results = train.run(replaying().lock(), copied)
  assert results == finished[1]
  assert before == {p: p.read_bytes() for p in before}
  assert "Resuming" in capsys.readouterr().out


def test_a_stage_learns_from_its_own_domains_only():
  asked = []

  class Spy(supervised.Supervised):
    def demos(self, stage):
      asked.append(stage)
      return super().demos(stage)

  config = small.config()
  original, supervised.Supervised = supervised.Supervised, Spy
  try:
    what = train.build.problem(config)
  finally:
    supervised.Supervised = original
  for k in range(3):
    assert set(what.demos(k).domain.tolist()) == {k}
  assert asked == [0, 1, 2]


def test_a_workdir_of_another_run_is_refused(copied):
  config = replaying()
  config.optim.lr = 0.5
  with pytest.raises(ValueError, match=r"another run \(optim.lr: 0.1 there"):
    train.run(config, copied)


def test_what_is_only_shown_may_change(copied):
  config = replaying()
  config.verbose = True
  train.run(config, copied)


def test_a_folder_with_other_files_is_refused(tmp_path):
  (tmp_path / "thesis.tex").touch()
  with pytest.raises(ValueError, match="holds other files"):
    train.run(small.config(), tmp_path)


def test_a_workdir_in_use_is_refused(copied):
  config = json.loads(replaying().to_json())
  held = logs.Workdir(copied, config)
  with pytest.raises(ValueError, match="in use by another process"):
    train.run(replaying(), copied)
  held.close()


def test_other_data_are_refused(copied, monkeypatch):
  make = supervised.make
  other = functools.wraps(make)(lambda **kw: make(**kw | {"seed": 9}))
  monkeypatch.setattr(supervised, "make", other)
  with pytest.raises(ValueError, match="fingerprint"):
    train.run(replaying(), copied)


def test_a_changed_log_is_refused(copied):
  (copied / "metrics.jsonl").write_text("")
  with pytest.raises(ValueError, match="the log was changed"):
    train.run(replaying(), copied)


def test_nan_stops_the_run_with_the_step_named(tmp_path):
  config = small.config()
  config.optim.lr = 1e30
  with pytest.raises(FloatingPointError, match=r"stage 0 \(perm0\), step \d"):
    train.run(config, tmp_path / "run")
  assert checkpoint.places(tmp_path / "run") == [(0, 0)]  # nothing spoilt


@pytest.mark.parametrize("fresh", [True, False])
def test_a_fresh_stage_starts_from_a_new_learner(fresh, tmp_path, monkeypatch):
  """The first domain twice, its rows in order: the second learner repeats."""
  make = supervised.make

  def twice(**options):
    what = make(**options)
    again = dataclasses.replace(what.stages[0], fresh=fresh)
    what.stages = (what.stages[0], again)
    return what

  monkeypatch.setattr(supervised, "make", functools.wraps(make)(twice))
  config = small.config()
  config.train.shuffle = False
  train.run(config, tmp_path / "run")
  losses = [
    [r["loss"] for r in rows(tmp_path / "run", "metrics.jsonl")
     if r["phase"] == "train" and r["stage"] == k]
    for k in range(2)
  ]  # fmt: skip
  assert (losses[0] == losses[1]) == fresh


def test_interleaved_demonstrations_are_remembered_once(tmp_path, monkeypatch):
  """Two epochs of 3 steps, in 3 visits of 2: a visit goes on in its epoch."""
  make = supervised.make

  def interleaved(**options):
    what = make(**options)
    what.stages = 3 * tuple(
      dataclasses.replace(s, steps=2, clone_steps=2) for s in what.stages[:2]
    )
    return what

  monkeypatch.setattr(supervised, "make", functools.wraps(make)(interleaved))
  config = replaying()
  config.stream.n_domains = 2
  config.cl.args.replay.min_buffer_size = 1000  # nothing is drawn
  train.run(config, tmp_path / "run")
  stages = [
    r["buffer_per_domain"]
    for r in rows(tmp_path / "run", "metrics.jsonl")
    if r["phase"] == "stage"
  ]
  assert [s["perm0"] for s in stages] == [32, 32, 40, 40, 40, 40]
  assert [s["perm1"] for s in stages] == [0, 32, 32, 40, 40, 40]


def test_joint_is_one_stage(tmp_path, capsys):
  config = small.config()
  config.stream.curriculum = "joint"
  config.cl.name = "online_ewc"
  config.eval.interval = 4
  results = train.run(config, tmp_path / "run")
  assert np.shape(results["test"]["matrix"]) == (2, 3)
  out = capsys.readouterr().out
  assert re.search(r"\[EVAL\] Task 0 Step 4 \| Reward: 0\.\d{3}", out)
  assert results["test"]["metrics"]["forgetting"] is None


def test_trackers_mirror_the_scalars(tmp_path):
  config = small.config()
  config.stream.n_domains = 1
  config.writers = ("tensorboard",)
  train.run(config, tmp_path / "run")
  assert any((tmp_path / "run" / "tensorboard").iterdir())


def test_policy_gradient_after_cloning(tmp_path):
  config = replaying()
  config.stream.pg_steps = 4
  config.stream.n_domains = 2
  train.run(config, tmp_path / "run")
  guesses = [
    r for r in rows(tmp_path / "run", "episodes.jsonl") if r["phase"] == "train"
  ]
  assert len(guesses) == 2 * 4 * 16 and {r["stage"] for r in guesses} == {0, 1}
  steps = [
    r for r in rows(tmp_path / "run", "metrics.jsonl") if r["phase"] == "train"
  ]
  assert [("reward" in r) for r in steps] == [False, True, True] * 2
  last = rows(tmp_path / "run", "metrics.jsonl")[-1]
  # 40 demonstrations, and guesses that were right
  right = sum(r["reward"] for r in guesses if r["stage"] == 0)
  assert last["buffer_per_domain"]["perm0"] == 40 + right


def test_the_jsonl_logs_end_where_the_checkpoint_says(finished):
  host = checkpoint.host(finished[0], 3, 0)
  for name, length in host["logs"].items():
    assert (finished[0] / name).stat().st_size == length
  assert host["pending"] == []


def test_a_method_that_follows_val_sees_all_seen_domains_in_mid_stage(tmp_path):
  config = small.config()
  config.cl.name, config.eval.interval = "adaptive_replay", 3
  config.cl.args.adaptive_replay.threshold = -1.0  # every look raises it
  train.run(config.lock(), tmp_path)
  looks = [r for r in rows(tmp_path, "metrics.jsonl") if r["phase"] == "eval"]
  middle = [
    r["domain"] for r in looks if r["split"] == "val" and r["step"] == 9
  ]
  assert middle == ["perm0", "perm1"]
  stages = [r for r in rows(tmp_path, "metrics.jsonl") if r["phase"] == "stage"]
  # Two looks a stage; in the first stage no domain is an earlier one.
  assert [round(r["replay_ratio"], 3) for r in stages] == [0.2, 0.4, 0.5]
  config.eval.val_trials = 0
  with pytest.raises(ValueError, match="follows the scores on val"):
    train.run(config.lock(), tmp_path / "blind")


def test_scalars_of_a_steps_episodes_by_hand():
  def episode(reward, group, failure="", **figures):
    return Episode(
      TaskSpec("mock", "0", "train"), (), Verdict(reward, {}, ()), "user_stop",
      info={"group": group, "figures": figures}, failure=failure,
    )  # fmt: skip

  out = train._summary([
    episode(1.0, 0, valid=1.0), episode(1.0, 0, valid=0.5),
    episode(0.0, 1), episode(0.0, 1, failure="TimeoutError"),
    episode(1.0, 2), episode(0.0, 2, hits=0.25),
  ])  # fmt: skip
  assert out["failures"] == 1 and out["reward"] == out["pass"] == 0.6
  assert out["reward_max"] == 1
  assert out["reward_sd"] == pytest.approx(0.24**0.5)  # .6 * .4
  # Group 1 is what the failed one left of it.
  counts = [out[f"groups{x}"] for x in ("", "_all_pass", "_all_fail")]
  assert counts == [3, 1, 1]
  assert (out["valid"], out["hits"]) == (0.75, 0.25)  # of those that have it
  assert train._summary([]) == {}


def test_wall_times_are_split_and_stand_apart(finished):
  steps = [r for r in rows(finished[0], "timing.jsonl") if r["what"] == "steps"]
  train_rows = [
    r for r in rows(finished[0], "metrics.jsonl") if r["phase"] == "train"
  ]
  assert [r["step"] for r in steps] == [r["step"] for r in train_rows]
  assert all(r["update_s"] > 0 <= r["rollout_s"] for r in steps)


@pytest.mark.parametrize(
  "demos, times", [("first", {1, 2, 3}), ("last", {4, 5, 6}), ("none", {0})]
)
def test_a_method_says_which_epoch_it_remembers(
  demos, times, tmp_path, monkeypatch
):
  """A stage is two epochs of three steps; slots that hold nothing say 0."""
  make = build.method
  change = lambda *args: make(*args)._replace(demos=demos)
  monkeypatch.setattr(build, "method", change)
  config = small.config()
  config.cl.name = "replay"
  train.run(config.lock(), tmp_path)
  what = build.problem(config)
  method = build.method(config, len(what.domains), build.trains(what))
  like, _ = build.steps(config, what, method).init(jax.random.key(0))
  last = checkpoint.places(tmp_path)[-1]
  buffer = checkpoint.restore(tmp_path, *last, like).buffer
  assert buffer.added.tolist() == [40 * (demos != "none")] * 3
  assert set(buffer.time[0, :40].tolist()) == times


def test_kl_to_the_ends_of_earlier_stages(finished, tmp_path, monkeypatch):
  """Nothing else changes, and a run that is gone on with ends the same."""
  config = replaying()
  config.eval.kl_rows = 4
  train.run(config.lock(), tmp_path / "whole")
  plain = rows(finished[0], "metrics.jsonl")
  found = rows(tmp_path / "whole", "metrics.jsonl")
  for old, new in zip(plain, found, strict=True):
    kl = {k: new.pop(k) for k in list(new) if k.startswith("kl_")}
    assert new == old
    earlier = new["stage"] if new["phase"] == "train" else 0
    names = {f"kl_perm{i}" for i in range(earlier)}
    assert kl.keys() == (names | {"kl_earlier"} if names else set())
    assert all(v > 0 for v in kl.values())

  learn = train._Run.learn

  def stopping(self, k, n, *args):
    learn(self, k, n, *args)
    if (k, n) == (2, 3):
      raise InterruptedError

  with monkeypatch.context() as m:
    m.setattr(train._Run, "learn", stopping)
    with pytest.raises(InterruptedError):
      train.run(config, tmp_path / "stopped")
  train.run(config, tmp_path / "stopped")
  log = lambda w: (tmp_path / w / "metrics.jsonl").read_bytes()
  assert log("whole") == log("stopped")
