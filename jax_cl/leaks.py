"""Nothing is learned from tasks that are held out, whatever path they take.

Every row that is learned from or remembered names its task, a place in the
run's task table. A `Guard` hashes the table once and refuses rows whose task is
of val or test: in a batch, before it is used, and in the memory, which may come
from a checkpoint or a file. It fails closed: a row whose task it does not know
is refused, too, and so is a problem without a table.

Labels of splits are not trusted: a task is told by the hash of its domain and
id, so one that stands in the table as train and as test is held out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from jax_cl.memory import Buffer
from jax_cl.types import Batch, TaskSpec


class Leak(RuntimeError):
  """A row of a held-out task was about to be learned from."""


class Guard:
  """`tasks` is the run's task table, all splits: `Batch.task` points there."""

  def __init__(self, tasks: Sequence[TaskSpec]):
    held_out = {digest(t) for t in tasks if t.split != "train"}
    self._held_out = np.array([digest(t) in held_out for t in tasks], bool)
    self._tasks = tasks

  def batch(self, batch: Batch, where: str) -> None:
    """Looks at the rows that have weight; leaves may lead with more axes."""
    task, weight = np.asarray(batch.task), np.asarray(batch.weight)
    self._check(task[weight > 0], where)

  def buffer(self, buffer: Buffer) -> None:
    """Looks at every row that the memory holds."""
    task, added = np.asarray(buffer.rows.task), np.asarray(buffer.added)
    held = np.arange(task.shape[1])[None, :] < added[:, None]
    self._check(task[held], "the memory")

  def _check(self, task: np.ndarray, where: str) -> None:
    unknown = (task < 0) | (task >= len(self._tasks))
    if unknown.any():
      raise Leak(
        f"{where} has a row of task {task[unknown][0]}, which is not in the "
        f"run's table of {len(self._tasks)}: it cannot be told from a test task"
      )
    leaked = self._held_out[task]
    if leaked.any():
      spec = self._tasks[task[leaked][0]]
      raise Leak(
        f"{where} has {leaked.sum()} rows of held-out tasks, the first of "
        f"{spec.domain} {spec.task_id!r} ({spec.split}): nothing may be "
        "learned from them"
      )


def digest(task: TaskSpec) -> bytes:
  """Of what makes a task the same one: its domain and id, not its split."""
  return hashlib.sha256(f"{task.base_domain}\0{task.task_id}".encode()).digest()
