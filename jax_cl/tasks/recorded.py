"""Recorded conversations: read from files, replayed, judged anew.

Formats: tau2's results files (`{"info", "tasks", "simulations"}`), lists of
trajectories (`{"simulations": [{"task_id", "domain", "reward",
"termination_reason", "messages"}]}`), and our `trajectories.jsonl`, one such
trajectory a line; all plain or gzipped.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jax_cl.tasks import rewards, store, stream
from jax_cl.types import (
  Episode,
  TaskSpec,
  ToolCall,
  Turn,
  Verdict,
  base_domain,
)


@dataclasses.dataclass(frozen=True)
class Recording:
  """A conversation somebody has had, and what it was said to have earned."""

  domain: str
  solo: bool
  task: Any  # tau2's Task; the file's own where it brings one
  turns: tuple[Turn, ...]
  termination: str
  reward: float | None  # as recorded; None where the file has none
  parts: Mapping[str, float] | None  # as recorded


@dataclasses.dataclass(frozen=True)
class Judged:
  verdict: Verdict
  # Place of the first tool answer that the replay does not repeat: such a
  # conversation did not happen in this environment. None where all agree.
  diverged: int | None


def read(path: str | Path) -> list[Recording]:
  """All conversations of a file."""
  path = Path(path)
  data = _json(path)
  if not isinstance(data, dict) or not isinstance(
    data.get("simulations"), list
  ):
    raise ValueError(
      f"{path} is neither tau2's results nor trajectories: no 'simulations'"
    )
  info = data.get("info") or {}
  domain = (info.get("environment_info") or {}).get("domain_name")
  solo = (info.get("agent_info") or {}).get("implementation") == (
    "llm_agent_solo"
  )
  tasks = _own_tasks(path, data.get("tasks") or [])
  out = []
  for i, s in enumerate(data["simulations"]):
    try:
      at = s.get("domain") or domain, s.get("solo", solo)
      out.append(_recording(s, *at, tasks))
    except (KeyError, TypeError, AttributeError) as e:
      raise ValueError(
        f"{path}: simulation {i} does not parse: {type(e).__name__}: {e}; of "
        "a run's files it is trajectories.jsonl (config.record) that is read"
      ) from None
  return out


def episode(r: Recording, judged: Judged) -> Episode:
  """For `tasks.export`."""
  spec = TaskSpec(r.domain, r.task.id, "recorded", r.solo)
  return Episode(spec, r.turns, judged.verdict, r.termination)


def demonstrations(
  path: str | Path, domains: Iterable[stream.Domain]
) -> tuple[list[Episode], Counter[str]]:
  """Conversations of train tasks that earned 1, and what became of all.

  Counts: "kept", "test", "val" (dropped unseen), "other" (a domain, mode or
  task that is none of `domains`), "unrewarded" (recorded or judged anew below
  1, or not what the environment answers).
  """
  specs = {
    (s.base_domain, s.solo, s.task_id): s
    for d in domains
    for split in d.splits.values()
    for s in split
  }
  kept, counts = [], Counter()
  for r in read(path):
    spec = specs.get((base_domain(r.domain), r.solo, r.task.id))
    if spec is None or spec.split != "train":
      counts[spec.split if spec else "other"] += 1
      continue
    judged = judge(r)
    earned = r.reward in (None, 1) and judged.verdict.reward == 1
    if earned and judged.diverged is None:
      kept.append(dataclasses.replace(episode(r, judged), task=spec))
      counts["kept"] += 1
    else:
      counts["unrewarded"] += 1
  return kept, counts


def judge(
  r: Recording, evaluation: str = "all", nl_judge: rewards.Judge | None = None
) -> Judged:
  """Replays the calls, as they were made, and judges what became of them."""
  rules = store.store(base_domain(r.domain))
  # As tau2 does: arguments as they were, powers in `calculate` allowed.
  world = rules.world(r.task, r.solo, safe=False)
  diverged = None
  if r.termination in rewards.STOPS:
    initial = r.task.initial_state
    begun = len((initial.message_history if initial else None) or [])
    diverged = _replay(world, r.turns, begun)
  verdict = rewards.verdict(
    r.task, r.turns, r.termination, world, rules, evaluation, nl_judge
  )
  return Judged(verdict, diverged)


def _replay(
  world: store.World, turns: tuple[Turn, ...], begun: int
) -> int | None:
  diverged = None
  for i in range(begun, len(turns)):
    for j, call in enumerate(turns[i].tool_calls, 1):
      content, _ = world.call(call.name, call.arguments, call.requestor)
      said = turns[i + j].content if i + j < len(turns) else None
      if diverged is None and _plain(content) != _plain(said):
        diverged = i + j
  return diverged


def _plain(content: str | None) -> Any:
  """An answer for comparison. Ids of new telecom bills are random."""
  text = re.sub(r"\bB[0-9a-f]{8}\b", "B", content or "")
  try:
    return json.loads(text)
  except ValueError:
    return text


def _json(path: Path) -> Any:
  opener = gzip.open if path.suffix == ".gz" else open
  try:
    with opener(path, "rt", encoding="utf-8") as f:
      if ".jsonl" not in path.suffixes:
        return json.load(f)
      lines = [json.loads(line) for line in f]
      # A broken user or environment is no conversation to be judged.
      return {"simulations": [s for s in lines if not s.get("failure")]}
  except FileNotFoundError:
    raise ValueError(f"{path}: no such file") from None
  except (ValueError, EOFError, gzip.BadGzipFile) as e:
    raise ValueError(f"{path} does not parse as JSON: {e}") from None


def _own_tasks(path: Path, raw: list[Any]) -> dict[str, Any]:
  from tau2.data_model.tasks import Task

  try:
    return {t["id"]: Task.model_validate(t) for t in raw}
  except (ValueError, KeyError, TypeError) as e:
    raise ValueError(f"{path}: a task does not parse: {e}") from None


def _recording(
  s: Mapping[str, Any], domain: str | None, solo: bool, tasks: dict[str, Any]
) -> Recording:
  if domain is None:
    raise KeyError("domain")
  task_id = s["task_id"]
  task = tasks.get(task_id)
  if task is None:
    task = stream.task(TaskSpec(domain, task_id, "recorded", solo))
  info = s.get("reward_info") or {}
  return Recording(
    domain=domain,
    solo=solo,
    task=task,
    turns=tuple(_turn(m) for m in s["messages"]),
    termination=s["termination_reason"],
    reward=s["reward"] if "reward" in s else info.get("reward"),
    parts=info.get("reward_breakdown"),
  )


def _turn(m: Mapping[str, Any]) -> Turn:
  if m["role"] == "tool":
    return Turn(
      "tool",
      m.get("content"),
      call_id=m["id"],
      requestor=m.get("requestor", "assistant"),
      error=m.get("error", False),
      timestamp=m.get("timestamp"),
    )
  calls = tuple(
    ToolCall(
      c.get("id", ""),
      c["name"],
      c["arguments"],
      c.get("requestor", "assistant"),
    )
    for c in m.get("tool_calls") or ()
  )
  return Turn(m["role"], m.get("content"), calls, timestamp=m.get("timestamp"))
