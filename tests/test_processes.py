"""Worker processes begin as told and never outlive their parent."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from jax_cl import processes

ROOT = pathlib.Path(processes.__file__).parents[1]

KILLED = """
import os, signal, time
from jax_cl import processes
if __name__ == "__main__":
  with processes.pool(2, print, "begun") as pool:
    pool.submit(print, "at work", flush=True).result()
    pool.submit(time.sleep, 600)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_with_a_killed_parent(tmp_path):
  """They hold the pipe that is read here: it ends when the last of them has."""
  script = tmp_path / "killed.py"
  script.write_text(KILLED)
  done = subprocess.run(
    [sys.executable, str(script)],
    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=200,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
  )  # fmt: skip
  assert done.returncode == -signal.SIGKILL
  assert "begun" in done.stdout and "at work" in done.stdout


INTERRUPTED = r"""
import sys, threading, time
from jax_cl import processes
def call(name):
  try:
    print(f"{name} begun\n", end="", flush=True)
    time.sleep(600)
  except KeyboardInterrupt:
    print(f"{name} saved\n", end="", flush=True)
    # What keeps a process from its end: a thread that waits for ever.
    threading.Thread(target=threading.Event().wait).start()
    raise
if __name__ == "__main__":
  try:
    with processes.pool(2) as pool:
      processes.run(pool, call, [("a",), ("b",), ("c",), ("d",)])
  except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("whom", ["parent", "all", "all, and the parent twice"])
def test_an_interrupt_reaches_the_calls_that_run_and_ends_the_pool(
  whom, tmp_path
):
  script = tmp_path / "interrupted.py"
  script.write_text(INTERRUPTED)
  with subprocess.Popen(
    [sys.executable, str(script)],
    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
  ) as process:  # fmt: skip
    assert process.stdout
    begun = {process.stdout.readline() for _ in "ab"}
    if whom != "all":
      process.send_signal(signal.SIGINT)
    if whom != "parent":  # as a terminal does; `timeout` does both
      os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[0]
  assert begun == {"a begun\n", "b begun\n"}
  assert "a saved" in said and "b saved" in said
  assert "c begun" not in said and "d begun" not in said
  assert process.returncode == 130
