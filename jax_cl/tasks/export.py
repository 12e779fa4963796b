"""Our episodes as tau2's own results file, which `tau2 view` opens."""

from __future__ import annotations

import datetime
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jax_cl.tasks import stream
from jax_cl.tasks.stock import to_tau2
from jax_cl.types import Episode


def save(
  episodes: Sequence[Episode],
  path: str | Path,
  *,
  agent: str = "jax_cl",
  user: str = "scripted",
  max_turns: int = 200,
  max_errors: int = 10,
  seed: int | None = None,
) -> int:
  """Writes episodes of one domain; returns how many.

  Failed episodes are left out, as they have no verdict. Trials are numbered
  by `info["trial"]`, else in the order of a task's episodes. In solo mode
  agent and user carry tau2's names, by which tau2 knows how to judge them.
  """
  from tau2.data_model import simulation as tau2

  episodes = [e for e in episodes if not e.failure]
  kinds = sorted({(e.task.base_domain, e.task.solo) for e in episodes})
  if len(kinds) != 1:
    raise ValueError(
      f"a results file holds one domain, got {kinds or 'no episodes'}: save "
      "each apart"
    )
  ((domain, solo),) = kinds
  seen: Counter[str] = Counter()
  runs = []
  for e in episodes:
    trial = e.info.get("trial", seen[e.task.task_id])
    seen[e.task.task_id] += 1
    runs.append(_run(e, int(trial)))
  specs = {e.task.task_id: e.task for e in episodes}
  results = tau2.Results(
    info=tau2.Info(
      git_commit="unknown",
      num_trials=max(seen.values()),
      max_steps=max_turns,
      max_errors=max_errors,
      user_info=tau2.UserInfo(implementation="dummy_user" if solo else user),
      agent_info=tau2.AgentInfo(
        implementation="llm_agent_solo" if solo else agent, llm=agent
      ),
      environment_info=tau2.EnvironmentInfo(
        domain_name=domain, policy=stream.load(domain, solo=solo).policy
      ),
      seed=seed,
    ),
    tasks=[stream.task(s) for s in specs.values()],
    simulations=runs,
  )
  Path(path).parent.mkdir(parents=True, exist_ok=True)
  results.save(Path(path))
  return len(runs)


def _run(e: Episode, trial: int) -> Any:
  from tau2.data_model import simulation as tau2

  times = [t.timestamp for t in e.turns if t.timestamp]
  start, end = (times[0], times[-1]) if times else ("", "")
  parse = datetime.datetime.fromisoformat
  messages = [to_tau2(t) for t in e.turns]
  for i, message in enumerate(messages):
    message.turn_idx = i
  parts = e.verdict.parts
  db = parts.get("DB")
  return tau2.SimulationRun(
    id=str(uuid.uuid4()),
    task_id=e.task.task_id,
    start_time=start,
    end_time=end,
    duration=(parse(end) - parse(start)).total_seconds() if times else 0.0,
    termination_reason=tau2.TerminationReason(e.termination),
    reward_info=tau2.RewardInfo.model_validate(
      {
        "reward": e.verdict.reward,
        "db_check": None
        if db is None
        else {"db_match": db == 1, "db_reward": db},
        "reward_basis": e.verdict.basis,
        "reward_breakdown": dict(parts),
        "info": {"note": e.verdict.note} if e.verdict.note else None,
      }
    ),
    messages=messages,
    trial=trial,
    seed=e.info.get("seed"),
  )
