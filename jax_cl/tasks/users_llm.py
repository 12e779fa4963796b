"""tau2's own LLM user, through any litellm model or OpenAI-compatible address.

The prompt, the guidelines and the flow of messages are those of
`tau2.user.user_simulator.UserSimulator`, which runs here unchanged but for
retries and time-outs. tau2's simulator and litellm (8-10 s) are imported when
the first episode starts, never before.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from jax_cl.tasks.users import UserError
from jax_cl.types import Scenario, ToolCall, ToolSchema, Turn, User

# Asking again does not help: bad request, no such key, model or permission.
_HOPELESS = (400, 401, 403, 404, 422)
# Recent litellm imports this for any request with tools, and it needs a
# package that litellm does not depend on. Tools of a gateway, which it is
# for, are not ours.
_MCP = "litellm.responses.mcp.chat_completions_handler"


def make(
  model: str,
  base_url: str | None = None,
  api_key: str | None = None,
  temperature: float = 0.0,
  timeout_s: float = 60.0,
  retries: int = 4,
  backoff_s: float = 1.0,
  options: Mapping[str, Any] | None = None,
) -> Callable[[], User]:
  """A factory of LLM users.

  model:     litellm's name of it; "openai/<name>" with a `base_url`.
  timeout_s: of one request.
  retries:   how often a failed request is sent again, after `backoff_s`,
             twice that, four times that, at most 60 seconds. Then `UserError`:
             the episode failed, and says nothing about the agent.
  options:   whatever else `litellm.completion` takes.
  """
  if retries < 0 or timeout_s <= 0 or backoff_s < 0:
    raise ValueError(
      f"retries={retries}, timeout_s={timeout_s}, backoff_s={backoff_s}: "
      "retries and backoff_s must not be negative, timeout_s must be positive"
    )
  arguments: dict[str, Any] = {
    "temperature": temperature,
    "timeout": timeout_s,
    "num_retries": 0,  # litellm's and tau2's own, which do not wait
    "max_retries": 0,  # the OpenAI client's
    **(options or {}),
  }
  if base_url is not None:
    arguments["api_base"] = base_url
    arguments["api_key"] = api_key or "none"  # local servers ask for none
  elif api_key is not None:
    arguments["api_key"] = api_key
  return lambda: _Simulated(model, arguments, retries, backoff_s)


def _instructions(scenario: Scenario) -> str:
  """What tau2 writes into the prompt: `str` of the task's user scenario."""
  from tau2.data_model.tasks import StructuredUserInstructions, UserScenario

  told: StructuredUserInstructions | str = scenario.reason_for_call
  if scenario.task_instructions is not None:
    told = StructuredUserInstructions(
      domain=scenario.domain,
      reason_for_call=scenario.reason_for_call,
      known_info=scenario.known_info,
      unknown_info=scenario.unknown_info,
      task_instructions=scenario.task_instructions,
    )
  return str(UserScenario(persona=scenario.persona, instructions=told))


def _schema(tool: ToolSchema) -> SimpleNamespace:
  """The one attribute of a tau2 tool that its `generate` reads."""
  function = {
    "name": tool.name,
    "description": tool.description,
    "parameters": dict(tool.parameters),
  }
  return SimpleNamespace(
    openai_schema={"type": "function", "function": function}
  )


class _Simulated:
  """One episode of tau2's `UserSimulator`."""

  def __init__(
    self, model: str, arguments: dict[str, Any], retries: int, backoff_s: float
  ):
    self._model, self._arguments = model, arguments
    self._retries, self._backoff_s = retries, backoff_s

  def start(
    self, scenario: Scenario, tools: Sequence[ToolSchema], seed: int
  ) -> None:
    from tau2.user.user_simulator import UserSimulator

    schemas: Any = [_schema(t) for t in tools] or None
    instructions: Any = _instructions(scenario)  # tau2 passes a str as well
    arguments = {**self._arguments, "seed": seed}
    if importlib.util.find_spec(_MCP):
      arguments["_skip_mcp_handler"] = True
    self._simulator = UserSimulator(
      schemas, instructions, self._model, arguments
    )
    self._state = self._simulator.get_init_state()

  def reply(self, turns: Sequence[Turn]) -> Turn:
    messages = [_to_tau2(t) for t in turns]
    if not messages:
      raise ValueError("the user was given nothing to reply to")
    *before, last = messages
    if last.role == "tool" and before:
      last, before = _bundle(messages), []
    self._state.messages.extend(before)
    known = len(self._state.messages)
    error: Exception = ValueError("the model said nothing")
    attempt = 0
    for attempt in range(self._retries + 1):
      try:
        said, _ = self._simulator.generate_next_message(last, self._state)
        if said.tool_calls or (said.content or "").strip():
          return _to_turn(said)
      except ImportError:
        raise  # the installation is broken, not the episode
      except Exception as e:  # litellm raises some thirty kinds
        error = e
      del self._state.messages[known:]
      if getattr(error, "status_code", None) in _HOPELESS:
        break
      if attempt < self._retries:
        time.sleep(min(60.0, self._backoff_s * 2**attempt))
    raise UserError(
      f"user model {self._model!r} failed {attempt + 1} times: "
      f"{type(error).__name__}: {error}"
    ) from error


def _to_tau2(turn: Turn) -> Any:
  from tau2.data_model.message import AssistantMessage, ToolMessage

  if turn.role == "tool":
    return ToolMessage(
      id=turn.call_id or "",
      role="tool",
      content=turn.content,
      requestor="user",
      error=turn.error,
    )
  return AssistantMessage(role="assistant", content=turn.content)


def _bundle(messages: Sequence[Any]) -> Any:
  from tau2.data_model.message import MultiToolMessage

  return MultiToolMessage(role="tool", tool_messages=list(messages))


def _to_turn(message: Any) -> Turn:
  """A call and words at once are a call: tau2 does not show such words."""
  calls = tuple(
    ToolCall(c.id, c.name, c.arguments, "user")
    for c in message.tool_calls or ()
  )
  return Turn("user", None if calls else message.content, calls)
