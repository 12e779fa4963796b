"""tau2 domains one after another: the agent layer's experience.

The LLM is frozen; `agents.scorer` learns over its features. A stage clones
demonstrations of its own domain's train tasks, then collects episodes with the
real reward. Val and test tasks are only ever evaluated.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jax_cl import batching, names, rollouts, types
from jax_cl.problems import _kit, _tau2
from jax_cl.tasks import (
  actions,
  demos,
  protocol,
  rules,
  stream,
  users,
)
from jax_cl.tasks import env as env_lib

TOOLS = ("domain", "seen", "all")
REFERENCES = (
  "do_nothing", "always_transfer", "rules_alone", "oracle", "confined_oracle",
)  # fmt: skip


class Tau2:
  """See `problems.base.Problem`."""

  def __init__(
    self,
    *,
    seed: int,
    batch_size: int,
    domains: Sequence[stream.Domain],
    curriculum: str,
    stages: tuple[types.Stage, ...],
    agent_args: Mapping[str, Any],
    embedder: Mapping[str, Any],
    feature_args: Mapping[str, Any],
    user: Mapping[str, Any],
    tools: str,
    reading: bool,
    sampler: str,
    tasks_per_step: int,
    group: int,
    baseline: str,
    explore: float,
    greedy: bool,
    slots: int,
    max_turns: int,
    references: bool,
    protocol_args: Mapping[str, Any],
    max_eval_tasks: int | None,
  ):
    self.stages, self._curriculum = stages, curriculum
    self.domains = tuple(d.name for d in domains)
    self._domains = {d.name: d for d in domains}
    self._place = {name: i for i, name in enumerate(self.domains)}
    self.sizes = _tau2.sizes(domains, stages)
    self.tasks = _tau2.table(domains)
    self._task = {(s.domain, s.task_id): i for i, s in enumerate(self.tasks)}
    self.seed, self.batch_size = seed, batch_size
    self._tools, self._baseline = tools, baseline
    self._explore = explore
    self._sampler = sampler
    self._tasks_per_step, self._group = tasks_per_step, group
    self._slots, self._max_turns, self._greedy = slots, max_turns, greedy
    self._references, self._protocol_args = references, protocol_args
    self._max_eval_tasks = max_eval_tasks
    self._make_user = users.make(**user)
    self._kit = _kit.get(
      domains,
      reading=reading,
      embedder=embedder,
      feature_args=feature_args,
      agent_args=agent_args,
      user=user,
      max_turns=max_turns,
    )
    self.space, self.featurizer = self._kit.space, self._kit.featurizer
    self.embedder, self.agent = self._kit.embedder, self._kit.agent
    self.fingerprint = self._kit.fingerprint
    self._sent_before = self.embedder.tokens_sent

  @functools.cached_property
  def about(self) -> dict[str, Any]:
    """The protocol, and what fixed policies score: floors and ceilings.

    `confined_oracle` performs the gold actions as far as the agent's own
    choices can express them: no learner of this action space scores more,
    except by luck. `rules_alone` takes every hint of the hand-written rules
    and learns nothing: what a learner with `reading` adds is beyond it.
    """
    out: dict[str, Any] = {
      "curriculum": self._curriculum,
      "protocol": protocol.describe(
        self.domains,
        max_turns=self._max_turns,
        greedy=self._greedy,
        **self._protocol_args,
      ),
      "embedder": self.embedder.name,
      "acts": len(self.space),
      "reading": self.space.reads,
    }
    if self._max_eval_tasks is not None:
      out["protocol"]["deviations"]["max_eval_tasks"] = {
        "protocol": None, "run": self._max_eval_tasks,
      }  # fmt: skip
    if self._references:
      domains = list(self._domains.values())
      out |= _tau2.references(REFERENCES, domains, self._reference)
    return out

  def _reference(self, name: str, specs) -> list[float]:
    last = len(self.stages) - 1
    key = name, specs, tuple(self._allowed(s, last) for s in specs[:1])
    if key not in self._kit.cache:
      self._kit.cache[key] = self._measured(name, specs, last)
    return self._kit.cache[key]

  def _measured(self, name: str, specs, last: int) -> list[float]:
    if name == "confined_oracle":
      return [self._demonstrate(s, last)[0].reward for s in specs]
    if name == "rules_alone":
      return [self._by_rules(s).reward for s in specs]
    return _tau2.rewards(name, specs, self._make_user, self._max_turns)

  def _by_rules(self, spec: types.TaskSpec) -> types.Episode:
    allowed = self._allowed(spec, len(self.stages) - 1)
    state = actions.State(
      self._kit.rules_space,
      allowed,
      spec.solo,
      self._domains[spec.domain].today,
    )
    user = None if spec.solo else self._make_user()
    env = env_lib.Env(spec, user, seed=0, max_turns=self._max_turns)
    return rules.run(spec, env, state)

  # ---------------------------------------------------------------- learning
  def demos(self, stage: int) -> types.Batch:
    train = self.stages[stage].train
    key = train, self._allowed(train[0], stage) if train else ()
    if key not in self._kit.cache:
      self._kit.cache[key] = self._clone_rows(stage)
    return self._kit.cache[key]

  def _clone_rows(self, stage: int) -> types.Batch:
    """Demonstrations that tau2 accepts, as rows of advantage 1.

    What the COMMUNICATE part misses is forgiven: the actions were right.
    """
    specs = demos.train_only(self.stages[stage].train)
    done = [self._demonstrate(s, stage) for s in specs]
    good = [(e, state) for e, state in done if _accepted(e)]
    if specs and not good:
      raise ValueError(
        f"tau2 accepts none of the {len(specs)} demonstrations of "
        f"{self.stages[stage].name}: raise stream.max_turns "
        f"({self._max_turns}), or set stream.clone_steps to 0"
      )
    # All texts are known before the first row, for one call of the LLM.
    self.featurizer.vectors([t for _, s in good for t in s.all_texts])
    episodes = [
      dataclasses.replace(e, decisions=tuple(self._decisions(state)))
      for e, state in good
    ]
    rows = batching.rows(
      episodes,
      np.ones(len(episodes)),
      self._place,
      self._task,
      self.featurizer.spec,
    )
    # Accepted is success: memories that keep successes keep these.
    return rows._replace(reward=np.ones_like(rows.reward))

  def _decisions(self, tape: demos.Taped) -> Iterator[types.Decision]:
    for state, choice, index in tape.again():
      obs = self.featurizer.obs(state, choice)
      yield self.featurizer.decision(state, choice, obs, index, 0.0)

  def _demonstrate(
    self, spec: types.TaskSpec, stage: int
  ) -> tuple[types.Episode, demos.Taped]:
    state = demos.Taped(
      self.space,
      self._allowed(spec, stage),
      spec.solo,
      self.space.today[spec.domain],
    )
    user = None if spec.solo else self._make_user()
    env = env_lib.Env(spec, user, seed=0, max_turns=self._max_turns)
    return demos.run(spec, env, state), state

  def collect(self, params, frozen, stage, step, seed, mix=None):
    rng = np.random.default_rng(seed)
    specs = self._draw(rng, stage, step, mix)
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
    return self._run(
      params, frozen, jobs, greedy=False, record=True, temperature=self._explore
    )

  def _draw(self, rng, stage: int, step: int, mix) -> list[types.TaskSpec]:
    """The train tasks of one step: the stage's own, and old ones by `mix`."""
    return _tau2.draw(
      rng, self.stages, stage, step, mix, self.domains,
      sampler=self._sampler, n=self._tasks_per_step, seed=self.seed,
    )  # fmt: skip

  def batch(self, episodes, seed, every=False):
    adv = batching.advantages(episodes, self._baseline)
    if every:
      failed = [bool(e.failure) for e in episodes]
      adv = np.where(failed, np.nan, np.nan_to_num(adv))
    rows = batching.rows(
      episodes, adv, self._place, self._task, self.featurizer.spec
    )
    return batching.fit(rows, self.batch_size, seed)

  def summary(self, params, frozen) -> dict[str, float]:
    """How much of the learner the domains share, at the end of a run.

    `shared_parameters` is the share of parameters whose gradient on the
    demonstrations of two or more domains is not 0. What only one domain moves,
    no other can make it forget.
    """
    obj = self.agent.objective(frozen)
    key = jax.random.key(0)
    grad = jax.jit(jax.grad(lambda p, b: obj.loss(p, b, key)[0]))
    moved: dict[int, Any] = {}
    for stage in range(len(self.stages)):
      rows = self.demos(stage)
      for domain in np.unique(rows.domain):
        mine = np.flatnonzero(rows.domain == domain)
        for i in range(0, len(mine), self.batch_size):
          part = batching.take(rows, mine[i : i + self.batch_size])
          g = grad(params, batching.fit(part, self.batch_size, seed=0))
          now = jax.tree.map(lambda x: np.asarray(x) != 0, g)
          old = moved.get(int(domain), now)
          moved[int(domain)] = jax.tree.map(np.logical_or, old, now)
    counts = jax.tree.map(lambda *xs: np.sum(xs, axis=0), *moved.values())
    leaves = jax.tree.leaves(counts)
    shared = sum(int((x > 1).sum()) for x in leaves)
    return {"shared_parameters": shared / sum(x.size for x in leaves)}

  def note(self) -> str:
    """How much the frozen LLM had to read: 0 tokens with a warm cache."""
    sent = self.embedder.tokens_sent - self._sent_before
    cut = self.embedder.truncated
    return f"Embedder {self.embedder.name}: {sent:,} tokens sent, {cut} cut"

  # -------------------------------------------------------------- evaluation
  def evaluate(self, params, frozen, domain, split, seed, trials, stage):
    jobs = [
      rollouts.Job(
        spec,
        self._allowed(spec, stage),
        _episode_seed(seed, domain, i, trial),
        {"trial": trial},
      )
      for i, spec in enumerate(self._domains[domain].splits[split])
      for trial in range(trials)
    ]
    done = self._run(params, frozen, jobs, greedy=self._greedy, record=False)
    return [_tau2.counted(e, self._domains[domain]) for e in done]

  def _run(self, params, frozen, jobs, greedy, record, temperature=1.0):
    return rollouts.run(
      self._kit.act,
      params,
      frozen,
      jobs,
      self.featurizer,
      self._make_user,
      greedy=greedy,
      record=record,
      slots=self._slots,
      max_turns=self._max_turns,
      temperature=temperature,
      tree=None if record else self._kit.tree,
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


def _episode_seed(seed: int, domain: str, place: int, trial: int) -> int:
  """Of one trial of one task, whatever is evaluated beside it.

  Tasks that shared their draws would err together where a policy samples.
  """
  entropy = (seed, zlib.crc32(domain.encode()), place, trial)
  return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def _accepted(e: types.Episode) -> bool:
  """The actions were right, whatever of the COMMUNICATE part is missing."""
  parts = {k: v for k, v in e.verdict.parts.items() if k != "COMMUNICATE"}
  return bool(e.verdict.parts) and all(v == 1 for v in parts.values())


def make(
  *,
  seed: int,
  batch_size: int,
  agent: Mapping[str, Any],
  domains: Sequence[str] = ("airline", "retail", "telecom"),
  curriculum: str = "sequential",
  rounds: int = 5,
  tools: str = "all",
  reading: bool = True,
  clone_steps: int = 300,
  pg_steps: int | Sequence[int] = 20,
  sampler: str = "without_replacement",
  tasks_per_step: int = 8,
  group: int = 4,
  baseline: str = "group",
  explore: float = 1.0,
  greedy: bool = True,
  embedder: str = "hashed",
  embedder_args: Mapping[str, Any] | None = None,
  features: Mapping[str, Any] | None = None,
  user: str = "scripted",
  user_args: Mapping[str, Any] | None = None,
  solo: bool = False,
  pool: str = "official",
  train_split: float = 0.8,
  data_dir: str | None = None,
  max_tasks_per_domain: int | None = None,
  max_eval_tasks: int | None = None,
  slots: int = 32,
  max_turns: int = 200,
  references: bool = True,
) -> Tau2:
  """The stream of tau2 domains for the agent layer.

  Args:
    domains, curriculum, rounds, solo, pool, train_split, data_dir,
      max_tasks_per_domain: see `tasks.stream.make`.
    tools: the action space: the episode's "domain", those "seen" so far, "all".
    reading: hand-written rules of language (`tasks.language.reading`) tell the
      scorer what the user seems to want, as features; else it has the LLM's
      alone.
    clone_steps, pg_steps: updates a domain on its demonstrations, then on its
      own episodes; of `pg_steps` also one number for each domain.
    sampler: order of task batches, see `tasks.stream.batches`.
    tasks_per_step, group: tasks rolled out for one policy-gradient update, and
      episodes of each.
    baseline: see `batching.advantages`.
    explore: temperature of the draws at collection. A policy that has cloned
      decides almost surely (.05 nats a decision), so that at 1 nearly all
      groups earn equal rewards and teach nothing.
    greedy: evaluation takes the most probable option; else it samples.
    embedder, embedder_args: see `agents.embed.make`.
    features: see `agents.features.Featurizer`.
    max_eval_tasks: keeps that many val and test tasks a domain, for quick
      tests; the run's protocol then names the deviation.
    user, user_args: see `tasks.users.make`.
    slots: episodes that act in one call.
    max_turns: tau2's limit of steps.
    references: measure floors and ceilings for run.json.
  """
  names.check("stream.tools", tools, TOOLS)
  if agent["name"] != "scorer":
    raise ValueError(f"agent {agent['name']!r} on tau2; use 'scorer'")
  batching.check_baseline(baseline)
  names.check("stream.sampler", sampler, stream.SAMPLERS)
  for name, value in (
    ("tasks_per_step", tasks_per_step), ("group", group), ("slots", slots),
    ("max_turns", max_turns),
  ):  # fmt: skip
    if value < 1:
      raise ValueError(f"stream.{name} is {value}; it must be 1 or more")
  if not explore > 0:
    raise ValueError(f"stream.explore is {explore}; it must be above 0")
  where = {
    "solo": solo, "data_dir": data_dir, "pool": pool,
    "train_split": train_split, "seed": seed,
  }  # fmt: skip
  stages = stream.make(
    domains,
    curriculum,
    steps=_tau2.steps(domains, clone_steps, pg_steps),
    clone_steps=clone_steps,
    rounds=rounds,
    max_tasks_per_domain=max_tasks_per_domain,
    **where,
  )
  return Tau2(
    seed=seed,
    batch_size=batch_size,
    domains=[
      _tau2.cut(stream.load(d, **where), max_eval_tasks) for d in domains
    ],
    curriculum=curriculum,
    stages=stages,
    agent_args=agent.get("args", {}),
    embedder={"name": embedder, **(embedder_args or {})},
    feature_args=dict(features or {}),
    user={"name": user, **(user_args or {})},
    tools=tools,
    reading=reading,
    sampler=sampler,
    tasks_per_step=tasks_per_step,
    group=group,
    baseline=baseline,
    explore=explore,
    greedy=greedy,
    slots=slots,
    max_turns=max_turns,
    references=references,
    protocol_args={**where, "user": user, "tools": tools},
    max_eval_tasks=max_eval_tasks,
  )
