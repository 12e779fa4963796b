"""Our environment against tau2's own: the same episodes, timed and judged.

An episode is played once by a reference policy and the scripted user. Then
both sides replay it, saying again what was said:

  stock  builds tau2's environment, runs its Orchestrator, and judges with
         `evaluate_simulation`;
  fast   makes an `Env`, steps it, and takes its verdict.

Neither time contains the policy, the user, or the reading of task files. The
fast side is timed over some passes, since training repeats its tasks, too. A
mismatch is any difference of reward, parts, termination or message. Episodes
that the stock evaluator refuses to judge are counted apart.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jax_cl.tasks import env as env_lib
from jax_cl.tasks import reference, stock, stream, users
from jax_cl.types import TaskSpec, Turn

POLICIES = ("do_nothing", "always_transfer", "random", "oracle")
PASSES = 3
EPISODES = {  # a policy
  "mock": 9,
  "airline": 30,
  "retail": 30,
  "telecom": 150,
  "telecom_solo": 50,
}


def run(
  episodes: Mapping[str, int] = EPISODES,
  policies: Sequence[str] = POLICIES,
  seed: int = 0,
) -> Iterator[dict[str, Any]]:
  """Rows {domain, policy, episodes, unjudged, stock_eps, fast_eps, ratio,
  mismatches, mean_reward}; `*_eps` are episodes a second."""
  for domain, n in episodes.items():
    for policy in policies:
      yield _row(domain, policy, n, seed)


def _row(name: str, policy: str, n: int, seed: int) -> dict[str, Any]:
  domain, _, solo = name.partition("_")
  specs = _specs(domain, bool(solo), n, seed)
  make_policy = reference.make(policy, seed)
  played = [play(s, make_policy(), seed=i) for i, s in enumerate(specs)]
  _warm_up(played[0])
  judged = []
  stock_s = 0.0
  for env in played:
    start = time.perf_counter()
    try:
      judged.append((env, *stock.replay(env.spec, env.turns)))
    except ValueError as e:
      if not stock.refused(e):
        raise
      continue
    stock_s += time.perf_counter() - start
  gc.collect()  # what stock has left behind
  start = time.perf_counter()
  for _ in range(PASSES):
    again = [replay(env.spec, env.turns) for env, *_ in judged]
    verdicts = [env.verdict() for env in again]
  fast_s = (time.perf_counter() - start) / PASSES
  wrong = sum(
    bool(stock.differences(env, run, info))
    for env, (_, run, info) in zip(again, judged, strict=True)
  )
  count = len(judged)
  return {
    "domain": name,
    "policy": policy,
    "episodes": count,
    "unjudged": len(specs) - count,
    "stock_eps": count / stock_s,
    "fast_eps": count / fast_s,
    "ratio": stock_s / fast_s,
    "mismatches": wrong,
    "mean_reward": sum(v.reward for v in verdicts) / count,
  }


def _warm_up(env: env_lib.Env) -> None:
  """Imports tau2's evaluator before anything is timed."""
  try:
    stock.replay(env.spec, env.turns)
  except ValueError as e:
    if not stock.refused(e):
      raise


def _specs(domain: str, solo: bool, n: int, seed: int) -> list[TaskSpec]:
  """`n` tasks of all splits in random order, over again where there are
  fewer."""
  splits = stream.load(domain, solo=solo).splits
  specs = [s for name in ("train", "val", "test") for s in splits[name]]
  random.Random(seed).shuffle(specs)
  return [specs[i % len(specs)] for i in range(n)]


def play(
  spec: TaskSpec, policy: reference.Policy, seed: int = 0
) -> env_lib.Env:
  """A whole episode with the scripted user."""
  user = None if spec.solo else users.make("scripted")()
  env = env_lib.Env(spec, user, seed=seed)
  env.reset()
  while not env.done:
    env.step(policy(env))
  return env


def replay(spec: TaskSpec, turns: Sequence[Turn]) -> env_lib.Env:
  """The same episode, with both sides saying what they said in `turns`."""
  new = turns[stock.said_before(spec) :]
  mine = iter([t for t in new if t.role == "assistant"])
  env = env_lib.Env(spec, None if spec.solo else _Replayed(new))
  env.reset()
  while not env.done:
    env.step(next(mine))
  return env


class _Replayed:
  def __init__(self, turns: Sequence[Turn]):
    self._turns = turns

  def start(self, scenario, tools, seed) -> None:
    self._theirs = iter([t for t in self._turns if t.role == "user"])

  def reply(self, turns: Sequence[Turn]) -> Turn:
    return next(self._theirs)
