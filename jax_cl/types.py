"""What crosses module lines: host records, pytrees, and the three contracts.

Words: a *task* is one tau2 scenario; a *domain* is airline, retail, ...; a
*stage* is one step of the stream (usually one domain).

Host records (`TaskSpec`, `Turn`, `Episode`, ...) are frozen dataclasses that
never meet `jit`. Pytrees (`Batch`, `TrainState`) are NamedTuples of arrays.
Contracts (`Objective`, `Method`, `Agent`) are NamedTuples of pure functions;
the defaults of `Method` make `Method()` plain sequential training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

Array = Any  # jax.Array or np.ndarray; this module must import without jax
PyTree = Any

# ---------------------------------------------------------------- host records


@dataclasses.dataclass(frozen=True)
class TaskSpec:
  """One scenario, by name. What the scenario holds stays inside `tasks/`.

  `task_id` is tau2's own id. Telecom ids name the faults to be repaired, so it
  is a key for look-ups and logs and is never shown to anything that acts.
  """

  # "airline", "retail", "telecom", "mock", a registered one, or a family of
  # tasks of one, "telecom:mms_issue".
  domain: str
  task_id: str
  split: str  # "train" | "val" | "test"
  solo: bool = False  # no user: the agent holds the user's tools (telecom)

  @property
  def base_domain(self) -> str:
    """The domain whose rules, data and tools it has: a family has its domain's.

    A family is named by task ids, so nothing that acts is told of it.
    """
    return base_domain(self.domain)


def base_domain(domain: str) -> str:
  """See `TaskSpec.base_domain`."""
  return domain.partition(":")[0]


@dataclasses.dataclass(frozen=True)
class ToolSchema:
  """A tool as an agent or a user may see it."""

  name: str
  description: str
  parameters: Mapping[str, Any]  # JSON schema, {"type": "object", ...}
  kind: str  # "read" | "write" | "generic" | "think"
  owner: str = "assistant"  # "assistant" | "user"


@dataclasses.dataclass(frozen=True)
class ToolCall:
  id: str
  name: str
  arguments: Mapping[str, Any]
  requestor: str = "assistant"  # "assistant" | "user"


@dataclasses.dataclass(frozen=True)
class Turn:
  """One message. Either `content` or `tool_calls`, never both, never neither.

  A `tool` turn answers the call `call_id` of `requestor`.
  """

  role: str  # "assistant" | "user" | "tool"
  content: str | None = None
  tool_calls: tuple[ToolCall, ...] = ()
  call_id: str | None = None
  requestor: str | None = None
  error: bool = False
  timestamp: str | None = None  # ISO 8601, set when it is said


@dataclasses.dataclass(frozen=True)
class Scenario:
  """All that a user may know: tau2's `user_scenario`, and nothing else."""

  domain: str
  reason_for_call: str
  known_info: str | None = None
  unknown_info: str | None = None
  task_instructions: str | None = None
  persona: str | None = None


@runtime_checkable
class User(Protocol):
  """The other side of a dialogue. One object an episode, used sequentially."""

  def start(
    self, scenario: Scenario, tools: Sequence[ToolSchema], seed: int
  ) -> None:
    """Begins an episode. `tools` are the user's own (telecom), else empty."""
    ...

  def reply(self, turns: Sequence[Turn]) -> Turn:
    """Answers the turns a user may see that are new since its last reply.

    These are assistant texts and results of the user's own calls. Returns a
    `user` turn: text, or calls of the user's tools; `###STOP###`,
    `###TRANSFER###` or `###OUT-OF-SCOPE###` inside the text ends the episode
    (tau2's convention).
    """
    ...


@dataclasses.dataclass(frozen=True)
class Verdict:
  """tau2's judgement of a finished episode."""

  reward: float  # product of the parts in the task's reward basis
  parts: Mapping[str, float]  # "DB", "COMMUNICATE", "ENV_ASSERTION", "ACTION"
  basis: tuple[str, ...]  # the parts whose product is the reward
  note: str = ""  # why a reward is 0 without parts, e.g. "max_steps"


