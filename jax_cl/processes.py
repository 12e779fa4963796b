"""Worker processes: started afresh, and gone when their parent is."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

Pool = concurrent.futures.ProcessPoolExecutor


def pool(
  workers: int, begin: Callable[..., Any] | None = None, *args: Any
) -> Pool:
  """Processes that call `begin(*args)` first.

  They are spawned, since JAX's threads do not survive a fork, and a parent that
  is killed takes them along.
  """
  return Pool(
    workers,
    multiprocessing.get_context("spawn"),
    initializer=_begin,
    initargs=(begin, args),
  )


def run(pool: Pool, f: Callable[..., Any], calls: Iterable[tuple]) -> list[Any]:
  """[f(*args) for args in calls], worked out by the pool.

  Ctrl-C, here or in a worker, is raised in all calls that run, so that they
  may save; the others never begin. When the running ones have ended, or at a
  second Ctrl-C, the workers are killed: what an interrupted call has left
  behind, threads for one, could keep them for ever.
  """
  jobs = [pool.submit(_call, f, *args) for args in calls]
  try:
    return [job.result() for job in jobs]
  except KeyboardInterrupt:
    _interrupt(pool, jobs)
    raise


def _interrupt(pool: Pool, jobs: list[concurrent.futures.Future]) -> None:
  workers = list(pool._processes.values())  # Python 3.14: pool.kill_workers()
  begun = [job for job in jobs if not job.cancel()]
  for worker in workers:
    if worker.pid is not None and worker.is_alive():
      os.kill(worker.pid, signal.SIGINT)
  began = time.monotonic()
  while True:
    try:
      concurrent.futures.wait(begun)
      break
    except KeyboardInterrupt:
      if time.monotonic() - began > 1:  # `timeout` sends two at once
        break
  for worker in workers:
    worker.kill()


class _Interrupts:
  """The first Ctrl-C is raised in a call; between calls it is remembered,
  since the pool's own locks would not survive it."""

  calling = False
  seen = False

  def __call__(self, signum, frame) -> None:
    first, self.seen = not self.seen, True
    if first and self.calling:
      raise KeyboardInterrupt


_interrupts = _Interrupts()


def _call(f: Callable[..., Any], *args: Any) -> Any:
  """Of a worker: `f`, which an interrupt may reach."""
  try:
    _interrupts.calling = True
    if _interrupts.seen:
      raise KeyboardInterrupt
    return f(*args)
  except KeyboardInterrupt:
    _interrupts.seen = True
    raise
  finally:
    _interrupts.calling = False


def _begin(begin: Callable[..., Any] | None, args: tuple) -> None:
  signal.signal(signal.SIGINT, _interrupts)
  parent = multiprocessing.parent_process()
  assert parent is not None

  def watch():  # a killed parent tells nobody, and its workers would run on
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()
  if begin is not None:
    begin(*args)
