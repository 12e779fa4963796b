"""Runs of one config that are killed at chosen moments, each in a process.

  python tests/killed.py FOLDER [CONFIG]

writes FOLDER/whole, an undisturbed run, and FOLDER/killed, the same run after
SIGKILL at every moment of MOMENTS in turn (and one Ctrl-C), gone on with by the
same call each time. Prints one JSON line: how each process ended.

  python tests/killed.py FOLDER --methods=NAME,NAME [CONFIG]

does so in FOLDER/NAME for each method, at the moments of FEW alone.
"""

import json
import os
import pathlib
import signal
import sys
import traceback

import jax

from jax_cl import checkpoint, evaluate, main, train, update
from jax_cl.problems import base as problems


def die(*args, **kwargs):
  os.kill(os.getpid(), signal.SIGKILL)


def nth(f, n, then=die, after=False):
  """`f`, but its n-th call (from 1) does `then` before, or after it."""
  calls = [0]

  def wrapped(*args, **kwargs):
    calls[0] += 1
    if calls[0] == n and not after:
      then()
    out = f(*args, **kwargs)
    if calls[0] == n and after:
      then()
    return out

  return wrapped


def patch(where, name, n, **how):
  setattr(where, name, nth(getattr(where, name), n, **how))


def in_a_rollout():
  """Kills in the second `collect`."""
  build = train.build.problem

  def problem(config):
    what = build(config)
    what.collect = nth(what.collect, 2)
    return what

  train.build.problem = problem


def interrupt():
  os.kill(os.getpid(), signal.SIGINT)


MOMENTS = {
  "before the first save": lambda: patch(checkpoint, "save", 1),
  "in the starting row": lambda: patch(evaluate.logs, "episode_row", 20),
  # Orbax has made its folder and written the arrays, but not the host's side.
  "during the first save": lambda: patch(
    checkpoint.ocp.handlers.JsonHandler, "save", 1
  ),
  "drawing rows": lambda: patch(problems, "minibatch", 2),
  "in a rollout": in_a_rollout,
  "during a save in a stage": lambda: patch(
    checkpoint.ocp.handlers.JsonHandler, "save", 1
  ),
  "after an update": lambda: patch(train._Run, "learn", 3, after=True),
  "Ctrl-C in an update": lambda: patch(train._Run, "learn", 1, then=interrupt),
  "evaluating a stage": lambda: patch(evaluate, "row", 1, after=True),
  "at the end of a stage": lambda: patch(train._Run, "rows", 1),
  "between stages": lambda: patch(checkpoint, "save", 2, after=True),
  "removing old checkpoints": lambda: patch(checkpoint.shutil, "rmtree", 1),
}

FEW = ("after an update", "between stages")


def run(workdir, arguments, prepare=lambda: None):
  """Forks before JAX has started; how the child ended: -9 is SIGKILL."""
  pid = os.fork()
  if pid == 0:
    with open(workdir.with_suffix(".out"), "a") as out:
      os.dup2(out.fileno(), 1)
      os.dup2(out.fileno(), 2)
    code = 99
    try:
      prepare()
      code = main.main([*arguments, f"--workdir={workdir}"])
    except BaseException:
      traceback.print_exc()
    finally:
      sys.stdout.flush()
      sys.stderr.flush()
      os._exit(code)
  return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def everything(
  folder: pathlib.Path, arguments, moments=tuple(MOMENTS)
) -> dict[str, int]:
  ends = {"whole": run(folder / "whole", arguments)}
  for name in moments:
    ends[name] = run(folder / "killed", arguments, MOMENTS[name])
  ends["finished"] = run(folder / "killed", arguments)
  return ends


def each_method(folder: pathlib.Path, names, arguments) -> dict:
  ends = {}
  for name in names:
    (folder / name).mkdir()
    one = [*arguments, f"--config.cl.name={name}"]
    ends[name] = everything(folder / name, one, FEW)
  return ends


if __name__ == "__main__":
  place = pathlib.Path(sys.argv[1])
  # Kills are what is tested here, not the compiler: share what it made.
  jax.config.update("jax_compilation_cache_dir", str(place / "cache"))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  assert update  # imported before the fork, so that children start at once
  rest = sys.argv[2:]
  if rest and rest[0].startswith("--methods="):
    methods = rest[0].removeprefix("--methods=").split(",")
    print(json.dumps(each_method(place, methods, rest[1:])))
  else:
    print(json.dumps(everything(place, rest)))
