"""Replay whose ratio follows the forgetting seen on val.

After each evaluation on val (every `eval.interval` steps, and at the end of a
stage), over the domains of earlier stages, with best_d the best score that a
domain has had since it was first trained on:

  drop = max_d (best_d - now_d)
  ratio <- min(ratio + rate, max_ratio) if drop > threshold
           max(ratio - rate, min_ratio) otherwise

The rest is `replay`, with the same options. Never reads test.

No paper: a controller with two actions. Deviations from `replay`: shapes are
fixed, so int(batch_size * max_ratio) rows are drawn every time and those beyond
the ratio of now have weight 0; a step costs that of the highest ratio. While no
domain is an earlier one the ratio stays.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jax_cl.methods import _replay, replay
from jax_cl.methods.base import Method

OFF = {"initial_ratio": 0.0, "min_ratio": 0.0, "max_ratio": 0.0}


def make(
  *,
  batch_size: int,
  n_domains: int,
  prompts: int = 0,
  trains: np.ndarray | None = None,
  initial_ratio: float = 0.2,
  min_ratio: float = 0.1,
  max_ratio: float = 0.5,
  rate: float = 0.1,
  threshold: float = 0.1,
  strategy: str = "random",
  kind: str = "replay_bc",
  mode: str = "appended",
  min_buffer_size: int = 20,
  replay_all_domains: bool = True,
  capacity: int = 1000,
  clip: float = 2.0,
) -> Method:
  """Without `trains` (the run knows it) every domain counts as earlier."""
  if not 0 <= min_ratio <= initial_ratio <= max_ratio <= 1 or rate < 0:
    raise ValueError(
      "adaptive_replay needs 0 <= min_ratio <= initial_ratio <= max_ratio <= 1 "
      f"and rate >= 0; got {min_ratio}, {initial_ratio}, {max_ratio} and {rate}"
    )
  most = replay.make(
    batch_size=batch_size, prompts=prompts, trains=trains, ratio=max_ratio,
    strategy=strategy, kind=kind, mode=mode, min_buffer_size=min_buffer_size,
    replay_all_domains=replay_all_domains, capacity=capacity, clip=clip,
  )  # fmt: skip
  if most == Method():
    return most

  def init(p, n_stages, key):
    return {
      "ratio": jnp.float32(initial_ratio),
      "best": jnp.full(n_domains, -jnp.inf),
    }

  def draw(cl, buffer, stage, key):
    mem = most.draw((), buffer, stage, key)
    used = jnp.floor(batch_size * cl["ratio"] + 1e-4)
    on = jnp.arange(mem.rows.weight.shape[1]) < used
    weight = mem.rows.weight * on[None, :]
    return mem._replace(rows=mem.rows._replace(weight=weight))

  def mix(cl, stage):
    if kind != "replay_env" or trains is None:
      return None
    last_only = not replay_all_domains
    return _replay.shares(trains, stage, cl["ratio"], mode, last_only)

  def observe(cl, val_row, stage):
    seen, old = _trained(trains, n_domains, stage)
    known = jnp.isfinite(val_row) & seen
    best = jnp.where(known, jnp.maximum(cl["best"], val_row), cl["best"])
    drops = jnp.where(known & old, best - val_row, -jnp.inf)
    moved = jnp.where(jnp.max(drops) > threshold, rate, -rate)
    ratio = jnp.clip(cl["ratio"] + moved, min_ratio, max_ratio)
    some = jnp.any(known & old)
    return {"ratio": jnp.where(some, ratio, cl["ratio"]), "best": best}

  def report(cl, buffer):
    return {**most.report((), buffer), "replay_ratio": cl["ratio"]}

  return most._replace(
    init=init,
    draw=draw,
    mix=mix,
    observe=observe,
    report=report,
    needs=most.needs | {"val"},
  )


def _trained(trains, n_domains: int, stage):
  """(trained on up to now, and not in this stage): bool[N] each."""
  if trains is None:
    return jnp.ones(n_domains, bool), jnp.ones(n_domains, bool)
  trains_SN = jnp.asarray(trains)
  up_to_S = jnp.arange(len(trains)) <= stage
  seen_N = jnp.any(trains_SN & up_to_S[:, None], axis=0)
  return seen_N, seen_N & ~trains_SN[stage]
