"""tau2 domains one after another: the agent layer's experience.

The LLM is frozen; `agents.scorer` learns over its features. A stage clones
demonstrations of its own domain's train tasks, then collects episodes with the
real reward. Val and test tasks are only ever evaluated.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_cl import batching, metrics, rollouts, types
from jax_cl.agents import embed, features, scorer
from jax_cl.tasks import actions, demos, stream, users
from jax_cl.tasks import env as env_lib

TOOLS = ("domain", "seen", "all")


class Tau2:
  """See `problems.base.Problem`."""

  def __init__(
    self,
    *,
    seed: int,
    batch_size: int,
    domains: Sequence[stream.Domain],
    stages: tuple[types.Stage, ...],
    agent_args: Mapping[str, Any],
    embedder: Mapping[str, Any],
    feature_args: Mapping[str, Any],
    user: Mapping[str, Any],
    tools: str,
    tasks_per_step: int,
    group: int,
    baseline: str,
    slots: int,
    max_turns: int,
    identity: Mapping[str, Any],
  ):
    self.stages = stages
    self.domains = tuple(d.name for d in domains)
    self._domains = {d.name: d for d in domains}
    self._place = {name: i for i, name in enumerate(self.domains)}
    self.sizes = {
      d.name: {k: len(v) for k, v in d.splits.items()} for d in domains
    }
    specs = [s for d in domains for v in d.splits.values() for s in v]
    self._task = {(s.domain, s.task_id): i for i, s in enumerate(specs)}
    self.seed, self.batch_size = seed, batch_size
    self._tools, self._baseline = tools, baseline
    self._tasks_per_step, self._group = tasks_per_step, group
    self._slots, self._max_turns = slots, max_turns
    self._make_user = users.make(**user)
    vocabularies = {d.name: demos.vocabulary(d) for d in domains}
    self.space = actions.ActSpace(domains, vocabularies)
    self.embedder = embed.make(**embedder)
    reference = [text for d in domains for text in actions.sentences(d.policy)]
    self.featurizer = features.Featurizer(
      self.embedder, self.space, reference, **feature_args
    )
    self.agent = scorer.make(
      obs_spec=self.featurizer.spec,
      act_vectors=self.featurizer.act_vectors,
      slot_vectors=self.featurizer.vectors(
        [f"{a.replace('_', ' ')}: {s}" for a, s in self.space.slots]
      ),
      slot_types=self.space.slot_types,
      **agent_args,
    )
    self._act = rollouts.jit_act(self.agent)
    self._demos: dict[int, types.Batch] = {}
    digest = hashlib.sha256()
    shape = {k: str(v) for k, v in self.featurizer.spec.items()}
    digest.update(json.dumps([identity, shape], sort_keys=True).encode())
    digest.update("".join(f"{s}" for s in specs).encode())
    self.fingerprint = digest.hexdigest()[:16]

  # ---------------------------------------------------------------- learning
  def demos(self, stage: int) -> types.Batch:
    if stage not in self._demos:
      self._demos = {stage: self._clone_rows(stage)}
    return self._demos[stage]

  def _clone_rows(self, stage: int) -> types.Batch:
    """Demonstrations that tau2 accepts, as rows of advantage 1.

    What the COMMUNICATE part misses is forgiven: the actions were right.
    """
    featurizer = self.featurizer

    def record(state, choice, index):
      obs = featurizer.obs(state, choice)
      return featurizer.decision(state, choice, obs, index, 0.0)

    specs = demos.train_only(self.stages[stage].train)
    # a first pass without features collects the texts for one LLM call
    states = [self._demonstrate(s, stage, None)[1] for s in specs]
    texts = [t for s in states for t in s.all_texts]
    featurizer.vectors(texts)
    episodes = [self._demonstrate(s, stage, record)[0] for s in specs]
    good = [
      1.0
      if all(v == 1 for k, v in e.verdict.parts.items() if k != "COMMUNICATE")
      and e.verdict.parts
      else np.nan
      for e in episodes
    ]
    return batching.rows(
      episodes, good, self._place, self._task, featurizer.spec
    )

  def _demonstrate(self, spec: types.TaskSpec, stage: int, record):
    state = actions.State(self.space, self._allowed(spec, stage), spec.solo)
    user = None if spec.solo else self._make_user()
    env = env_lib.Env(spec, user, seed=0, max_turns=self._max_turns)
    return demos.run(spec, env, state, record), state

  def collect(self, params, frozen, stage, step, seed, mix=None):
    rng = np.random.default_rng(seed)
    specs = self._draw(rng, stage, mix)
    jobs = [
      rollouts.Job(
        spec,
        self._allowed(spec, stage),
        int(rng.integers(2**31)),
        {"group": g, "trial": k},
      )
      for g, spec in enumerate(specs)
      for k in range(self._group)
    ]
    return self._run(params, frozen, jobs, greedy=False, record=True)

  def _draw(self, rng, stage: int, mix) -> list[types.TaskSpec]:
    """The train tasks of one step; `mix` hands shares to other domains."""
    own = demos.train_only(self.stages[stage].train)
    n = self._tasks_per_step
    if mix is None:
      pools, counts = [own], [n]
    else:
      pools = [self._domains[d].splits["train"] for d in self.domains]
      counts = list(np.floor(np.asarray(mix) * n + 0.5).astype(int))
    return [
      pool[i]
      for pool, k in zip(pools, counts, strict=True)
      for i in rng.choice(len(pool), k, replace=k > len(pool))
    ]

  def batch(self, episodes, seed):
    adv = batching.advantages(episodes, self._baseline)
    rows = batching.rows(
      episodes, adv, self._place, self._task, self.featurizer.spec
    )
    return batching.fit(rows, self.batch_size, seed)

  # -------------------------------------------------------------- evaluation
  def evaluate(
    self, params, frozen, domain, split, seed, trials, stage: int = 10**6
  ):
    jobs = [
      rollouts.Job(
        spec,
        self._allowed(spec, stage),
        seed + 7919 * trial,
        {"trial": trial},
      )
      for spec in self._domains[domain].splits[split]
      for trial in range(trials)
    ]
    done = self._run(params, frozen, jobs, greedy=trials == 1, record=False)
    return [self._counted(e) for e in done]

  def _run(self, params, frozen, jobs, greedy, record):
    return rollouts.run(
      self._act,
      params,
      frozen,
      jobs,
      self.featurizer,
      self._make_user,
      greedy=greedy,
      record=record,
      slots=self._slots,
      max_turns=self._max_turns,
    )

  def _allowed(self, spec: types.TaskSpec, stage: int) -> frozenset[str]:
    """Names of acts in the episode's action space: `tools`."""
    if self._tools == "all":
      return frozenset(self.space.index)
    where = {spec.domain}
    if self._tools == "seen":
      for s in self.stages[: stage + 1]:
        where.update(s.domains)
    return frozenset(a.name for a in self.space.acts if a.domains & where)

  def _counted(self, e: types.Episode) -> types.Episode:
    """Adds what `episodes.jsonl` says of an episode."""
    domain = self._domains[e.task.domain]
    reads = {
      t.name for t in (*domain.tools, *domain.user_tools) if t.kind == "read"
    }
    calls = [
      (c.name, c.arguments)
      for t in e.turns
      if t.role == "assistant"
      for c in t.tool_calls
    ]
    gold = [(a.name, a.arguments, a.compare_args) for a in demos.gold(e.task)]
    n, hits, args = metrics.tool_counts(calls, gold, reads)
    counts = {
      "requires_write": demos.requires_write(e.task),
      "tool_calls": n,
      "tool_hits": hits,
      "arg_hits": args,
      "n_turns": len(e.turns),
    }
    return types.Episode(
      e.task,
      e.turns,
      e.verdict,
      e.termination,
      e.decisions,
      {**e.info, **counts},
      e.failure,
    )


