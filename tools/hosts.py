"""Several processes on this machine, joined as several hosts would be.

  python tools/hosts.py 2 --config=configs/blobs.py --config.train.devices=0

runs `jax_cl.main` so many times with a port of this machine as coordinator:
to try on one machine what will run on many. With GPUs, process i sees the i-th
alone. If one process fails, the others are ended. Exit code: the first failed
one's, else 0.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time


def main(argv: list[str]) -> int:
  if len(argv) < 2 or not argv[0].isdigit():
    print(__doc__)
    return 2
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  n, port = int(argv[0]), _free_port()
  hosts = [
    subprocess.Popen(
      [sys.executable, "-m", "jax_cl.main", *argv[1:],
       f"--coordinator=localhost:{port}", f"--processes={n}", f"--process={i}"],
      env={"CUDA_VISIBLE_DEVICES": str(i), **os.environ},
    )
    for i in range(n)
  ]  # fmt: skip
  try:
    while any(h.poll() is None for h in hosts):
      if failed := [h.returncode for h in hosts if h.returncode]:
        return failed[0]
      time.sleep(0.2)
    return next((h.returncode for h in hosts if h.returncode), 0)
  finally:  # not by SIGTERM, which JAX holds back where several processes run
    for h in hosts:
      if h.poll() is None:
        h.kill()


def _free_port() -> int:
  with socket.socket() as s:
    s.bind(("localhost", 0))
    return s.getsockname()[1]


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
