"""Killed at any moment, a run ends with the same logs, bit for bit."""

import json
import pathlib
import subprocess
import sys

import pytest

import jax_cl

# One worker makes what these share.
pytestmark = pytest.mark.xdist_group("resume")

ROOT = pathlib.Path(jax_cl.__file__).parents[1]
SMALL = (
  "--config=configs/blobs.py",
  "--config.cl.name=replay+online_ewc",
  "--config.stream.epochs=1",
  "--config.stream.pg_steps=3",
  "--config.stream.blobs.train=40",
  "--config.stream.blobs.test=12",
  "--config.stream.blobs.val=8",
  "--config.train.batch_size=16",
  "--config.train.save_interval=2",
  "--config.log_interval=4",
)
FILES = ("metrics.jsonl", "episodes.jsonl", "run.json", "results.json")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """The folder with both runs, and how each process ended."""
  folder = tmp_path_factory.mktemp("killed")
  done = subprocess.run(
    [sys.executable, "tests/killed.py", str(folder), *SMALL],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return folder, json.loads(done.stdout.splitlines()[-1])


def test_every_process_ended_as_it_should(runs):
  _, ends = runs
  assert ends.pop("whole") == ends.pop("finished") == 0
  assert ends.pop("Ctrl-C in an update") == 130
  assert len(ends) == 11 and set(ends.values()) == {-9}


@pytest.mark.parametrize("name", FILES)
def test_killed_and_whole_run_are_the_same_to_the_byte(runs, name):
  whole, killed = (runs[0] / k / name for k in ("whole", "killed"))
  assert whole.stat().st_size > 100
  assert whole.read_bytes() == killed.read_bytes()


@pytest.mark.slow
def test_methods_of_every_kind_go_on_after_a_kill(tmp_path):
  """No state, a bank of adapters; the run above has a memory and a Fisher."""
  names = ("sequential", "lora")
  done = subprocess.run(
    [sys.executable, "tests/killed.py", str(tmp_path),
     f"--methods={','.join(names)}", *SMALL],
    cwd=ROOT, capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  for name, ends in json.loads(done.stdout.splitlines()[-1]).items():
    assert list(ends.values()) == [0, -9, -9, 0], (name, ends)
    for file in FILES:
      whole, killed = (tmp_path / name / k / file for k in ("whole", "killed"))
      assert whole.read_bytes() == killed.read_bytes(), (name, file)
    told = json.loads((tmp_path / name / "whole/run.json").read_text())
    assert told["stage_at_test"] == (name == "lora")


def test_metrics_hold_no_wall_times(runs):
  text = (runs[0] / "whole" / "metrics.jsonl").read_text()
  assert "second" not in text and "time" not in text


def test_only_the_stages_are_kept(runs):
  kept = sorted(p.name for p in (runs[0] / "killed/checkpoints").iterdir())
  assert kept == [f"stage00{k}-step000000" for k in range(4)]


def test_ctrl_c_says_how_to_go_on(runs):
  text = (runs[0] / "killed.out").read_text()
  assert "Interrupted; saved in" in text and "The same command goes on" in text


def test_evaluate_reproduces_a_row_in_a_fresh_process(runs):
  done = subprocess.run(
    [sys.executable, "-m", "jax_cl.evaluate", "--stage=1",
     f"--workdir={runs[0] / 'whole'}"],
    cwd=ROOT, capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  assert "identical to the log: 36 episodes of row 2 of R" in done.stdout


AGENT = (
  "--config=configs/smoke.py",
  "--config.train.batch_size=64",
  "--config.stream.clone_steps=3",
  "--config.stream.pg_steps=3",
)
POLICY = (
  "--config=configs/grpo_smoke.py",
  "--config.agent.args.model_args.layers=1",
  "--config.agent.args.model_args.width=32",
  "--config.stream.length=256",
  "--config.stream.max_new_tokens=4",
  # Episodes begin after cloning: there must be steps left for later kills.
  "--config.stream.clone_steps=6",
  "--config.stream.pg_steps=8",
)


@pytest.mark.slow
@pytest.mark.parametrize(
  "options, files",
  [(AGENT, FILES), (POLICY, (*FILES, "trajectories.jsonl"))],
  ids=["agent", "policy"],
)
def test_killed_tau2_runs_end_the_same(tmp_path, options, files):
  """Small pipelines of both layers, under the same kills."""
  common = (
    "--config.cl.name=replay",
    "--config.stream.max_tasks_per_domain=2",
    "--config.stream.max_eval_tasks=2",
    "--config.train.save_interval=2",
  )
  done = subprocess.run(
    [sys.executable, "tests/killed.py", str(tmp_path), *options, *common],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  ends = json.loads(done.stdout.splitlines()[-1])
  # In so short a stream nothing is left to remove when that kill's turn comes.
  lived = {k for k, v in ends.items() if v != -9}
  assert lived <= {
    "whole", "Ctrl-C in an update", "removing old checkpoints", "finished",
  }  # fmt: skip
  for name in files:
    whole, killed = (tmp_path / k / name for k in ("whole", "killed"))
    assert whole.stat().st_size > 100
    assert whole.read_bytes() == killed.read_bytes()