def make(
  *,
  seed: int,
  batch_size: int,
  agent: Mapping[str, Any],
  domains: Sequence[str] = ("airline", "retail", "telecom"),
  solo: bool = False,
  curriculum: str = "sequential",
  tools: str = "all",
  clone_steps: int = 200,
  pg_steps: int = 20,
  tasks_per_step: int = 8,
  group: int = 4,
  baseline: str = "group",
  embedder: Mapping[str, Any] | None = None,
  features: Mapping[str, Any] | None = None,
  user: Mapping[str, Any] | None = None,
  pool: str = "official",
  data_dir: str | None = None,
  max_tasks_per_domain: int | None = None,
  slots: int = 32,
  max_turns: int = 200,
) -> Tau2:
  """The stream of tau2 domains; see configs/quickstart.py for the words."""
  if isinstance(domains, str):
    raise ValueError(
      f"stream.domains = {domains!r} is one string; write a tuple: "
      f"{tuple(d.strip() for d in domains.split(','))!r}"
    )
  if tools not in TOOLS:
    raise ValueError(f"stream.tools = {tools!r}; known: {', '.join(TOOLS)}")
  if agent["name"] != "scorer":
    raise ValueError(f"agent {agent['name']!r} on tau2; use 'scorer'")
  loaded = [
    stream.load(
      d,
      solo=solo and d not in ("airline", "retail"),
      data_dir=data_dir,
      pool=pool if d == "telecom" else "official",
    )
    for d in domains
  ]
  groups = (
    [[d] for d in loaded] if curriculum == "sequential" else [list(loaded)]
  )
  stages = tuple(
    types.Stage(
      name="+".join(d.name for d in group_),
      train=tuple(
        s for d in group_ for s in d.splits["train"][:max_tasks_per_domain]
      ),
      steps=(clone_steps + pg_steps) * len(group_),
      domains=tuple(d.name for d in group_),
      clone_steps=clone_steps * len(group_),
    )
    for group_ in groups
  )
  embedder = dict(embedder or {"name": "hashed"})
  user = dict(user or {"name": "scripted"})
  identity = {
    "domains": list(domains), "tools": tools, "embedder": embedder,
    "features": dict(features or {}), "user": user, "agent": dict(agent),
  }  # fmt: skip
  return Tau2(
    seed=seed,
    batch_size=batch_size,
    domains=loaded,
    stages=stages,
    agent_args=agent.get("args", {}),
    embedder=embedder,
    feature_args=dict(features or {}),
    user=user,
    tools=tools,
    tasks_per_step=tasks_per_step,
    group=group,
    baseline=baseline,
    slots=slots,
    max_turns=max_turns,
    identity=json.loads(json.dumps(identity, default=str)),
  )
