import pathlib
import sys
import traceback
import types

import pytest
import small

import jax_cl
from jax_cl import build, compare, main

ROOT = pathlib.Path(jax_cl.__file__).parents[1]
CONFIG = "--config=configs/blobs.py"


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
  monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
  "arguments, message",
  [
    ([], "which experiment?"),
    (["--config=configs/blobz.py"], "did you mean 'configs/blobs.py'"),
    (["--config=configz/blobs.py"], "no folder 'configz'"),
    (["--confg=configs/blobs.py"], "Did you mean: config"),
    ([CONFIG, "quick"], "what is 'quick'?"),
    (["--config=configs/replay_example.py:basc"], "did you mean 'basic'"),
    ([CONFIG, "--config.optim.rl=.1"], "unknown key of config.optim 'rl'"),
    ([CONFIG, "--config.cl.nmae=x"], "did you mean 'name'"),
    ([CONFIG, "--config.cl.args.replay.ration=1"], "did you mean 'ratio'"),
    ([CONFIG, "--config.optim.lr=fast"], "lr=fast: must be of type float; the"),
    ([CONFIG, "--config.verbose=maybe"], "verbose=maybe: must be of type bool"),
    ([CONFIG, "--config.seed=1.5"], "--config.seed=1.5: must be of type int"),
    (["--config=configs/blobs.py:tune"], "blobs.py has no variants: leave out"),
    (["--config=README.md"], "README.md is no config: give a Python file"),
    (
      ["--config=configs/smoke.py", "--config.stream.max_eval_tasks=x"],
      "max_eval_tasks=x: must be of type int; the config says 3",
    ),
    (
      ["--config=configs/smoke.py", "--config.stream.max_eval_tasks=0"],
      "stream.max_eval_tasks is 0",
    ),
    ([CONFIG, "--config.cl.name=replya"], "did you mean 'replay'"),
    ([CONFIG, "--config.problem=supervise"], "did you mean 'supervised'"),
    ([CONFIG, "--config.stream.data=blob"], "known: ['blobs', 'digits']"),
    ([CONFIG, "--config.agent.name=scorer"], "use 'mlp'"),
    ([CONFIG, "--config.optim.name=sdg"], "did you mean 'sgd'"),
    ([CONFIG, "--config.writers=tensorbord"], "did you mean 'tensorboard'"),
    ([CONFIG, "--config.log_interval=0"], "config.log_interval is 0"),
    ([CONFIG, "--config.train.devices=3"], "batch_size to 30 or 33, or"),
    ([CONFIG, "--config.train.devices=16"], "there are 8 (cpu): set config."),
  ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
  arguments, message, tmp_path, capsys
):
  assert main.main([*arguments, f"--workdir={tmp_path}/run"]) == 2
  err = capsys.readouterr().err
  assert err.startswith("error: ") and err.count("\n") == 1
  assert message in err


@pytest.mark.parametrize(
  "workdir, message",
  [
    ("", "--workdir is empty"),
    ("README.md", "cannot be a workdir (File exists"),
  ],
)
def test_what_is_no_workdir_is_one_line(workdir, message, capsys):
  assert main.main([CONFIG, f"--workdir={workdir}"]) == 2
  err = capsys.readouterr().err
  assert err.startswith("error: ") and err.count("\n") == 1
  assert message in err


@pytest.mark.parametrize(
  "example, method",
  [
    ("basic", "replay"),
    ("adaptive", "adaptive_replay"),
    ("compare", "replay"),
    ("custom", "custom_replay"),
  ],
)
def test_the_examples_of_replay(example, method):
  file = f"--config=configs/replay_example.py:{example}"
  config, workdir = main.parse(["main", file])
  assert workdir == f"runs/replay_example-{example}"
  assert config.cl.name == method and build.method(config, 3).capacity == 40
  for name in config.get("variants", {}):
    one = compare.config_of(config, compare.Cell(name, (), 0, 0))
    assert one.cl.args.replay.strategy == name
    assert build.method(one, 3).capacity == 40


