"""tau2's verdict, read off the live state instead of a replay.

The stock evaluator replays the episode in a fresh environment, replays the
gold actions in another, and compares hashes of whole databases. The live
state *is* the replayed one, and the gold one is the same for every episode of
a task, so that both replays and the hashes can go. Rewards and parts equal
stock's for any episode which the stock evaluator can judge; it cannot where
a replay does not repeat itself (random bill ids) or a power was refused.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import Any

from jax_cl import names
from jax_cl.tasks import store
from jax_cl.types import Turn, Verdict

EVALUATIONS = (
  "env",
  "action",
  "communicate",
  "all",
  "nl_assertions",
  "all_with_nl_assertions",
)
STOPS = ("agent_stop", "user_stop")

# (turns, assertions) -> met or not, one bool an assertion
Judge = Callable[[Sequence[Turn], Sequence[str]], Sequence[bool]]


def verdict(
  task: Any,
  turns: Sequence[Turn],
  termination: str,
  world: store.World,
  rules: store.Store | store.StockStore,
  evaluation: str = "all",
  judge: Judge | None = None,
) -> Verdict:
  """Judges a finished episode as `tau2.evaluator.evaluate_simulation` would.

  Args:
    evaluation: one of `EVALUATIONS`. Only parts in the task's reward basis
      count, except that "action", "communicate" and "nl_assertions" judge
      that one part whatever the basis.
    judge: decides assertions in natural language, see `litellm_judge`.
  """
  names.check("evaluation", evaluation, EVALUATIONS)
  if termination not in STOPS:
    return Verdict(0.0, {}, (), note=termination)
  criteria = task.evaluation_criteria
  if criteria is None:
    return Verdict(1.0, {}, (), note="no evaluation criteria")
  basis = tuple(b.value for b in criteria.reward_basis)

  parts: dict[str, float] = {}
  every = evaluation in ("all", "all_with_nl_assertions")
  if evaluation == "env" or every:
    parts |= _environment(task, basis, world, rules)
  if evaluation == "action" or (every and "ACTION" in basis):
    parts["ACTION"] = _actions(criteria.actions or [], turns)
  if evaluation == "communicate" or (every and "COMMUNICATE" in basis):
    parts["COMMUNICATE"] = _communicate(criteria.communicate_info or [], turns)
  if every and "NL_ASSERTION" in basis:
    if evaluation == "all":
      raise ValueError(
        f"task {task.id!r} is rewarded by NL_ASSERTION: use evaluation="
        "'all_with_nl_assertions' and a judge"
      )
    parts["NL_ASSERTION"] = _assertions(task, turns, judge)
  if evaluation == "nl_assertions":
    parts["NL_ASSERTION"] = _assertions(task, turns, judge)

  reward = 1.0
  for part in parts.values():
    reward *= part
  return Verdict(reward, parts, basis)


def _environment(
  task: Any, basis: tuple[str, ...], world: store.World, rules: Any
) -> dict[str, float]:
  criteria = task.evaluation_criteria
  if criteria.actions is None and criteria.env_assertions is None:
    return {}  # tau2 gives 1 and names no part
  parts = {}
  if "DB" in basis:  # before the assertions, which may change the state
    parts["DB"] = float(world.state() == rules.gold(task))
  if "ENV_ASSERTION" in basis:
    held = [world.holds(a) for a in criteria.env_assertions or []]
    parts["ENV_ASSERTION"] = float(all(held))
  return parts


def _actions(gold: Sequence[Any], turns: Sequence[Turn]) -> float:
  calls = [c for t in turns if t.role != "tool" for c in t.tool_calls]
  return float(
    all(any(g.compare_with_tool_call(c) for c in calls) for g in gold)
  )


def _communicate(said: Sequence[str], turns: Sequence[Turn]) -> float:
  if not said:
    return 1.0
  texts = [
    t.content.lower().replace(",", "")
    for t in turns
    if t.role == "assistant" and t.content and t.content.strip()
  ]
  return float(all(any(s.lower() in x for x in texts) for s in said))


def _assertions(task: Any, turns: Sequence[Turn], judge: Judge | None) -> float:
  assertions = task.evaluation_criteria.nl_assertions
  if not assertions:
    return 1.0
  if judge is None:
    raise ValueError(
      f"task {task.id!r} has assertions in natural language and no judge was "
      "given: pass judge=rewards.litellm_judge(model), or another evaluation"
    )
  met = list(judge(turns, assertions))
  if len(met) != len(assertions):
    raise ValueError(f"{len(assertions)} assertions, judge decided {len(met)}")
  return float(all(met))


def litellm_judge(model: str, **args: Any) -> Judge:
  """tau2's own judge, with its own prompt, through any litellm model.

  Args:
    args: to litellm, for instance temperature=0, api_base="http://...".

  Nothing is imported and no call is made before the first verdict that needs
  it; then litellm is (8-10 s).
  """

  def judge(turns: Sequence[Turn], assertions: Sequence[str]) -> list[bool]:
    from tau2.evaluator import evaluator_nl_assertions as stock

    from jax_cl.tasks import stock as messages

    # tau2 reads model and arguments from constants of its module: its function
    # over a copy of those names, so that nobody else's judge changes.
    ask = stock.NLAssertionsEvaluator.evaluate_nl_assertions.__func__
    names = {
      **ask.__globals__,
      "DEFAULT_LLM_NL_ASSERTIONS": model,
      "DEFAULT_LLM_NL_ASSERTIONS_ARGS": args,
    }
    ask = types.FunctionType(ask.__code__, names)
    said = [messages.to_tau2(t) for t in turns]
    checks = ask(stock.NLAssertionsEvaluator, said, list(assertions))
    return [check.met for check in checks]

  return judge
