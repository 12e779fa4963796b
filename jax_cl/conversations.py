"""Episodes of an LLM: environments in turn with an engine's slots.

Environments step in this process: an episode's dialogue and tools take about a
millisecond, an answer's tokens tens of them. Draws are keyed by a job's seed
and the token's place, so that an episode does not depend on which others run
beside it.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jax_cl import chat as chat_lib
from jax_cl import engine as engine_lib
from jax_cl import guides
from jax_cl.tasks import env as env_lib
from jax_cl.types import Episode, TaskSpec, Turn, User, Verdict

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

  def __init__(self, job: Job, prompt: chat_lib.Prompt, make_user, max_turns):
    self.job, self.prompt = job, prompt
    self.failure = ""
    self.events: collections.Counter[str] = collections.Counter()
    self.info: dict[str, Any] = {}
    self.answers = 0
    self.rows: list[chat_lib.Row] = []
    self.turns: tuple[Turn, ...] = ()  # not yet shown to the policy
    self.heard = guides.Heard()  # followed where decoding is constrained
    self.env: env_lib.Env | None = None
    with self._failing():
      user: User | None = None if job.spec.solo else make_user()
      self.env = env_lib.Env(job.spec, user, seed=job.seed, max_turns=max_turns)
      self.turns = self.env.reset()
      if self.env.ticket is not None:
        self.turns = (Turn("user", self.env.ticket), *self.turns)

  @property
  def over(self) -> bool:
    return bool(self.failure) or self.env is None or self.env.done

  def begin(self, ids: Sequence[int]) -> None:
    """A row of its own: the prompt, and ids that are not sampled in it."""
    self.rows.append(chat_lib.Row())
    self.rows[-1].say(self.prompt.ids)
    self.rows[-1].say(ids)

  @property
  def own(self) -> list[int]:
    """Ids of the row under way, behind the prompt."""
    return self.rows[-1].ids[len(self.prompt.ids) :]

  def guide(self, grammars: Grammars | None) -> guides.Guide | None:
    """Of the next answer, once the policy is shown the new turns."""
    if grammars is None:
      return None
    self.heard.hear(self.turns)
    return grammars[self.job.spec.domain].guide(self.heard)

  def act(self, turn: Turn) -> None:
    assert self.env is not None
    with self._failing():
      # Its own words come first: they are in the row already.
      self.turns = self.env.step(turn)[1:]

  def done(self, engine: engine_lib.Engine) -> Done:
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
    if self.env is not None and not self.failure:
      with self._failing():
        return Done(self.env.episode(info=info), tuple(self.rows))
    turns = self.env.turns if self.env is not None else ()
    none = Verdict(0.0, {}, (), self.failure)
    spec, why = self.job.spec, self.failure
    return Done(Episode(spec, turns, none, "failed", (), info, why), ())

  def _failing(self):
    return _Failing(self)


class _Failing:
  """A broken user or environment is data: it ends one episode, not a run."""

  def __init__(self, live: _Live):
    self._live = live

  def __enter__(self) -> None:
    pass

  def __exit__(self, kind, error, trace) -> bool:
    if isinstance(error, Exception):
      self._live.failure = f"{type(error).__name__}: {error}"
      return True
    return False


def run(
  engine: engine_lib.Engine,
  chat: chat_lib.Chat,
  jobs: Sequence[Job],
  prompts: Mapping[str, chat_lib.Prompt],
  make_user: Callable[[], User],
  *,
  sampling: engine_lib.Sampling = engine_lib.Sampling(),
  max_new_tokens: int = 256,
  max_turns: int = 200,
  grammars: Grammars | None = None,
) -> list[Done]:
  """Runs every job; results in the jobs' order.

  Args:
    prompts: of each domain.
    max_new_tokens: of an answer; one that is cut does not parse.
    max_turns: tau2's limit of steps.
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

  def open_next() -> None:
    i = todo.popleft()
    prompt = prompts[jobs[i].spec.domain]
    one = _Live(jobs[i], prompt, make_user, max_turns)
    one.begin([] if one.over else chat.opening(prompt, one.turns))
    if one.over:
      done[i] = one.done(engine)
    else:
      live[i] = one
      submit(i)

  def submit(i: int) -> None:
    engine.submit(
      i,
      live[i].prompt.ids,
      live[i].own,
      seed=jobs[i].seed,
      sampling=sampling,
      max_tokens=max_new_tokens,
      guide=live[i].guide(grammars),
    )

  while todo or live:
    while todo and len(live) < engine.slots:
      open_next()
    for answer in engine.step() if live else ():
      i = answer.key
      one = live[i]
      thought = _take(chat, one, answer)
      if one.over:
        engine.close(i)
        done[i] = live.pop(i).done(engine)
        continue
      suffix = chat.suffix(one.turns)
      if thought:
        engine.close(i)
        one.begin([*chat.stripped(one.own), *suffix])
        submit(i)
      else:
        one.rows[-1].say(suffix)
        engine.reply(i, suffix, max_new_tokens, one.guide(grammars))
  return [done[i] for i in range(len(jobs))]


def _take(chat: chat_lib.Chat, one: _Live, answer: engine_lib.Answer) -> bool:
  """Records an answer and acts on it; whether its thought is to be stripped."""
  one.rows[-1].sample(
    answer.ids, answer.logprobs, answer.versions, answer.supports
  )
  one.answers += 1
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
  one.act(said.turn or Turn("assistant"))
  return chat.thinks(answer.ids)
