"""Many hosts: shares of work, mistakes, and one run on two processes."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

import jax_cl
from jax_cl import build, main, sharding

ROOT = pathlib.Path(jax_cl.__file__).parents[1]
SMALL = (
  "--config=configs/grpo_smoke.py",
  "--config.agent.args.model_args.layers=1",
  "--config.agent.args.model_args.width=32",
  "--config.stream.length=256",
  "--config.stream.max_new_tokens=4",
  "--config.stream.max_tasks_per_domain=2",
  "--config.stream.max_eval_tasks=2",
  "--config.stream.clone_steps=2",
  "--config.stream.references=False",
  "--config.train.devices=0",
)


def pretend(monkeypatch, process, processes):
  monkeypatch.setattr(jax, "process_count", lambda: processes)
  monkeypatch.setattr(jax, "process_index", lambda: process)


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_each_does_a_share_and_all_get_everything(processes, monkeypatch):
  jobs, done = list(range(7)), []

  def square(some):
    done.append(some)
    return [x**2 for x in some]

  # What the others would send: their own shares, of the same jobs.
  others = [[x**2 for x in jobs[i::processes]] for i in range(processes)]
  monkeypatch.setattr(sharding, "_gather", lambda mine: others)
  for process in range(processes):
    pretend(monkeypatch, process, processes)
    assert sharding.share(square, jobs) == [x**2 for x in jobs]
  assert sorted(x for some in done for x in some) == jobs  # nothing twice


def test_only_the_first_writes(monkeypatch):
  assert sharding.first() and sharding.alone()
  pretend(monkeypatch, 1, 2)
  assert not sharding.first() and not sharding.alone()


def test_all_devices_of_all_hosts_take_part(monkeypatch):
  pretend(monkeypatch, 0, 2)
  with pytest.raises(ValueError, match="train.devices to 0"):
    sharding.layout(4)


def test_agents_that_act_on_one_host_are_refused(monkeypatch):
  config, _ = main.parse(["main", f"--config={ROOT}/configs/smoke.py"])
  pretend(monkeypatch, 0, 2)
  with pytest.raises(ValueError, match="act on one host"):
    build.check(config)


def test_a_coordinator_needs_to_know_how_many(capsys, monkeypatch):
  monkeypatch.chdir(ROOT)
  command = ["--config=configs/blobs.py", "--coordinator=host:1"]
  assert main.main(command) == 2
  assert "needs --processes=N and --process=I" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_of_two_devices_are_one_of_four(tmp_path):
  def run(devices, *command):
    flags = f"--xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
      [sys.executable, *command, *SMALL],
      env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
      cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]

  run(4, "-m", "jax_cl.main", f"--workdir={tmp_path}/one")
  run(2, "tools/hosts.py", "2", f"--workdir={tmp_path}/two")
  for name in ("episodes.jsonl", "trajectories.jsonl", "results.json"):
    one, two = (tmp_path / k / name for k in ("one", "two"))
    assert one.stat().st_size > 100 and one.read_bytes() == two.read_bytes()