@pytest.mark.parametrize("domains", ["airline,retail", ("airline,retail",)])
def test_a_stream_in_one_string_is_refused(domains):
  config = small.config()
  config.stream.domains = domains
  with pytest.raises(ValueError, match="write a tuple: .*'airline', 'retail'"):
    build.check(config)


def test_the_workdir_is_named_after_the_config():
  _, workdir = main.parse(["main", CONFIG])
  assert workdir == "runs/blobs"
  _, workdir = main.parse(["main", "--config", "configs/blobs.py"])
  assert workdir == "runs/blobs"
  _, workdir = main.parse(["main", CONFIG, "--workdir=x"])
  assert workdir == "x"


def test_overrides_reach_a_locked_config():
  config, _ = main.parse(
    ["main", CONFIG, "--config.cl.args.online_ewc.lam=3", "--config.seed=5"]
  )
  assert config.cl.args.online_ewc.lam == 3.0 and config.seed == 5
  assert config.is_locked
  with pytest.raises(AttributeError):
    config.cl.nmae = "replay"


def test_every_method_has_its_options_in_the_config():
  config = small.config()
  assert sorted(config.cl.args) == build.known("methods")
  assert config.cl.args.replay.min_buffer_size == 20
  assert "batch_size" not in config.cl.args.replay  # the run's, not the user's


def test_a_run_from_the_command_line(tmp_path, capsys):
  arguments = [
    CONFIG,
    "--config.stream.n_domains=2",
    "--config.stream.epochs=1",
    "--config.stream.blobs.train=40",
    f"--workdir={tmp_path}/run",
  ]
  assert main.main(arguments) == 0
  out = capsys.readouterr().out
  assert "Task 1: PERM1" in out and f"Files are in {tmp_path}/run" in out
  assert (tmp_path / "run" / "results.json").exists()


def run_with(source, tmp_path, monkeypatch, *arguments):
  """main's exit code, with a method file that somebody has added."""
  added = types.ModuleType("jax_cl.methods.added")
  exec(compile(source, str(tmp_path / "added.py"), "exec"), added.__dict__)
  monkeypatch.setitem(sys.modules, added.__name__, added)
  there = build.known
  monkeypatch.setattr(build, "known", lambda kind: [*there(kind), "added"])
  arguments = ["--config.cl.name=added", *arguments]
  return main.main([CONFIG, *arguments, f"--workdir={tmp_path}/run"])


BUG = """
from jax_cl.methods.base import Method

def grads(obj, cl, p, batch, mem, stage, key):
  raise ValueError("a shape that does not fit")

def make():
  return Method(grads=grads)
"""


def test_a_bug_in_a_method_keeps_its_traceback(tmp_path, monkeypatch):
  with pytest.raises(RuntimeError, match="failed in a step: a shape") as e:
    run_with(BUG, tmp_path, monkeypatch)
  frames = traceback.extract_tb(e.value.__cause__.__traceback__)
  assert frames[-1].filename == str(tmp_path / "added.py")


def test_a_bug_in_make_keeps_its_traceback(tmp_path, monkeypatch):
  with pytest.raises(ValueError, match="invalid literal"):
    run_with("def make(): return int('one')", tmp_path, monkeypatch)


def test_options_without_a_default_are_asked_for(tmp_path, monkeypatch, capsys):
  source = "def make(*, batch_size, alpha, beta, gamma=1): return 1 / 0"
  assert run_with(source, tmp_path, monkeypatch) == 2
  assert capsys.readouterr().err == (
    "error: config.cl.args.added.alpha, config.cl.args.added.beta must be "
    "given: --config.cl.args.added.alpha=...\n"
  )
  options = "--config.cl.args.added.alpha=.5", "--config.cl.args.added.beta=x"
  with pytest.raises(ZeroDivisionError):  # they have reached it
    run_with(source, tmp_path, monkeypatch, *options)


def test_mistakes_come_before_anything_is_built(tmp_path, monkeypatch, capsys):
  built = []
  monkeypatch.setattr(build, "problem", built.append)
  for argument in ("cl.name=added", "optim.name=sdg", "writers=csv"):
    assert main.main([CONFIG, f"--config.{argument}"]) == 2
  assert not built
