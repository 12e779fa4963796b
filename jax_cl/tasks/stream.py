"""Domains by name, their splits, the stream of stages, and task batches."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jax_cl import names
from jax_cl.tasks import store
from jax_cl.types import Scenario, Stage, TaskSpec, ToolSchema, base_domain

T = TypeVar("T")
VAL_SHARE = 0.2  # of the official train split, for every choice that is made
POOLS = ("official", "extended", "full", "fraction")
EXTRA = 120  # tasks that the pool "extended" adds to the official ones
OWN = Path(__file__).parent / "own"  # tasks of ours, a file a domain


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
  def today(self) -> str:
    """The date that the policy says it is, ISO 8601; "" if it does not."""
    found = re.search(r"current time is (\d{4}-\d\d-\d\d)", self.policy)
    return found.group(1) if found else ""

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
  solo: bool | Sequence[str] = False,
  data_dir: str | Path | None = None,
  pool: str = "official",
  train_split: float = 0.8,
  seed: int = 0,
) -> Domain:
  """A domain with its splits. Cached.

  `solo`: without a user, or the names of the domains that have none.

  test is tau2's official test split. val is the fifth of the official train
  split whose ids come first in order of SHA-256(`val:<domain>:<id>`); it does
  not depend on the seed or the pool. train is the rest.

  `pool`: where train comes from. "official"; "full", every task in the file
  that is in neither test nor val (telecom: 2,230; elsewhere there are no
  more); "extended", the official ones and `EXTRA` others of those, families
  taking turns, since 87% of telecom's file is one family, and our own tasks of
  the domain, written over tau2's databases (`own/README.md`); "fraction", the
  tasks of the base split divided at `train_split` in order of
  SHA-256(`<seed>:...`). A domain without official splits (mock) is always
  divided so.

  `data_dir` replaces tau2's data (see `store.use_data_dir`).

  "telecom:mms_issue" is telecom with the tasks of one `family` alone, in every
  split; policy and tools are telecom's.
  """
  store.use_data_dir(data_dir)
  if isinstance(solo, str):
    raise ValueError(f"solo={solo!r} is a text; give True or ({solo!r},)")
  alone = solo
  if not isinstance(solo, bool):
    alone = name in solo or base_domain(name) in solo
  return _load(name, alone, pool, train_split, seed)


@functools.cache
def _load(
  name: str, solo: bool, pool: str, train_split: float, seed: int
) -> Domain:
  names.check("pool", pool, POOLS)
  if ":" in name:
    return _family_of(
      _load(base_domain(name), solo, pool, train_split, seed), name
    )
  rules = store.store(name)
  if solo and name in ("airline", "retail"):
    raise ValueError(f"{name} has no solo mode; telecom and mock have")
  tasks = _tasks(name)
  # As tau2 does, ids of a split that the task file does not have are left out.
  official = {
    k: [i for i in v if i in tasks] for k, v in rules.splits().items()
  }
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


def _family_of(domain: Domain, name: str) -> Domain:
  every = [s for specs in domain.splits.values() for s in specs]
  names.check("family", name, sorted({family(s) for s in every}))
  splits = {
    split: tuple(
      dataclasses.replace(s, domain=name) for s in specs if family(s) == name
    )
    for split, specs in domain.splits.items()
  }
  return dataclasses.replace(domain, name=name, splits=splits)


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
  held_out = {*val, *test}
  if pool == "extended":
    others = [i for i in all_ids if i not in held_out and i not in set(train)]
    by_family = _grouped(_by_hash(others, name), lambda i: _family(name, i))
    train += [*_in_turn(by_family)[:EXTRA], *_own_tasks(name)]
  elif pool == "full":
    train = all_ids
  train = [i for i in train if i not in held_out]
  return {"train": train, "val": val, "test": test}


def _by_hash(ids: Sequence[str], salt: str) -> list[str]:
  key = lambda i: hashlib.sha256(f"{salt}:{i}".encode()).hexdigest()
  return sorted(ids, key=key)


# ------------------------------------------------------------------- curricula


def make(
  domains: Sequence[str] = ("airline", "retail", "telecom"),
  curriculum: str = "sequential",
  *,
  steps: int | Sequence[int] = 100,
  clone_steps: int = 0,
  rounds: int = 5,
  max_tasks_per_domain: int | None = None,
  solo: bool | Sequence[str] = False,
  data_dir: str | Path | None = None,
  pool: str = "official",
  train_split: float = 0.8,
  seed: int = 0,
) -> tuple[Stage, ...]:
  """The stages of a run, in order; every curriculum takes as many steps.

  sequential:  one stage a domain, in the order given.
  interleaved: `rounds` passes over the domains, a stage a visit.
  joint:       one stage over all domains (the upper bound).
  independent: as sequential, but each stage starts from a new learner
    (`Stage.fresh`), so that nothing is carried over (No-CL).

  Args:
    steps: optimiser steps a domain, or one number for each.
    clone_steps: how many of a domain's steps clone demonstrations.
    max_tasks_per_domain: keeps those train tasks that come first by hash.
    others: as in `load`.
  """
  if isinstance(domains, str):
    found = tuple(x.strip() for x in domains.split(","))
    raise ValueError(
      f"domains={domains!r} is one string; give a tuple of names: {found!r}"
    )
  if not domains or len(set(domains)) != len(domains):
    raise ValueError(f"domains={tuple(domains)!r}: give each name once")
  names.check("curriculum", curriculum, CURRICULA)
  counts = [steps] * len(domains) if isinstance(steps, int) else list(steps)
  if len(counts) != len(domains) or min(counts) < 1:
    raise ValueError(f"steps={steps!r} for {len(domains)} domains")
  if not 0 <= clone_steps <= min(counts):
    raise ValueError(f"clone_steps={clone_steps} of steps={steps!r}")
  if max_tasks_per_domain is not None and max_tasks_per_domain < 1:
    raise ValueError(f"max_tasks_per_domain={max_tasks_per_domain}: at least 1")
  train = {
    name: _first_tasks(
      load(
        name,
        solo=solo,
        data_dir=data_dir,
        pool=pool,
        train_split=train_split,
        seed=seed,
      ),
      max_tasks_per_domain,
    )
    for name in domains
  }
  stages = tuple(
    Stage(name, train[name], n, (name,), clone_steps)
    for name, n in zip(domains, counts)
  )
  if curriculum == "independent":
    return tuple(dataclasses.replace(s, fresh=True) for s in stages)
  if curriculum == "interleaved":
    return _interleaved(stages, rounds)
  if curriculum == "joint":
    return (
      Stage(
        "+".join(domains),
        tuple(t for tasks in train.values() for t in tasks),
        sum(counts),
        tuple(domains),
        clone_steps * len(domains),
      ),
    )
  return stages


CURRICULA = ("sequential", "interleaved", "joint", "independent")


def _interleaved(stages: Sequence[Stage], rounds: int) -> tuple[Stage, ...]:
  """Every stage cut into `rounds` pieces of nearly the same length."""
  shortest = min(s.steps for s in stages)
  if not 1 <= rounds <= shortest:
    raise ValueError(f"rounds={rounds} is not between 1 and {shortest} steps")
  share = lambda n, r: n * (r + 1) // rounds - n * r // rounds
  return tuple(
    dataclasses.replace(
      s,
      name=f"{s.name}/{r}",
      steps=share(s.steps, r),
      clone_steps=share(s.clone_steps, r),
    )
    for r in range(rounds)
    for s in stages
  )


def _first_tasks(domain: Domain, limit: int | None) -> tuple[TaskSpec, ...]:
  tasks = domain.splits["train"]
  if limit is None or limit >= len(tasks):
    return tasks
  kept = set(_by_hash([t.task_id for t in tasks], domain.name)[:limit])
  return tuple(t for t in tasks if t.task_id in kept)


# ---------------------------------------------------------------- task batches

Batches = Callable[[int], tuple[TaskSpec, ...]]  # number of the batch -> tasks


def batches(
  name: str,
  tasks: Sequence[TaskSpec],
  size: int,
  *,
  seed: int = 0,
  steps: int | None = None,
) -> Batches:
  """Task batches by name, as a pure function of the batch's number.

  To resume is to go on with the next number; there is no other state.

  uniform:             each task of a batch drawn anew from all.
  balanced:            first a family (telecom's kinds of issue, elsewhere the
                       domain), then a task of it, both uniformly.
  round_robin:         all tasks in turn, the domains taking turns.
  without_replacement: shuffled passes over all tasks.
  by_difficulty:       easy to hard: drawn from the easiest share of tasks,
                       which grows to all of them over `steps` batches.
  """
  names.check("sampler", name, _BATCHES)
  if not tasks or size < 1:
    raise ValueError(f"{len(tasks)} tasks in batches of {size}")
  if name == "by_difficulty":
    if steps is None or steps < 1:
      raise ValueError("by_difficulty needs steps, the number of batches")
    return _by_difficulty(tasks, size, seed, steps)
  return _BATCHES[name](tuple(tasks), size, seed)


def _uniform(tasks: Sequence[TaskSpec], size: int, seed: int) -> Batches:
  def batch(i: int) -> tuple[TaskSpec, ...]:
    rng = np.random.default_rng([seed, i])
    return tuple(tasks[j] for j in rng.integers(len(tasks), size=size))

  return batch


def _balanced(tasks: Sequence[TaskSpec], size: int, seed: int) -> Batches:
  families = _grouped(tasks, family)

  def batch(i: int) -> tuple[TaskSpec, ...]:
    rng = np.random.default_rng([seed, i])
    picked = (families[j] for j in rng.integers(len(families), size=size))
    return tuple(members[rng.integers(len(members))] for members in picked)

  return batch


def _round_robin(tasks: Sequence[TaskSpec], size: int, seed: int) -> Batches:
  del seed
  order = _in_turn(_grouped(tasks, lambda t: t.domain))

  def batch(i: int) -> tuple[TaskSpec, ...]:
    return tuple(order[(i * size + j) % len(order)] for j in range(size))

  return batch


def _without_replacement(
  tasks: Sequence[TaskSpec], size: int, seed: int
) -> Batches:
  @functools.lru_cache(maxsize=4)
  def order(epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(len(tasks))

  def at(place: int) -> TaskSpec:
    epoch, j = divmod(place, len(tasks))
    return tasks[order(epoch)[j]]

  return lambda i: tuple(at(i * size + j) for j in range(size))


def _by_difficulty(
  tasks: Sequence[TaskSpec], size: int, seed: int, steps: int
) -> Batches:
  easy_first = sorted(tasks, key=lambda t: (difficulty(t), t.task_id))

  def batch(i: int) -> tuple[TaskSpec, ...]:
    share = min(1.0, (i + 1) / steps)
    n = max(min(size, len(tasks)), math.ceil(share * len(tasks)))
    rng = np.random.default_rng([seed, i])
    return tuple(easy_first[j] for j in rng.integers(n, size=size))

  return batch


_BATCHES: Mapping[str, Any] = {
  "uniform": _uniform,
  "balanced": _balanced,
  "round_robin": _round_robin,
  "without_replacement": _without_replacement,
  "by_difficulty": _by_difficulty,
}
SAMPLERS = tuple(_BATCHES)


def _grouped(items: Sequence[T], key: Callable[[T], str]) -> list[list[T]]:
  groups: dict[str, list[T]] = {}
  for x in items:
    groups.setdefault(key(x), []).append(x)
  return list(groups.values())


def _in_turn(columns: Sequence[Sequence[T]]) -> list[T]:
  """The first of each, then the second of each, and so on."""
  longest = max(map(len, columns), default=0)
  return [c[i] for i in range(longest) for c in columns if i < len(c)]


def family(spec: TaskSpec) -> str:
  """What balancing balances: telecom's kind of issue, elsewhere the domain.

  Telecom ids begin with it: `[mms_issue]...`. For choosing tasks only; an id
  is never shown to anything that acts.
  """
  return _family(spec.base_domain, spec.task_id)


def _family(domain: str, task_id: str) -> str:
  kind, closed, _ = task_id.partition("]")
  return f"{domain}:{kind[1:]}" if closed else domain


def difficulty(spec: TaskSpec) -> int:
  """Number of gold actions. For choosing training tasks only."""
  criteria = task(spec).evaluation_criteria
  return len((criteria and criteria.actions) or [])


# ----------------------------------------------------------------- one task


def task(spec: TaskSpec) -> Any:
  """tau2's Task, gold actions and all: only for use inside `jax_cl/tasks`."""
  return _task(spec.base_domain, spec.task_id)


