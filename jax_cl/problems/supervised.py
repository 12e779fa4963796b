"""A stream of supervised rows: quick checks of continual learning.

A row is one decision, the label. Cloning the labels is most of the learning;
policy gradient on right or wrong can follow. A test row is an episode whose
reward is 1 where the policy names the label.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jax_cl import batching, names, types
from jax_cl.agents import mlp
from jax_cl.tasks import digits


class Supervised:
  """See `problems.base.Problem`."""

  def __init__(
    self,
    agent: types.Agent,
    data: Mapping[str, digits.Domain],
    stages: Sequence[types.Stage],
    curriculum: str,
    batch_size: int,
    group: int,
  ):
    self.agent, self._batch_size, self._group = agent, batch_size, group
    self._data = list(data.values())
    self.domains = tuple(data)
    self.stages = tuple(stages)
    self.tasks = tuple(
      types.TaskSpec(d, f"{split}{i}", split)
      for d, splits in data.items()
      for split in splits
      for i in range(len(splits[split].y))
    )
    self._task = {(s.domain, s.task_id): i for i, s in enumerate(self.tasks)}
    self.sizes = {
      d: {k: len(s.y) for k, s in splits.items()} for d, splits in data.items()
    }
    digest = hashlib.sha256()
    for splits in self._data:
      for name in sorted(splits):
        digest.update(splits[name].x.tobytes() + splits[name].y.tobytes())
    self.about = {"curriculum": curriculum}
    self.fingerprint = digest.hexdigest()[:16]
    self._act = _jitted(agent.act)

  def demos(self, stage: int) -> types.Batch:
    places = [self.domains.index(d) for d in self.stages[stage].domains]
    parts = [self._rows(i) for i in places]
    return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)

  def _rows(self, place: int) -> types.Batch:
    """A domain's demonstrations, by their places in the task table."""
    out = rows(self._data[place]["train"], place)
    first = self._task[self.domains[place], "train0"]
    return out._replace(task=out.task + np.int32(first))

  def collect(self, params, frozen, stage, step, seed, mix=None):
    """One guess an episode, a group of them a row: a contextual bandit."""
    del step, mix  # the seed knows the step
    rows, rng = self.demos(stage), np.random.default_rng(seed)
    picked = rng.choice(len(rows.task), self._batch_size // self._group)
    index = np.repeat(picked, self._group)
    key = jax.random.key(seed)
    obs = {"x": rows.obs["x"][index]}
    action, logp, _ = self._act(params, frozen, obs, key, greedy=False)
    action, logp = np.asarray(action), np.asarray(logp)
    return [
      types.Episode(
        task=self.tasks[rows.task[i]],
        turns=(),
        verdict=_verdict(action[n] == rows.action[i, 0]),
        termination="agent_stop",
        decisions=(
          types.Decision(
            {"x": rows.obs["x"][i]}, int(action[n]), float(logp[n])
          ),
        ),
        info={"group": n // self._group, "trial": n % self._group},
      )
      for n, i in enumerate(index)
    ]

  def batch(self, episodes, seed, every=False):
    adv = batching.advantages(episodes)
    adv = np.nan_to_num(adv) if every else adv
    places = {d: i for i, d in enumerate(self.domains)}
    spec = self.agent.obs_spec or {}
    rows = batching.rows(episodes, adv, places, self._task, spec)
    return batching.fit(rows, self._batch_size, seed)

  def summary(self, params, frozen):
    return {}

  def note(self):
    return ""

  def evaluate(self, params, frozen, domain, split, seed, trials, stage):
    x, y = self._data[self.domains.index(domain)][split]
    key = jax.random.key(seed)
    action, _, _ = self._act(params, frozen, {"x": x}, key, greedy=True)
    right = np.asarray(action) == y
    return [
      types.Episode(
        task=types.TaskSpec(domain, f"{split}{i}", split),
        turns=(),
        verdict=_verdict(ok),
        termination="agent_stop",
        info={"trial": trial},
      )
      for i, ok in enumerate(right)
      for trial in range(trials)
    ]


def rows(split: digits.Split, place: int) -> types.Batch:
  """All rows of a split as decisions to be cloned, in order."""
  n = len(split.y)
  ones = np.ones(n, np.float32)
  return types.Batch(
    obs={"x": split.x},
    action=split.y[:, None],
    mask=ones[:, None],
    logp_old=np.zeros((n, 1), np.float32),
    adv=ones,
    weight=ones,
    domain=np.full(n, place, np.int32),
    task=np.arange(n, dtype=np.int32),
    reward=ones,
  )


def _verdict(right) -> types.Verdict:
  return types.Verdict(float(right), {"LABEL": float(right)}, ("LABEL",))


DATA = {"blobs": digits.blobs, "digits": digits.digits}
TASKS = {"permuted": (digits.permuted, "perm"), "split": (digits.split, "part")}


def make(
  *,
  seed: int,
  batch_size: int,
  agent: Mapping[str, Any],
  data: str = "blobs",
  tasks: str = "permuted",
  n_domains: int = 3,
  curriculum: str = "sequential",
  epochs: int = 10,
  pg_steps: int = 0,
  group: int = 4,
  blobs: Mapping[str, Any] | None = None,
  hold_out: bool = False,
) -> Supervised:
  """`data` is "blobs" (options: `blobs`) or "digits" (option: `hold_out`).

  `tasks` says how `n_domains` domains are made of them: "permuted" or "split"
  (`tasks.digits`). A stage is `epochs` passes over its rows, then `pg_steps`
  steps in which the policy guesses, `group` times a row, and is told right or
  wrong. `curriculum` is "sequential", "joint" (one stage with all domains and
  as many passes) or "cumulative" (stage k has domains 0 to k).
  """
  names.check("stream.data", data, DATA)
  names.check("stream.tasks", tasks, TASKS)
  names.check("stream.curriculum", curriculum, CURRICULA)
  if agent["name"] != "mlp":
    raise ValueError(f"agent {agent['name']!r} on rows; use 'mlp'")
  args = {"hold_out": hold_out} if data == "digits" else dict(blobs or {})
  base = DATA[data](**{"seed": seed, **args})
  cut, word = TASKS[tasks]
  parts = cut(base, n_domains, seed)
  domains = {f"{word}{i}": part for i, part in enumerate(parts)}
  options = {
    k: tuple(v) if isinstance(v, list) else v
    for k, v in agent.get("args", {}).items()
  }
  net = _net(
    features=base["train"].x.shape[1],
    classes=int(base["train"].y.max()) + 1,
    **options,
  )
  stages = [
    _stage({d: domains[d] for d in some}, epochs, pg_steps, batch_size)
    for some in CURRICULA[curriculum](list(domains))
  ]
  return Supervised(net, domains, stages, curriculum, batch_size, group)


# One agent for all seeds of a comparison: what is compiled for it is shared.
_net = functools.lru_cache(maxsize=8)(mlp.make)
_jitted = functools.lru_cache(maxsize=8)(
  functools.partial(jax.jit, static_argnames="greedy")
)
CURRICULA = {
  "sequential": lambda all_: [[d] for d in all_],
  "joint": lambda all_: [all_],
  "cumulative": lambda all_: [all_[: k + 1] for k in range(len(all_))],
}


def _stage(domains: Mapping[str, digits.Domain], epochs, pg_steps, size):
  n = {d: len(splits["train"].y) for d, splits in domains.items()}
  clone_steps = epochs * -(-sum(n.values()) // size)
  return types.Stage(
    name="+".join(domains),
    train=tuple(
      types.TaskSpec(d, f"train{i}", "train") for d in n for i in range(n[d])
    ),
    steps=clone_steps + pg_steps,
    domains=tuple(domains),
    clone_steps=clone_steps,
  )
