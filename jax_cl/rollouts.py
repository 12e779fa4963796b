"""Episodes of the agent layer, many at a time.

Environments step on the host, one after another; the scorer acts on all live
episodes in one jitted call of fixed width (`slots`), so that it compiles once.
Draws are keyed by (seed, episode, decision): an episode does not depend on
which others share its wave.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jax_cl.agents import features
from jax_cl.tasks import actions, demos
from jax_cl.tasks import env as env_lib
from jax_cl.types import Decision, Episode, TaskSpec, User

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Job:
  """One episode to be run."""

  spec: TaskSpec
  allowed: frozenset[str]  # names of acts the episode may use
  seed: int  # of the user and of the agent's draws
  info: Mapping[str, Any] = dataclasses.field(default_factory=dict)


Begin = Callable[[], tuple[env_lib.Env, actions.State]]


class Node:
  """What is known of an episode after some choices."""

  __slots__ = ("after", "episode", "row")

  def __init__(self):
    self.after: dict[int, Node] = {}  # by the choice that is made next
    self.episode: Episode | None = None  # where it has ended
    self.row: Any = None  # features of the next decision, bare


class Tree:
  """Episodes that were run before, by task, seed and choices.

  With the scripted user an episode is a function of these. The policies of a
  stream, and of a comparison, mostly choose alike on the same held-out tasks:
  where one has been before, neither environment nor features run again. A
  node's features take some 30 kB.
  """

  def __init__(self, most: int = 20_000):
    self.most, self.size = most, 0  # nodes; full, it is emptied
    self.roots: dict[Any, Node] = {}

  def root(self, job: Job, max_turns: int) -> Node:
    if self.size > self.most:
      self.roots, self.size = {}, 0
    info = tuple(sorted(job.info.items()))
    key = job.spec, job.allowed, job.seed, info, max_turns
    return self.roots.setdefault(key, Node())


class _Slot:
  """An episode on its way; its environment follows when it is needed."""

  def __init__(self, job: Job, begin: Begin, node: Node):
    self.job, self.node, self._begin = job, node, begin
    self.decisions: list[Decision] = []
    self.choice: actions.Choice | None = None
    self.failure = ""
    self.n = 0
    self._env: env_lib.Env | None = None
    self._state: actions.State | None = None
    self._ahead: list[int] = []  # choices that the environment has yet to see
    if node.row is None and node.episode is None:
      self._catch_up()
      node.episode = self._ended()

  @property
  def state(self) -> actions.State:
    self._catch_up()
    assert self._state is not None
    return self._state

  def take(self, index: int) -> int:
    """Makes a choice; how many nodes are new."""
    self.n += 1
    self._ahead.append(index)
    known = self.node.after.get(index)
    new = known is None
    if known is None:
      self._catch_up()
      known = self.node.after[index] = Node()
      known.episode = self._ended()
    self.node = known
    return int(new)

  def _catch_up(self) -> None:
    """A broken user or environment is data: `failure`."""
    try:
      if self._env is None and not self.failure:
        self._env, self._state = env, state = self._begin()
        demos.observe(env, state, env.reset())
      while self._ahead and not self.failure:
        self._act(self._ahead.pop(0))
    except Exception as e:
      self.failure = f"{type(e).__name__}: {e}"

  def _act(self, index: int) -> None:
    assert self._env is not None and self._state is not None
    turn = self._state.choose(index)
    if turn is not None:
      demos.observe(self._env, self._state, self._env.step(turn))

  def _ended(self) -> Episode | None:
    info = {**self.job.info, "seed": self.job.seed}
    if self.failure:
      turns = self._env.turns if self._env is not None else ()
      return env_lib.failed(self.job.spec, turns, self.failure, info)
    assert self._env is not None
    if self._env.done:
      return self._env.episode(self.decisions, info)
    return None


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
  tree: Tree | None = None,
) -> list[Episode]:
  """Runs every job, `slots` at a time; one that ends makes room for the next.

  Args:
    act: jitted `Agent.act` with `greedy` static.
    record: keep decisions (training); evaluation has no use for them.
    temperature: of the draws, times the agent's own. A row remembers it
      (`heat`), so that it is learned under the policy that it was drawn from.
    tree: episodes of before; only where none is recorded and users repeat
      themselves.

  Returns:
    An episode a job, in order; those whose user or environment broke carry
    `failure`.
  """
  if tree is not None and record:
    raise ValueError("a tree keeps no decisions; leave it out, or record")
  out: dict[int, Episode] = {}
  live: dict[int, _Slot] = {}
  waiting = iter(enumerate(jobs))
  heat = np.float32(np.log(temperature))

  def begin(job: Job):
    user: User | None = None if job.spec.solo else make_user()
    env = env_lib.Env(job.spec, user, seed=job.seed, max_turns=max_turns)
    space = featurizer.space
    today = space.today.get(job.spec.domain, "")
    return env, actions.State(space, job.allowed, job.spec.solo, today)

  while len(out) < len(jobs):
    for i, job in itertools.islice(waiting, slots - len(live)):
      node = Node() if tree is None else tree.root(job, max_turns)
      live[i] = _Slot(job, functools.partial(begin, job), node)
    ready = [s for s in live.values() if s.node.episode is None]
    if ready:
      new = _step(
        act, params, frozen, ready, featurizer, greedy, record, slots, heat
      )
      if tree is not None:
        tree.size += new
    for i in [i for i, s in live.items() if s.node.episode is not None]:
      episode = live.pop(i).node.episode
      assert episode is not None
      out[i] = episode
  return [out[i] for i in range(len(jobs))]


def _step(
  act, params, frozen, live, featurizer, greedy, record, slots, heat
) -> int:
  """One decision of every live episode; how many led where none had been."""
  _look(live, featurizer)
  rows = [{**featurizer.padded(s.node.row), "heat": heat} for s in live]
  padded = rows + [rows[0]] * (slots - len(rows))
  obs = {k: np.stack([r[k] for r in padded]) for k in rows[0]}
  seeds = np.zeros((slots, 2), np.uint32)
  seeds[: len(live)] = [(s.job.seed % 2**32, s.n) for s in live]
  chosen, logp, _ = act(params, frozen, obs, seeds, greedy=greedy)
  chosen, logp = np.asarray(chosen), np.asarray(logp)
  new = 0
  for i, s in enumerate(live):
    index = int(chosen[i])
    if record:
      s.decisions.append(
        featurizer.decision(s.state, s.choice, rows[i], index, float(logp[i]))
      )
    new += s.take(index)
  return new


def _look(live: Sequence[_Slot], featurizer: features.Featurizer) -> None:
  """Makes the features of decisions that were never come to before."""
  new = [s for s in live if s.node.row is None]
  states = [s.state for s in new]
  choices = [state.choice() for state in states]
  featurizer.prefetch(states, choices)
  for s, state, choice in zip(new, states, choices, strict=True):
    s.choice = choice
    s.node.row = featurizer.bare(state, choice)


def jit_act(agent) -> Callable[..., Any]:
  """`Agent.act` with keys made inside, from (seed, decision) pairs."""

  def keyed(params, frozen, obs, seeds, greedy: bool):
    key = jax.vmap(lambda s: jax.random.fold_in(jax.random.key(s[0]), s[1]))
    return agent.act(params, frozen, obs, key(seeds), greedy)

  return jax.jit(keyed, static_argnames="greedy")
