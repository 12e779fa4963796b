"""Rows of held-out tasks are refused wherever they would come in."""

import jax
import numpy as np
import pytest
import small
import toy

from jax_cl import build, leaks, memory, train
from jax_cl.problems import supervised
from jax_cl.types import TaskSpec

TASKS = (
  TaskSpec("airline", "1", "train"),
  TaskSpec("airline", "2", "val"),
  TaskSpec("airline", "3", "test"),
  TaskSpec("retail", "3", "train"),
)


def batch(*task, weight=1.0):
  rows = toy.rows([[1, 0]] * len(task), [0] * len(task), weight=weight)
  return rows._replace(task=np.array(task, np.int32))


def test_train_tasks_pass_and_others_do_not():
  guard = leaks.Guard(TASKS)
  guard.batch(batch(0, 3, 0), "here")
  for task, name in ((1, "airline '2' .val."), (2, "airline '3' .test.")):
    with pytest.raises(leaks.Leak, match=f"here has 1 rows.*{name}"):
      guard.batch(batch(0, task, 3), "here")


def test_padding_is_no_row():
  leaks.Guard(TASKS).batch(batch(0, -1, weight=np.array([1.0, 0.0])), "here")


@pytest.mark.parametrize("task", [-1, 4])
def test_an_unknown_task_fails_closed(task):
  with pytest.raises(leaks.Leak, match=f"task {task}, which is not in"):
    leaks.Guard(TASKS).batch(batch(0, task), "here")


def test_a_test_task_that_calls_itself_train_is_still_one():
  relabelled = (*TASKS, TaskSpec("airline", "3", "train"))
  with pytest.raises(leaks.Leak, match="airline '3'"):
    leaks.Guard(relabelled).batch(batch(4), "here")


def test_a_memory_is_looked_through_and_empty_slots_are_not():
  rows = batch(0, 2)
  items = memory.Items(rows, np.array([True, False]))
  buffer = memory.init(items, np.eye(1, dtype=bool), 4)
  guard = leaks.Guard(TASKS)
  guard.buffer(memory.add(buffer, items, 0))  # slot 0 alone is held
  with pytest.raises(leaks.Leak, match="the memory has 1 rows"):
    both = items._replace(keep=np.array([True, True]))
    guard.buffer(memory.add(buffer, both, 0))


class _Planted(supervised.Supervised):
  """One demonstration of the second stage is a test task's."""

  def demos(self, stage):
    rows = super().demos(stage)
    planted = next(i for i, t in enumerate(self.tasks) if t.split == "test")
    task = rows.task.copy()
    task[5] = planted if stage == 1 else task[5]
    return rows._replace(task=task)


class _PlantedEpisode(supervised.Supervised):
  """Of the episodes of every step one is a val task's."""

  def collect(self, *args, **kwargs):
    first, *rest = super().collect(*args, **kwargs)
    planted = next(t for t in self.tasks if t.split == "val")
    return [first.__class__(**{**vars(first), "task": planted}), *rest]


@pytest.mark.parametrize("kind", [_Planted, _PlantedEpisode])
def test_a_planted_task_stops_the_run(kind, tmp_path, monkeypatch):
  monkeypatch.setattr(supervised, "Supervised", kind)
  config = small.config()
  config.cl.name = "replay"
  config.stream.pg_steps = int(kind is _PlantedEpisode)
  with pytest.raises(leaks.Leak, match="held-out"):
    train.run(config.lock(), tmp_path / "run")


def test_the_table_of_a_problem_names_every_row():
  what = build.problem(small.config())
  for k, stage in enumerate(what.stages):
    named = {what.tasks[i] for i in what.demos(k).task}
    assert named == set(stage.train)
  params, frozen = what.agent.init(jax.random.key(0))
  done = what.evaluate(params, frozen, "perm1", "test", 0, 1, 0)
  assert {e.task for e in done} <= set(what.tasks)
