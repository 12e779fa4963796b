"""What the two tau2 problems share: tasks, references, what is logged.

`tau2` is the agent layer's problem, `tau2_llm` the policy layer's; both have
the same streams, splits, floors and ceilings, and log episodes alike.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jax_cl import metrics
from jax_cl.tasks import demos, protocol, reference, stream
from jax_cl.tasks import env as env_lib
from jax_cl.types import Episode, Stage, TaskSpec, User


def cut(domain: stream.Domain, most: int | None) -> stream.Domain:
  """The domain with at most so many val and test tasks."""
  if most is not None and most < 1:
    raise ValueError(f"stream.max_eval_tasks is {most}; it must be 1 or more")
  splits = {
    k: v if k == "train" else v[:most] for k, v in domain.splits.items()
  }
  return dataclasses.replace(domain, splits=splits)


def table(domains: Sequence[stream.Domain]) -> tuple[TaskSpec, ...]:
  """All tasks of all splits: `Batch.task` is a place in it."""
  return tuple(s for d in domains for v in d.splits.values() for s in v)


def sizes(
  domains: Sequence[stream.Domain], stages: Sequence[Stage]
) -> dict[str, dict[str, int]]:
  """domain -> split -> tasks; of train those that a stage uses."""
  used = {t for stage in stages for t in stage.train}
  return {
    d.name: {k: len(v) for k, v in d.splits.items()}
    | {"train": sum(t in used for t in d.splits["train"])}
    for d in domains
  }


def digest(domains: Sequence[stream.Domain], *more: str) -> str:
  """A hash of tasks, data and `more`: a resumed run must find the same."""
  out = hashlib.sha256("".join(f"{s}" for s in table(domains)).encode())
  for d in domains:
    out.update(protocol.data_hash(d.name).encode())
  for text in more:
    out.update(text.encode())
  return out.hexdigest()[:16]


def steps(
  domains: Sequence[str], clone_steps: int, pg_steps: int | Sequence[int]
) -> list[int]:
  """Updates a domain: of cloning, and then of policy gradient."""
  n = len(domains)
  pg = [pg_steps] * n if isinstance(pg_steps, int) else [*pg_steps]
  if len(pg) != n:
    raise ValueError(
      f"stream.pg_steps {tuple(pg)} for {n} domains: give one number, or one "
      "for each"
    )
  if min([clone_steps, *pg]) < 0 or clone_steps + min(pg, default=1) < 1:
    raise ValueError(
      f"stream.clone_steps {clone_steps} and stream.pg_steps {pg_steps}: "
      "neither may be negative, and their sum must be 1 or more"
    )
  return [clone_steps + x for x in pg]


def draw(
  rng: np.random.Generator,
  stages: Sequence[Stage],
  stage: int,
  step: int,
  mix: np.ndarray | None,
  domains: Sequence[str],
  *,
  sampler: str,
  n: int,
  seed: int,
) -> list[TaskSpec]:
  """The n train tasks of one step: the stage's own, and old ones by `mix`."""
  own = stages[stage]
  # A stage that comes back (interleaved) goes on where it left off.
  before = sum(
    s.steps - s.clone_steps for s in stages[:stage] if s.domains == own.domains
  )
  batch = stream.batches(
    sampler,
    demos.train_only(own.train),
    n,
    seed=seed,
    steps=max(own.steps - own.clone_steps, 1),
  )
  specs = list(batch(before + step - own.clone_steps))
  if mix is None:
    return specs
  here = np.array([d in own.domains for d in domains])
  old = np.where(here, 0.0, mix)
  total = int(n * old.sum() + 1e-4)
  if not total:
    return specs
  specs = specs[: int(np.ceil(n * np.sum(mix, where=here) - 1e-4))]
  counts = apportion(rng, old, total)
  for domain, count in zip(domains, counts, strict=True):
    if count:
      pool = _trained(stages[:stage], domain)
      picked = rng.choice(len(pool), count, replace=count > len(pool))
      specs += [pool[i] for i in picked]
  return specs


def _trained(earlier: Sequence[Stage], domain: str) -> tuple[TaskSpec, ...]:
  """The tasks of a domain that these stages learned from."""
  specs = [t for s in earlier for t in s.train if t.domain == domain]
  return demos.train_only(dict.fromkeys(specs))


def apportion(
  rng: np.random.Generator, shares: np.ndarray, total: int
) -> np.ndarray:
  """`total` things by `shares`; what does not divide goes by lot.

  Systematic sampling: each count is its share rounded down or up, and right
  in expectation.
  """
  order, counts = rng.permutation(len(shares)), np.zeros(len(shares), int)
  ends = np.cumsum(shares[order]) * (total / shares.sum())
  ends = np.floor(np.round(ends, 6) + rng.random())
  counts[order] = np.diff(ends, prepend=0.0)
  return counts


def play(
  spec: TaskSpec,
  policy: Callable[[env_lib.Env], Any],
  make_user: Callable[[], User],
  max_turns: int,
) -> Episode:
  """One episode of a policy of `tasks.reference`."""
  user = None if spec.solo else make_user()
  env = env_lib.Env(spec, user, max_turns=max_turns)
  env.reset()
  while not env.done:
    env.step(policy(env))
  return env.episode()


def rewards(
  name: str,
  specs: Sequence[TaskSpec],
  make_user: Callable[[], User],
  max_turns: int,
) -> list[float]:
  """What a reference policy earns on each task."""
  make = reference.make(name)
  return [play(s, make(), make_user, max_turns).reward for s in specs]


def references(
  names: Sequence[str],
  domains: Sequence[stream.Domain],
  measure: Callable[[str, Sequence[TaskSpec]], Sequence[float]],
) -> dict[str, Any]:
  """Floors and ceilings for run.json, by name, split and domain.

  `references` are means over all tasks, `references_write` over those whose
  gold actions write: doing nothing earns .30 in airline only because six of
  its twenty test tasks ask for nothing.
  """
  everything: dict[str, Any] = {}
  writing: dict[str, Any] = {}
  for name in names:
    for split in ("val", "test"):
      for d in domains:
        specs = d.splits[split]
        found = np.array(measure(name, specs), float)
        writes = np.array([demos.requires_write(s) for s in specs], bool)
        for out, some in ((everything, found), (writing, found[writes])):
          of_split = out.setdefault(name, {}).setdefault(split, {})
          of_split[d.name] = float(some.mean()) if some.size else None
  return {"references": everything, "references_write": writing}


def counted(e: Episode, domain: stream.Domain) -> Episode:
  """Adds what `episodes.jsonl` says of an episode."""
  tools = (*domain.tools, *domain.user_tools)
  reads = {t.name for t in tools if t.kind == "read"}
  calls = [
    (c.name, c.arguments)
    for t in e.turns
    if t.role == "assistant"
    for c in t.tool_calls
  ]
  gold = [(a.name, a.arguments, a.compare_args) for a in demos.gold(e.task)]
  n, hits, args = metrics.tool_counts(calls, gold, reads)
  counts: Mapping[str, Any] = {
    "requires_write": demos.requires_write(e.task),
    "tool_calls": n,
    "tool_hits": hits,
    "arg_hits": args,
    "n_turns": len(e.turns),
  }
  return dataclasses.replace(e, info={**e.info, **counts})
