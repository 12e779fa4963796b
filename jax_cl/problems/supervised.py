"""A stream of supervised rows: quick checks of continual learning.

A row is one decision, the label. Cloning the labels is most of the learning;
policy gradient on right or wrong can follow. A test row is an episode whose
reward is 1 where the policy names the label.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
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
    data: Sequence[digits.Domain],
    stages: Callable[[tuple[str, ...]], tuple[types.Stage, ...]],
    curriculum: str,
    batch_size: int,
    group: int,
  ):
    self.agent, self._batch_size, self._group = agent, batch_size, group
    self._data = data
    self.domains = tuple(f"perm{i}" for i in range(len(data)))
    self.stages = stages(self.domains)
    self._train = [spec for stage in self.stages for spec in stage.train]
    self.sizes = {
      d: {k: len(s.y) for k, s in splits.items()}
      for d, splits in zip(self.domains, data)
    }
    digest = hashlib.sha256()
    for splits in data:
      for name in sorted(splits):
        digest.update(splits[name].x.tobytes() + splits[name].y.tobytes())
    self.about = {"curriculum": curriculum}
    self.fingerprint = digest.hexdigest()[:16]
    self._act = jax.jit(agent.act, static_argnames="greedy")

  def demos(self, stage: int) -> types.Batch:
    places = [self.domains.index(d) for d in self.stages[stage].domains]
    parts = [self._rows(i) for i in places]
    return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)

  def _rows(self, place: int) -> types.Batch:
    x, y = self._data[place]["train"]
    n = len(y)
    ones = np.ones(n, np.float32)
    return types.Batch(
      obs={"x": x},
      action=y[:, None],
      mask=ones[:, None],
      logp_old=np.zeros((n, 1), np.float32),
      adv=ones,
      weight=ones,
      domain=np.full(n, place, np.int32),
      task=np.arange(n, dtype=np.int32),
      reward=ones,
    )

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
        task=types.TaskSpec(
          self.domains[rows.domain[i]], str(rows.task[i]), "train"
        ),
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
    tasks = {(s.domain, s.task_id): int(s.task_id) for s in self._train}
    spec = self.agent.obs_spec or {}
    rows = batching.rows(episodes, adv, places, tasks, spec)
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
        task=types.TaskSpec(domain, str(i), split),
        turns=(),
        verdict=_verdict(ok),
        termination="agent_stop",
        info={"trial": trial},
      )
      for i, ok in enumerate(right)
      for trial in range(trials)
    ]


def _verdict(right) -> types.Verdict:
  return types.Verdict(float(right), {"LABEL": float(right)}, ("LABEL",))


def make(
  *,
  seed: int,
  batch_size: int,
  agent: Mapping[str, Any],
  data: str = "blobs",
  n_domains: int = 3,
  curriculum: str = "sequential",
  epochs: int = 10,
  pg_steps: int = 0,
  group: int = 4,
  blobs: Mapping[str, Any] | None = None,
) -> Supervised:
  """`data` is "blobs" (options: `blobs`) or "digits"; both are permuted.

  A stage is `epochs` passes over its rows, then `pg_steps` steps in which the
  policy guesses, `group` times a row, and is told right or wrong. `curriculum`
  is "sequential" or "joint" (one stage with all domains and as many steps).
  """
  makers = {"blobs": digits.blobs, "digits": digits.digits}
  names.check("stream.data", data, makers)
  names.check("stream.curriculum", curriculum, ("sequential", "joint"))
  if agent["name"] != "mlp":
    raise ValueError(f"agent {agent['name']!r} on rows; use 'mlp'")
  args = {"seed": seed, **(blobs or {})} if data == "blobs" else {}
  base = makers[data](**args)
  x, y = base["train"]

  def stages(domains):
    joint = curriculum == "joint"
    groups = [domains] if joint else [(d,) for d in domains]
    return tuple(
      types.Stage(
        name="+".join(names),
        train=tuple(
          types.TaskSpec(d, str(i), "train")
          for d in names
          for i in range(len(y))
        ),
        steps=pg_steps + epochs * -(-len(names) * len(y) // batch_size),
        domains=tuple(names),
        clone_steps=epochs * -(-len(names) * len(y) // batch_size),
      )
      for names in groups
    )

  net = mlp.make(
    features=x.shape[1], classes=int(y.max()) + 1, **agent.get("args", {})
  )
  data_ = digits.permuted(base, n_domains, seed)
  return Supervised(net, data_, stages, curriculum, batch_size, group)
