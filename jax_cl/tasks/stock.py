"""An episode once more through tau2's own orchestrator and evaluator.

The reference for parity and for speed: `jax_cl.bench.env` and the tests use
it, nothing else does. Importing tau2's evaluator takes litellm along, 8-10 s.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from jax_cl.tasks import store, stream
from jax_cl.tasks.env import Env
from jax_cl.types import TaskSpec, Turn


def replay(
  spec: TaskSpec,
  turns: Sequence[Turn],
  *,
  max_steps: int = 200,
  max_errors: int = 10,
  evaluation: str = "all",
) -> tuple[Any, Any]:
  """(SimulationRun, RewardInfo) where both sides say again what they said.

  Builds the stock environment, runs the stock orchestrator, and judges by
  `evaluate_simulation`, the work that tau2 does for one episode.
  """
  from tau2.evaluator.evaluator import EvaluationType, evaluate_simulation
  from tau2.orchestrator.orchestrator import Orchestrator
  from tau2.registry import registry

  task = stream.task(spec)
  _restore_vpn()
  constructor: Any = registry.get_env_constructor(spec.base_domain)
  environment = constructor(solo_mode=spec.solo)
  agent, user = _speakers(
    turns[said_before(spec) :], environment, task, spec.solo
  )
  run = Orchestrator(
    domain=spec.base_domain,
    agent=agent,
    user=user,
    environment=environment,
    task=task,
    max_steps=max_steps,
    max_errors=max_errors,
    solo_mode=spec.solo,
    validate_communication=True,
  ).run()
  _restore_vpn()  # else the judge starts from what the episode left behind
  reward = evaluate_simulation(
    run,
    task,
    EvaluationType(evaluation),
    solo_mode=spec.solo,
    domain=spec.base_domain,
  )
  return run, reward


def said_before(spec: TaskSpec) -> int:
  """Turns before anybody decides: the task's history, else the greeting."""
  initial = stream.task(spec).initial_state
  history = (initial.message_history if initial else None) or []
  return len(history) or (0 if spec.solo else 1)


def refused(error: ValueError) -> bool:
  """Whether the stock evaluator could not judge, rather than broke.

  It raises where its replay does not repeat the answers of tools, and where
  an assertion asks for something that is not there.
  """
  text = str(error)
  return "\n\nReturned:\n" in text or text.endswith(" not found")


def differences(
  env: Env, run: Any, info: Any, evaluation: str = "all"
) -> list[str]:
  """What the two sides disagree in; empty where they are equal."""
  verdict = env.verdict(evaluation)
  parts = {k.value: v for k, v in (info.reward_breakdown or {}).items()}
  pairs = {
    "reward": (verdict.reward, info.reward),
    "parts": (dict(verdict.parts), parts),
    "termination": (env.termination, run.termination_reason.value),
    "messages": (
      [_plain(to_tau2(t)) for t in env.turns],
      [_plain(m) for m in run.messages],
    ),
  }
  return [
    f"{name}: ours {ours!r}, tau2's {theirs!r}"
    for name, (ours, theirs) in pairs.items()
    if ours != theirs
  ]


def _plain(message: Any) -> str:
  # As text: tau2 compares by `==`, to which 2 and 2.0 are the same.
  kept = {"role", "content", "tool_calls", "id", "requestor", "error"}
  return message.model_dump_json(include=kept)


def _restore_vpn() -> None:
  """Undoes what `break_vpn` of earlier episodes did to a class attribute."""
  from tau2.domains.telecom.user_tools import TelecomUserTools

  TelecomUserTools.default_vpn_details = store.vpn_default(TelecomUserTools)


def _speakers(
  turns: Sequence[Turn], environment: Any, task: Any, solo: bool
) -> tuple[Any, Any]:
  from tau2.agent.base import LocalAgent
  from tau2.agent.llm_agent import LLMSoloAgent
  from tau2.user.user_simulator import DummyUser, UserSimulator

  now = lambda t: to_tau2(dataclasses.replace(t, timestamp=None))
  mine = (now(t) for t in turns if t.role == "assistant")
  theirs = (now(t) for t in turns if t.role == "user")

  base: Any = LLMSoloAgent if solo else LocalAgent

  class Agent(base):
    def __init__(self, says: Iterator[Any]):
      self.says = says

    def get_init_state(self, message_history=None):
      return None

    def generate_next_message(self, message, state):
      return next(self.says), state

  class Replayed(UserSimulator):
    def get_init_state(self, message_history=None):
      return None

    def generate_next_message(self, message, state):
      return next(theirs), state

  return Agent(mine), DummyUser() if solo else Replayed()


def to_tau2(turn: Turn) -> Any:
  """A turn as tau2's message, said now where the turn has no time."""
  from tau2.data_model.message import (
    AssistantMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
  )

  time: Any = {"timestamp": turn.timestamp} if turn.timestamp else {}
  requestor: Any = turn.requestor or "assistant"
  if turn.role == "tool":
    return ToolMessage(
      id=turn.call_id or "",
      role="tool",
      content=turn.content,
      requestor=requestor,
      error=turn.error,
      **time,
    )
  calls = [
    ToolCall.model_construct(
      id=c.id, name=c.name, arguments=dict(c.arguments), requestor=c.requestor
    )
    for c in turn.tool_calls
  ]
  cls: Any = AssistantMessage if turn.role == "assistant" else UserMessage
  return cls(
    role=turn.role, content=turn.content, tool_calls=calls or None, **time
  )
