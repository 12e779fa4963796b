"""One episode of a task: tau2's orchestrator without its overhead.

Order of events, counting of steps and errors, and names of terminations are
those of `tau2.orchestrator.Orchestrator` with `validate_communication=True`.
"""

from __future__ import annotations

import datetime
import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any

from jax_cl.tasks import rewards, schema, store, stream
from jax_cl.types import (
  Decision,
  Episode,
  TaskSpec,
  ToolCall,
  Turn,
  User,
  Verdict,
)

GREETING = "Hi! How can I help you today?"
STOP = "###STOP###"
# Characters of one answer. tau2's `cancel_reservation` doubles a reservation's
# payment history each time it is called: thirty calls would fill the memory.
# No answer to a gold action has 4,000.
MAX_ANSWER = 100_000
USER_STOPS = (STOP, "###TRANSFER###", "###OUT-OF-SCOPE###")


class Env:
  """An episode. The agent moves, everything else answers.

    env = Env(spec, user)
    turns = env.reset()
    while not env.done:
      turns = env.step(policy(env))
    env.verdict().reward

  In a dialogue only the user ends the episode; in solo mode, where there is
  no user, the agent does by saying ###STOP###.
  """

  def __init__(
    self,
    spec: TaskSpec,
    user: User | None = None,
    *,
    seed: int = 0,
    max_turns: int = 200,
    max_errors: int = 10,
  ):
    """`max_turns` is tau2's `max_steps`, by its default; answers of tools to
    one turn count as one. Tool errors are counted in total, not in a row."""
    if user is None and not spec.solo:
      raise ValueError(
        f"{spec.domain} is a dialogue: pass a user, for instance "
        "users.make('scripted')(), or a spec of a domain loaded with solo=True"
      )
    if user is not None and spec.solo:
      raise ValueError("solo mode has no user: leave it out")
    self.spec = spec
    self.domain = stream.load(spec.domain, solo=spec.solo)
    self.user = user
    self.seed = seed
    self.max_turns = max_turns
    self.max_errors = max_errors
    self.ticket = stream.ticket(spec) if spec.solo else None
    self.termination: str | None = None
    self._rules = store.store(spec.base_domain)
    self._task = stream.task(spec)
    self._world = self._rules.world(self._task, spec.solo)
    self._turns: list[Turn] = []
    self._heard = 0  # turns the user has been shown
    self._steps = 0
    self._errors = 0
    self._clock = 0  # microseconds
    self._begun = False

  @property
  def turns(self) -> tuple[Turn, ...]:
    return tuple(self._turns)

  @property
  def done(self) -> bool:
    return self.termination is not None

  def reset(self) -> tuple[Turn, ...]:
    """Everything up to the agent's first move. Once an episode."""
    if self._begun:
      raise ValueError("an Env is one episode: make a new one")
    self._begun = True
    initial = self._task.initial_state
    history = (initial.message_history if initial else None) or []
    for message in history:
      self._say(from_tau2(message))
    if self.user is not None:
      self.user.start(
        stream.scenario(self.spec), self.domain.user_tools, self.seed
      )
      if not history:
        self._say(Turn("assistant", GREETING))
      self._resume()
    elif history and history[-1].role == "assistant":
      self._run_tools(self._turns[-1])
      self._settle()
    return self.turns

  def step(self, turn: Turn) -> tuple[Turn, ...]:
    """The agent's move, and all turns until it is to move again, or the end.

    Arguments are coerced by the tool's schema (see `schema.coerce`), and the
    recorded turn holds the coerced ones. A turn with both text and calls, or
    with neither, ends the episode by "agent_error", and so do words that are
    not ###STOP### in solo mode.
    """
    if not self._begun:
      raise ValueError("call reset() before step()")
    if self.done:
      raise ValueError(f"the episode has ended by {self.termination!r}")
    if turn.role != "assistant":
      raise ValueError(f"the agent speaks as 'assistant', not {turn.role!r}")
    start = len(self._turns)
    # tau2 asks a solo agent for its first message before it counts steps.
    first = self.spec.solo and not self._turns
    turn = self._say(turn, "assistant")
    self._steps += not first
    if _malformed(turn):
      self.termination = "agent_error"
    elif turn.tool_calls:
      self._run_tools(turn)
      self._settle()
    elif self.spec.solo:
      stopped = STOP in (turn.content or "")
      self.termination = "agent_stop" if stopped else "agent_error"
      if not first:
        self._settle()
    else:
      self._settle()
      self._converse()
    return tuple(self._turns[start:])

  def verdict(
    self, evaluation: str = "all", judge: rewards.Judge | None = None
  ) -> Verdict:
    """tau2's judgement of the finished episode."""
    if not self.done:
      raise ValueError("the episode has not ended: no verdict yet")
    assert self.termination is not None
    return rewards.verdict(
      self._task,
      self._turns,
      self.termination,
      self._world,
      self._rules,
      evaluation,
      judge,
    )

  def episode(
    self,
    decisions: Sequence[Decision] = (),
    info: Mapping[str, Any] | None = None,
    verdict: Verdict | None = None,
  ) -> Episode:
    return Episode(
      task=self.spec,
      turns=self.turns,
      verdict=verdict or self.verdict(),
      termination=self.termination or "",
      decisions=tuple(decisions),
      info=dict(info or {}),
    )

  # ------------------------------------------------------------------ inside

  def _resume(self) -> None:
    """Goes on from the last turn of a history, or from the greeting."""
    last = self._turns[-1]
    if last.tool_calls:
      self._run_tools(last)
      self._settle()
      if last.role == "user" and not self.done:
        self._converse()
    elif last.role == "user":
      if any(s in (last.content or "") for s in USER_STOPS):
        self.termination = "user_stop"
    elif last.role == "assistant" or last.requestor == "user":
      self._converse()

  def _converse(self) -> None:
    """The user speaks, and calls its tools, until it is the agent's move."""
    assert self.user is not None
    while not self.done:
      news = [t for t in self._turns[self._heard :] if _audible(t)]
      self._heard = len(self._turns)
      turn = self._say(self.user.reply(news), "user")
      self._heard = len(self._turns)
      self._steps += 1
      if _malformed(turn):
        self.termination = "user_error"
        return
      if turn.tool_calls:
        self._run_tools(turn)
        self._settle()
        continue
      if any(s in (turn.content or "") for s in USER_STOPS):
        self.termination = "user_stop"
      self._settle()
      return

  def _run_tools(self, turn: Turn) -> None:
    for call in turn.tool_calls:
      content, error = self._world.call(
        call.name, call.arguments, call.requestor
      )
      self._errors += error
      if len(content) > MAX_ANSWER:
        self.termination = "agent_error"
        content = content[:MAX_ANSWER]
      answer = Turn("tool", content, (), call.id, call.requestor, error)
      self._say(answer)
    self._steps += 1

  def _settle(self) -> None:
    """tau2's limits, checked when nobody waits for a tool.

    They overrule a stop said in the same step, as they do in tau2.
    """
    if self._steps >= self.max_turns:
      self.termination = "max_steps"
    if self._errors >= self.max_errors:
      self.termination = "too_many_errors"

  def _say(self, turn: Turn, speaker: str = "") -> Turn:
    """Records a turn with a time of its own: tau2 sorts trajectories by it.

    The calls of a `speaker` are its own, whatever they claim, and their
    arguments are coerced by the schemas of its tools.
    """
    self._clock = max(time.time_ns() // 1000, self._clock + 1)
    seconds, fraction = divmod(self._clock, 1_000_000)
    calls = turn.tool_calls
    if speaker and calls:
      known, coerce = self.domain.parameters[speaker], schema.coerce
      calls = tuple(
        ToolCall(c.id, c.name, coerce(known.get(c.name), c.arguments), speaker)
        for c in calls
      )
    turn = Turn(
      speaker or turn.role,
      turn.content,
      calls,
      turn.call_id,
      turn.requestor,
      turn.error,
      f"{_second(seconds)}.{fraction:06d}",
    )
    self._turns.append(turn)
    return turn


def failed(
  spec: TaskSpec,
  turns: Sequence[Turn],
  why: str,
  info: Mapping[str, Any] | None = None,
) -> Episode:
  """An episode whose user or environment broke: it earned nothing, not 0."""
  none = Verdict(0.0, {}, (), why)
  return Episode(spec, tuple(turns), none, "failed", (), info or {}, why)


@functools.lru_cache(maxsize=4)
def _second(seconds: int) -> str:
  return datetime.datetime.fromtimestamp(seconds).isoformat()


def _malformed(turn: Turn) -> bool:
  return bool(turn.tool_calls) == bool((turn.content or "").strip())


def _audible(turn: Turn) -> bool:
  """What a user hears: the agent's words and answers to its own calls."""
  if turn.role == "assistant":
    return not turn.tool_calls
  return turn.role == "tool" and turn.requestor == "user"


def from_tau2(message: Any) -> Turn:
  """tau2's message as a turn."""
  if message.role == "tool":
    return Turn(
      "tool",
      message.content,
      call_id=message.id,
      requestor=message.requestor,
      error=message.error,
    )
  return Turn(
    message.role,
    message.content,
    tuple(
      ToolCall(c.id, c.name, c.arguments, c.requestor)
      for c in message.tool_calls or ()
    ),
  )
