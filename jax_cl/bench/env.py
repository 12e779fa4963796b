"""Our environment against tau2's own: the same episodes, timed and judged.

An episode is played once by a reference policy and the scripted user. Then
both sides replay it, saying again what was said:

  stock  builds tau2's environment, runs its Orchestrator, and judges with
         `evaluate_simulation`;
  fast   makes an `Env`, steps it, and takes its verdict.

Neither time contains the policy, the user, or the reading of task files. A
mismatch is any difference of reward, parts, termination or message. Episodes
that the stock evaluator refuses to judge are counted apart.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jax_cl.tasks import env as env_lib
from jax_cl.tasks import reference, stock, stream, users
from jax_cl.types import TaskSpec, Turn

POLICIES = ("do_nothing", "always_transfer", "random", "oracle")
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
  stock.replay(specs[0], play(specs[0], make_policy()).turns)  # imports
  stock_s = fast_s = reward = 0.0
  unjudged = mismatches = 0
  for i, spec in enumerate(specs):
    played = play(spec, make_policy(), seed=i)
    start = time.perf_counter()
    try:
      judged = stock.replay(spec, played.turns)
    except ValueError as e:
      if not stock.refused(e):
        raise
      unjudged += 1
      continue
    middle = time.perf_counter()
    again = replay(spec, played.turns)
    verdict = again.verdict()
    fast_s += time.perf_counter() - middle
    stock_s += middle - start
    reward += verdict.reward
    mismatches += bool(stock.differences(again, *judged))
  judged_n = len(specs) - unjudged
  return {
    "domain": name,
    "policy": policy,
    "episodes": judged_n,
    "unjudged": unjudged,
    "stock_eps": judged_n / stock_s,
    "fast_eps": judged_n / fast_s,
    "ratio": stock_s / fast_s,
    "mismatches": mismatches,
    "mean_reward": reward / judged_n,
  }


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
