"""Episodes of the agent layer, many at a time.

Environments step on the host, one after another; the scorer acts on all live
episodes in one jitted call of fixed width (`slots`), so that it compiles once.
Draws are keyed by (seed, episode, decision): an episode does not depend on
which others share its wave.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jax_cl.agents import features
from jax_cl.tasks import actions, demos
from jax_cl.tasks import env as env_lib
from jax_cl.types import Decision, Episode, TaskSpec, User, Verdict

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Job:
  """One episode to be run."""

  spec: TaskSpec
  allowed: frozenset[str]  # names of acts the episode may use
  seed: int  # of the user and of the agent's draws
  info: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class _Slot:
  """A live episode."""

  def __init__(self, job: Job, space, make_user, max_turns: int):
    self.job = job
    self.decisions: list[Decision] = []
    self.failure = ""
    today = space.today.get(job.spec.domain, "")
    self.state = actions.State(space, job.allowed, job.spec.solo, today)
    self.n = 0
    self.env: env_lib.Env | None = None
    try:
      user: User | None = None if job.spec.solo else make_user()
      self.env = env_lib.Env(job.spec, user, seed=job.seed, max_turns=max_turns)
      demos.observe(self.env, self.state, self.env.reset())
    except Exception as e:  # a broken user or environment is data
      self.failure = f"{type(e).__name__}: {e}"

  @property
  def live(self) -> bool:
    return not self.failure and self.env is not None and not self.env.done

  def take(self, index: int) -> None:
    turn = self.state.choose(index)
    if turn is None:
      return
    assert self.env is not None
    try:
      demos.observe(self.env, self.state, self.env.step(turn))
    except Exception as e:
      self.failure = f"{type(e).__name__}: {e}"

  def episode(self) -> Episode:
    info = {**self.job.info, "seed": self.job.seed}
    if not self.failure and self.env is not None:
      return self.env.episode(self.decisions, info)
    turns = self.env.turns if self.env is not None else ()
    none = Verdict(0.0, {}, (), self.failure)
    return Episode(
      self.job.spec, turns, none, "failed", (), info, failure=self.failure
    )


def run(
  act: Callable[..., Any],
  params: PyTree,
  frozen: PyTree,
  jobs: Sequence[Job],
  featurizer: features.Featurizer,
  make_user: Callable[[], User],
  *,
  greedy: bool,
  record: bool,
  slots: int = 32,
  max_turns: int = 200,
  temperature: float = 1.0,
) -> list[Episode]:
  """Runs every job, `slots` at a time; one that ends makes room for the next.

  Args:
    act: jitted `Agent.act` with `greedy` static.
    record: keep decisions (training); evaluation has no use for them.
    temperature: of the draws, times the agent's own. A row remembers it
      (`heat`), so that it is learned under the policy that it was drawn from.

  Returns:
    An episode a job, in order; those whose user or environment broke carry
    `failure`.
  """
  out: dict[int, Episode] = {}
  live: dict[int, _Slot] = {}
  waiting = iter(enumerate(jobs))
  while len(out) < len(jobs):
    for i, job in itertools.islice(waiting, slots - len(live)):
      live[i] = _Slot(job, featurizer.space, make_user, max_turns)
    if ready := [s for s in live.values() if s.live]:
      _step(
        act, params, frozen, ready, featurizer, greedy, record, slots,
        np.float32(np.log(temperature)),
      )  # fmt: skip
    for i in [i for i, s in live.items() if not s.live]:
      out[i] = live.pop(i).episode()
  return [out[i] for i in range(len(jobs))]


def _step(act, params, frozen, live, featurizer, greedy, record, slots, heat):
  """One decision of every live episode."""
  choices = [s.state.choice() for s in live]
  featurizer.prefetch([s.state for s in live], choices)
  rows = [
    {**featurizer.obs(s.state, c), "heat": heat}
    for s, c in zip(live, choices, strict=True)
  ]
  rows += [rows[0]] * (slots - len(rows))
  obs = {k: np.stack([r[k] for r in rows]) for k in rows[0]}
  seeds = np.zeros((slots, 2), np.uint32)
  seeds[: len(live)] = [(s.job.seed % 2**32, s.n) for s in live]
  chosen, logp, _ = act(params, frozen, obs, seeds, greedy=greedy)
  chosen, logp = np.asarray(chosen), np.asarray(logp)
  for i, (s, c) in enumerate(zip(live, choices, strict=True)):
    index = int(chosen[i])
    if record:
      s.decisions.append(
        featurizer.decision(s.state, c, rows[i], index, float(logp[i]))
      )
    s.n += 1
    s.take(index)


def jit_act(agent) -> Callable[..., Any]:
  """`Agent.act` with keys made inside, from (seed, decision) pairs."""

  def keyed(params, frozen, obs, seeds, greedy: bool):
    key = jax.vmap(lambda s: jax.random.fold_in(jax.random.key(s[0]), s[1]))
    return agent.act(params, frozen, obs, key(seeds), greedy)

  return jax.jit(keyed, static_argnames="greedy")
