"""Episodes of an LLM: environments in turn with an engine's slots.

While environments answer, the engine decodes for the others, and waits only
where no conversation has an answer to give. Draws are keyed by a job's seed and
the token's place, so that an episode does not depend on which others run beside
it, nor on whose environment answers first.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jax_cl import chat as chat_lib
from jax_cl import engine as engine_lib
from jax_cl import guides
from jax_cl.tasks import workers
from jax_cl.types import Episode, TaskSpec, Turn

Grammars = Mapping[str, guides.Grammar]


@dataclasses.dataclass(frozen=True)
class Job:
  """One episode to be run."""

  spec: TaskSpec
  seed: int  # of the user and of the draws
  info: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Done:
  """A finished episode and the rows of tokens it is learned from.

  One row, but with thinking = "strip" one a thought: only the last holds the
  whole conversation, and every sampled token has mask 1 in exactly one.
  """

  episode: Episode
  rows: tuple[chat_lib.Row, ...]  # () where the episode failed


class _Live:
  """An episode under way."""

  def __init__(self, job: Job, prompt: chat_lib.Prompt):
    self.job, self.prompt = job, prompt
    self.events: collections.Counter[str] = collections.Counter()
    self.info: dict[str, Any] = {}
    self.answers = 0
    self.rows: list[chat_lib.Row] = []
    self.thought = False  # whether its last answer's is to be stripped
    self.heard = guides.Heard()  # followed where decoding is constrained

  def begin(self, ids: Sequence[int]) -> None:
    """A row of its own: the prompt, and ids that are not sampled in it."""
    self.rows.append(chat_lib.Row())
    self.rows[-1].say(self.prompt.ids)
    self.rows[-1].say(ids)

  @property
  def own(self) -> list[int]:
    """Ids of the row under way, behind the prompt."""
    return self.rows[-1].ids[len(self.prompt.ids) :]

  def guide(
    self, grammars: Grammars | None, turns: Sequence[Turn]
  ) -> guides.Guide | None:
    """Of the next answer, once the policy is shown these turns."""
    if grammars is None:
      return None
    self.heard.hear(turns)
    return grammars[self.job.spec.domain].guide(self.heard)

  def done(self, episode: Episode, engine: engine_lib.Engine) -> Done:
    info = {
      **self.job.info,
      "seed": self.job.seed,
      "answers": self.answers,
      "events": dict(self.events),
      "tokens": sum(map(len, self.rows[-1:])),
      "tokens_sampled": sum(sum(row.mask) for row in self.rows),
      "weights": {"version": engine.version, "checksum": engine.checksum},
      **self.info,
    }
    rows = () if episode.failure else tuple(self.rows)
    return Done(dataclasses.replace(episode, info=info), rows)


def run(
  engine: engine_lib.Engine,
  chat: chat_lib.Chat,
  jobs: Sequence[Job],
  prompts: Mapping[str, chat_lib.Prompt],
  envs: workers.Environments,
  *,
  sampling: engine_lib.Sampling = engine_lib.Sampling(),
  max_new_tokens: int = 256,
  grammars: Grammars | None = None,
) -> list[Done]:
  """Runs every job; results in the jobs' order.

  Args:
    prompts: of each domain.
    max_new_tokens: of an answer; one that is cut does not parse.
    grammars: of each domain, where decoding is constrained.

  An answer that is no turn (`chat.EVENTS`), or finds no room in the context
  ("context"), ends its episode by tau2's "agent_error" and is counted in
  `info["events"]`.
  """
  for job in jobs:
    if job.spec.domain not in prompts:
      raise ValueError(
        f"no prompt for domain {job.spec.domain!r}; there are {list(prompts)}"
      )
  # Slots share a prefix: jobs of a domain run together.
  order = sorted(range(len(jobs)), key=lambda i: jobs[i].spec.domain)
  todo = collections.deque(order)
  live: dict[int, _Live] = {}
  done: dict[int, Done] = {}

  envs.clear()  # of a call that was interrupted

  def hear(i: int, seen: workers.Seen) -> None:
    """What an environment says goes to the engine, or ends the episode."""
    one = live[i]
    if seen.episode is not None:
      if one.rows:
        engine.close(i)
      done[i] = live.pop(i).done(seen.episode, engine)
    elif one.rows and not one.thought:
      suffix = chat.suffix(seen.turns)
      one.rows[-1].say(suffix)
      guide = one.guide(grammars, seen.turns)
      engine.reply(i, suffix, max_new_tokens, guide)
    else:
      if one.rows:
        engine.close(i)
        one.begin([*chat.stripped(one.own), *chat.suffix(seen.turns)])
      else:
        one.begin(chat.opening(one.prompt, seen.turns))
      engine.submit(
        i,
        one.prompt.ids,
        one.own,
        seed=jobs[i].seed,
        sampling=sampling,
        max_tokens=max_new_tokens,
        guide=one.guide(grammars, seen.turns),
      )

  while todo or live:
    while todo and len(live) < engine.slots:
      i = todo.popleft()
      live[i] = _Live(jobs[i], prompts[jobs[i].spec.domain])
      envs.begin(i, jobs[i].spec, jobs[i].seed)
    for i, seen in envs.ready(wait=not engine.busy):
      hear(i, seen)
    for answer in engine.step() if engine.busy else ():
      envs.act(answer.key, _take(chat, live[answer.key], answer))
  return [done[i] for i in range(len(jobs))]


def _take(chat: chat_lib.Chat, one: _Live, answer: engine_lib.Answer) -> Turn:
  """Records an answer; the turn that it is."""
  one.rows[-1].sample(
    answer.ids, answer.logprobs, answer.versions, answer.supports
  )
  one.answers += 1
  one.thought = chat.thinks(answer.ids)
  call_id = f"call_{one.answers}"
  if answer.reason == "context":
    said = chat_lib.Answer(None, "context", "the context is full")
  else:
    said = chat.parse(answer.ids, call_id)
  if said.turn is None:
    one.events[said.event] += 1
    one.info["ended_by"] = said.event
    one.info["detail"] = said.detail
  # A turn without words and calls is what tau2 calls an agent's error.
  return said.turn or Turn("assistant")