@functools.cache
def scenario(spec: TaskSpec) -> Scenario:
  """What a user may know of a task."""
  user = task(spec).user_scenario
  told = user.instructions
  if isinstance(told, str):
    return Scenario(spec.base_domain, told, persona=user.persona)
  return Scenario(
    domain=spec.base_domain,
    reason_for_call=told.reason_for_call,
    known_info=told.known_info,
    unknown_info=told.unknown_info,
    task_instructions=told.task_instructions,
    persona=user.persona,
  )


def begun(spec: TaskSpec) -> int:
  """Turns of a conversation that the task itself brings."""
  initial = task(spec).initial_state
  return len((initial.message_history if initial else None) or ())


def ticket(spec: TaskSpec) -> str:
  """What the agent is told in solo mode, in place of a user."""
  text = task(spec).ticket
  if text is None:
    raise ValueError(f"task {spec.task_id!r} of {spec.domain} has no ticket")
  return text


@functools.cache
def _tasks(name: str) -> dict[str, Any]:
  """Task id -> the task, not yet validated."""
  return store.store(name).tasks()


@functools.cache
def _own_tasks(name: str) -> dict[str, Any]:
  """Task id -> a task of our own. They are train tasks, never val or test."""
  path = OWN / f"{name}.json"
  return {t["id"]: t for t in store.read_json(path)} if path.exists() else {}


@functools.cache
def _task(name: str, task_id: str) -> Any:
  tasks = {**_own_tasks(name), **_tasks(name)}
  if task_id not in tasks:
    raise ValueError(f"domain {name!r} has no task {task_id!r}")
  return store.store(name).task(tasks[task_id])


def _solo_task(raw: Any) -> bool:
  """tau2's rule: a ticket, something to judge, no words said beforehand."""
  raw = raw if isinstance(raw, dict) else raw.model_dump()
  history = (raw.get("initial_state") or {}).get("message_history") or []
  said = any(m["role"] != "tool" and not m.get("tool_calls") for m in history)
  return bool(raw.get("ticket") and raw.get("evaluation_criteria") and not said)


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
