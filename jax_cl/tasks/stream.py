"""Domains by name, their splits, the stream of stages, and task batches."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jax_cl.tasks import store
from jax_cl.types import Scenario, TaskSpec, ToolSchema

VAL_SHARE = 0.2  # of the official train split, for every choice that is made
POOLS = ("official", "full", "fraction")


@dataclasses.dataclass(frozen=True)
class Domain:
  """What may be known of a domain before any task is begun."""

  name: str
  solo: bool
  policy: str  # the rules an agent is given
  tools: tuple[ToolSchema, ...]  # the agent's; in solo mode the user's as well
  user_tools: tuple[ToolSchema, ...]  # the user's (telecom); () in solo mode
  splits: Mapping[str, tuple[TaskSpec, ...]]  # "train", "val", "test"

  @functools.cached_property
  def parameters(self) -> Mapping[str, Mapping[str, Any]]:
    """Speaker -> name of a tool it may call -> JSON schema of its arguments."""
    return {
      "assistant": {t.name: t.parameters for t in self.tools},
      "user": {t.name: t.parameters for t in self.user_tools},
    }


def load(
  name: str,
  *,
  solo: bool = False,
  data_dir: str | Path | None = None,
  pool: str = "official",
  train_split: float = 0.8,
  seed: int = 0,
) -> Domain:
  """A domain with its splits. Cached.

  test is tau2's official test split. val is the fifth of the official train
  split whose ids come first in order of SHA-256(`val:<domain>:<id>`); it does
  not depend on the seed or the pool. train is the rest.

  `pool`: where train comes from. "official"; "full", every task in the file
  that is in neither test nor val (telecom: 2,230); "fraction", the tasks of
  the base split divided at `train_split` in order of SHA-256(`<seed>:...`).
  A domain without official splits (mock) is always divided so.

  `data_dir` replaces tau2's data (see `store.use_data_dir`).
  """
  store.use_data_dir(data_dir)
  return _load(name, solo, pool, train_split, seed)


@functools.cache
def _load(
  name: str, solo: bool, pool: str, train_split: float, seed: int
) -> Domain:
  if pool not in POOLS:
    raise ValueError(store.unknown("pool", pool, list(POOLS)))
  rules = store.store(name)
  if solo and name in ("airline", "retail"):
    raise ValueError(f"{name} has no solo mode; telecom and mock have")
  tasks = _tasks(name)
  official = _official_splits(name)
  ids = _split_ids(name, official, list(tasks), pool, train_split, seed)
  if solo:
    ids = {k: [i for i in v if _solo_task(tasks[i])] for k, v in ids.items()}
  splits = {
    split: tuple(TaskSpec(name, i, split, solo) for i in members)
    for split, members in ids.items()
  }
  tools, user_tools = (schemas(kit) for kit in rules.toolkits())
  user_tools = tuple(dataclasses.replace(t, owner="user") for t in user_tools)
  return Domain(
    name=name,
    solo=solo,
    policy=rules.policy(solo),
    tools=tools + user_tools if solo else tools,
    user_tools=() if solo else user_tools,
    splits=splits,
  )


def _split_ids(
  name: str,
  official: Mapping[str, list[str]],
  all_ids: list[str],
  pool: str,
  train_split: float,
  seed: int,
) -> dict[str, list[str]]:
  if "train" in official and "test" in official and pool != "fraction":
    train, test = list(official["train"]), list(official["test"])
  else:
    if not 0 < train_split < 1:
      raise ValueError(f"train_split={train_split} is not between 0 and 1")
    base = _by_hash(official.get("base", all_ids), f"{seed}:{name}")
    cut = round(len(base) * train_split)
    train, test = base[:cut], base[cut:]
  n_val = max(1, round(len(train) * VAL_SHARE))
  val = _by_hash(train, f"val:{name}")[:n_val]
  if pool == "full":
    train = all_ids
  held_out = {*val, *test}
  train = [i for i in train if i not in held_out]
  return {"train": train, "val": val, "test": test}


def _by_hash(ids: Sequence[str], salt: str) -> list[str]:
  key = lambda i: hashlib.sha256(f"{salt}:{i}".encode()).hexdigest()
  return sorted(ids, key=key)


# ----------------------------------------------------------------- one task


def task(spec: TaskSpec) -> Any:
  """tau2's Task, gold actions and all: only for use inside `jax_cl/tasks`."""
  return _task(spec.domain, spec.task_id)


@functools.cache
def scenario(spec: TaskSpec) -> Scenario:
  """What a user may know of a task."""
  user = task(spec).user_scenario
  told = user.instructions
  if isinstance(told, str):
    return Scenario(spec.domain, told, persona=user.persona)
  return Scenario(
    domain=spec.domain,
    reason_for_call=told.reason_for_call,
    known_info=told.known_info,
    unknown_info=told.unknown_info,
    task_instructions=told.task_instructions,
    persona=user.persona,
  )


def ticket(spec: TaskSpec) -> str:
  """What the agent is told in solo mode, in place of a user."""
  text = task(spec).ticket
  if text is None:
    raise ValueError(f"task {spec.task_id!r} of {spec.domain} has no ticket")
  return text


@functools.cache
def _tasks(name: str) -> dict[str, Any]:
  """Task id -> the task, not yet validated (telecom: 2,285 of them)."""
  rules = store.store(name)
  if rules.folder is None:
    return {t.id: t for t in rules.registry.get_tasks_loader(name)(None)}
  path = rules.folder / "tasks.json"
  raw = store.read_json(path)
  raw = raw.get("tasks", raw) if isinstance(raw, dict) else raw
  if not isinstance(raw, list) or not all(
    isinstance(t, dict) and isinstance(t.get("id"), str) for t in raw
  ):
    raise ValueError(f"{path} does not parse: not a list of tasks with ids")
  return {t["id"]: t for t in raw}


@functools.cache
def _task(name: str, task_id: str) -> Any:
  from tau2.data_model.tasks import Task

  tasks = _tasks(name)
  if task_id not in tasks:
    raise ValueError(f"domain {name!r} has no task {task_id!r}")
  raw = tasks[task_id]
  if isinstance(raw, Task):
    return raw
  try:
    return Task.model_validate(raw)
  except ValueError as e:
    path = store.store(name).folder / "tasks.json"
    raise ValueError(f"{path}: task {task_id!r} does not parse: {e}") from None


def _official_splits(name: str) -> dict[str, list[str]]:
  rules = store.store(name)
  if rules.folder is None:
    loader = rules.registry.get_task_splits_loader(name)
    return loader() if loader else {}
  path = rules.folder / "split_tasks.json"
  return store.read_json(path) if path.exists() else {}


def _solo_task(raw: Any) -> bool:
  """tau2's rule: a ticket, gold actions, and no words said beforehand."""
  get = raw.get if isinstance(raw, dict) else lambda k: getattr(raw, k, None)
  return bool(get("ticket")) and bool(get("evaluation_criteria"))


# -------------------------------------------------------------------- schemas


def schemas(toolkit: Any) -> tuple[ToolSchema, ...]:
  """The tools of a tau2 toolkit. `openai_schema` takes 14-34 ms a call."""
  if toolkit is None:
    return ()
  out = []
  for name, tool in toolkit.get_tools().items():
    function = tool.openai_schema["function"]
    out.append(
      ToolSchema(
        name=name,
        description=function["description"],
        parameters=function["parameters"],
        kind=toolkit.tool_type(name).value,
      )
    )
  return tuple(out)
