"""Worker processes: started afresh, and gone when their parent is."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable
from typing import Any


def pool(
  workers: int, begin: Callable[..., Any] | None = None, *args: Any
) -> concurrent.futures.ProcessPoolExecutor:
  """Processes that call `begin(*args)` first.

  They are spawned, since JAX's threads do not survive a fork, and a parent that
  is killed takes them along.
  """
  return concurrent.futures.ProcessPoolExecutor(
    workers,
    multiprocessing.get_context("spawn"),
    initializer=_begin,
    initargs=(begin, args),
  )


def _begin(begin: Callable[..., Any] | None, args: tuple) -> None:
  parent = multiprocessing.parent_process()
  assert parent is not None

  def watch():  # a killed parent tells nobody, and its workers would run on
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()
  if begin is not None:
    begin(*args)