@dataclasses.dataclass(frozen=True)
class Decision:
  """One choice a learner made, as it will be trained on."""

  obs: Mapping[str, np.ndarray]  # leaves of one row of Batch.obs, without B
  action: int  # index of the option taken
  logp: float  # log-probability under the policy that took it, nats
  head: str = "tool"  # which head chose: "tool" or the pointer's type


@dataclasses.dataclass(frozen=True)
class Episode:
  """One finished (or failed) conversation and what it earned."""

  task: TaskSpec
  turns: tuple[Turn, ...]
  verdict: Verdict
  termination: str  # tau2's reason: "user_stop", "agent_stop", "max_steps", ...
  decisions: tuple[Decision, ...] = ()
  info: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  failure: str = ""  # set when env or user broke: excluded, counted, never 0

  @property
  def reward(self) -> float:
    return self.verdict.reward


@dataclasses.dataclass(frozen=True)
class Stage:
  """One step of the stream. Its learner sees `train`; choices use `val`."""

  name: str  # "airline", or "airline+retail+telecom" for joint
  train: tuple[TaskSpec, ...]
  steps: int  # optimiser steps, demonstrations and policy gradient together
  domains: tuple[str, ...]  # the domains in `train`, in stream order
  clone_steps: int = 0  # how many of `steps`, the first ones, clone `demos`
  fresh: bool = False  # starts from a new learner: independent training


# --------------------------------------------------------------------- pytrees

# A `logp_old` of tokens that no policy sampled (demonstrations, replayed rows
# to be cloned): no log-probability is positive, so it cannot be mistaken.
CLONED = 1.0


class Batch(NamedTuple):
  """Rows to learn from. Every leaf leads with B; padding rows weigh 0.

  Agent layer: a row is one decision, T = 1. Policy layer: a row is one
  conversation, `obs` holds its tokens and T their number. Digits: a row is an
  image, `action` its label.
  """

  obs: PyTree  # leaves [B, ...]
  action: Array  # int32[B, T]
  mask: Array  # float32[B, T], 1 where the policy chose the action
  logp_old: Array  # float32[B, T], the sampler's, not recomputed; or CLONED
  adv: Array  # float32[B]; 1 in cloning, which makes cloning the same loss
  weight: Array  # float32[B]; 0 for padding
  domain: Array  # int32[B], place of the domain in the stream
  task: Array  # int32[B], row of the run's task table; -1 for padding
  reward: Array  # float32[B], of the episode: strategies and filters read it


class TrainState(NamedTuple):
  """All that a checkpoint must bring back."""

  params: PyTree  # trainable
  opt: PyTree
  cl: PyTree  # the method's state; capacity n_stages, never grows
  buffer: PyTree  # memory.Buffer
  key: Array  # PRNG key
  step: Array  # int32[], optimiser steps so far
  stage: Array  # int32[], 0-based
  kept: PyTree = ()  # update.Kept, rows of ended stages; () where none are


# ------------------------------------------------------------------- contracts


class Objective(NamedTuple):
  """All a method may know of a learner. Frozen weights are bound inside."""

  loss: Callable[..., Any]  # (p, batch, key) -> (f32[], aux), weighted mean
  rows: Callable[..., Any]  # (p, batch) -> f32[B], unreduced loss
  logp: Callable[..., Any]  # (p, batch) -> f32[B, T], of the recorded actions
  out: Callable[..., Any]  # (p, batch) -> f32[B, T, V] logits (masked: -1e9)
  fisher: Callable[..., Any]  # (p, batch, key) -> tree like p, nats^2


class Agent(NamedTuple):
  """A learner: scorer, digits MLP, LLM. One `update.py` serves all."""

  init: Callable[..., Any]  # (key) -> (trainable, frozen), new; traceable
  objective: Callable[..., Objective]  # (frozen) -> Objective
  act: Callable[..., Any]  # (p, frozen, obs, key, greedy) -> (a, logp, aux)
  axes: Callable[[], PyTree] | None = None  # () -> logical axis names
  obs_spec: Mapping[str, tuple[tuple[int, ...], Any]] | None = None
  # obs_spec: leaf -> (shape without B, dtype), so that shapes are known early
  load: Callable[..., Any] | None = None
  # load: (key, layout) -> what `init` gives, with pretrained weights, each leaf
  # where the `sharding.Layout` says; reads files, where `init` tells the shapes
