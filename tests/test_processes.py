"""Worker processes begin as told and never outlive their parent."""

import os
import pathlib
import signal
import subprocess
import sys

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
