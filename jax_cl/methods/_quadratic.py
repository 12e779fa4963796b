"""What EWC, SI and MAS share: a quadratic pull to old weights, by importance.

The three differ in what they call important, in when it is measured and in the
constant before the sum; each file says so.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jax_cl.types import Batch

PyTree = Any


def pull(importance: PyTree, anchor: PyTree, p: PyTree):
  """sum_i importance_i (theta_i - theta*_i)^2, f32[]."""
  gap = jax.tree.map(lambda f, a, x: f * (x - a) ** 2, importance, anchor, p)
  return sum(jnp.sum(x) for x in jax.tree.leaves(gap))


def cap(importance: PyTree, lr: float, curvature) -> PyTree:
  """importance with lr * curvature * importance <= 1, so that SGD is stable.

  A step on curvature/2 * importance * gap^2 multiplies the gap by
  1 - lr * curvature * importance, which overshoots beyond 1 and diverges
  beyond 2. `lr` 0 bounds nothing.
  """
  most = 1 / jnp.maximum(lr * curvature, 1e-30)
  return jax.tree.map(lambda f: jnp.minimum(f, most), importance)


def by_lot(batches: Batch, n: int, key) -> Batch:
  """`n` rows that have weight, drawn from batches [k, B, ...] without
  replacement; rows of weight 0 fill up where there are fewer."""
  rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batches)
  lot = jax.random.uniform(key, rows.weight.shape)
  first = jnp.argsort(jnp.where(rows.weight > 0, lot, 2.0))[:n]
  return jax.tree.map(lambda x: x[first], rows)


def report(importance: PyTree, name: str = "importance") -> dict[str, Any]:
  """Sum and maximum, which tell how stiff the weights have become."""
  leaves = jax.tree.leaves(importance)
  return {
    f"{name}_trace": sum(jnp.sum(x) for x in leaves),
    f"{name}_max": jnp.max(jnp.stack([jnp.max(x) for x in leaves])),
  }
