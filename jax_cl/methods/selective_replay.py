"""Replay of the best alone: only rows of reward > `threshold` are remembered.

The rest is `replay` with cloned rows: L is the mean over the new rows and
int(B * ratio) stored ones. What a domain never did that well is not rehearsed.

Isele & Cosgun 2018, https://arxiv.org/abs/1802.10269 (one of their criteria of
what to keep is reward; a bar replaces their ranking).

Deviations: tau2's rewards are 0 or 1, for which every threshold below 1 keeps
the same rows as `replay_bc`. It differs where rewards are graded.
"""

from __future__ import annotations

from jax_cl import memory
from jax_cl.methods import replay
from jax_cl.methods.base import Method

OFF = {"ratio": 0.0}


def make(
  *,
  batch_size: int,
  ratio: float = 0.2,
  threshold: float = 0.7,
  strategy: str = "random",
  mode: str = "appended",
  min_buffer_size: int = 20,
  capacity: int = 1000,
) -> Method:
  """`capacity` is rows a domain; `batch_size` is the run's."""
  base = replay.make(
    batch_size=batch_size, ratio=ratio, strategy=strategy, mode=mode,
    min_buffer_size=min_buffer_size, capacity=capacity,
  )  # fmt: skip
  if not base.capacity:
    return base

  def store(obj, cl, p, batch, key) -> memory.Items:
    items = base.store(obj, cl, p, batch, key)
    return items._replace(keep=batch.reward > threshold)

  return base._replace(store=store)
