"""What EWC, SI and MAS share: a quadratic pull to old weights, by importance.

The three differ in what they call important, in when it is measured and in the
constant before the sum; each file says so.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_cl.types import Batch

PyTree = Any


class Outer(NamedTuple):
  """Importance rows_i cols_j / sum(rows) of a matrix, by its two sums."""

  rows: Any  # f32[..., in]
  cols: Any  # f32[..., out]

  @property
  def vectors(self):
    """(u, v) whose outer product it is."""
    total = jnp.sum(self.rows, axis=-1, keepdims=True)
    return self.rows / jnp.maximum(total, 1e-30), self.cols

  @property
  def max(self):
    """f32[...]: a matrix of importances has one largest."""
    u, v = self.vectors
    return jnp.max(u, axis=-1) * jnp.max(v, axis=-1)


class Factors(NamedTuple):
  """A matrix a @ b that is not multiplied out."""

  a: Any  # [..., in, r]
  b: Any  # [..., r, out]


def is_outer(x) -> bool:
  return isinstance(x, Outer)


def pull(importance: PyTree, anchor: PyTree, p: PyTree):
  """sum_i importance_i (theta_i - theta*_i)^2, f32[].

  Where the importance is an `Outer`, the weights are `Factors`.
  """

  def term(f, then, now):
    if not is_outer(f):
      return f * (now - then) ** 2
    # now - then = L R, of rank 2r: sum_ij u_i v_j (L R)_ij^2 is a trace.
    u, v = f.vectors
    L = jnp.concatenate([now.a - then.a, then.a], axis=-1)
    R = jnp.concatenate([now.b, now.b - then.b], axis=-2)
    left = jnp.einsum("...i,...ik,...il->...kl", u, L, L)
    return left * jnp.einsum("...j,...kj,...lj->...kl", v, R, R)

  gap = jax.tree.map(term, importance, anchor, p, is_leaf=is_outer)
  return sum(jnp.sum(x) for x in jax.tree.leaves(gap))


def cap(importance: PyTree, lr: float, curvature) -> PyTree:
  """importance with lr * curvature * importance <= 1, so that SGD is stable.

  A step on curvature/2 * importance * gap^2 multiplies the gap by
  1 - lr * curvature * importance, which overshoots beyond 1 and diverges
  beyond 2. `lr` 0 bounds nothing. An `Outer` shrinks as a whole.
  """
  most = 1 / jnp.maximum(lr * curvature, 1e-30)

  def node(f):
    if not is_outer(f):
      return jnp.minimum(f, most)
    return shrunk(f, jnp.minimum(1.0, most / jnp.maximum(f.max, 1e-30)))

  return jax.tree.map(node, importance, is_leaf=is_outer)


def shrunk(f: Outer, share) -> Outer:
  """share * f, share f32[...] for each of a stack of matrices."""
  return f._replace(cols=f.cols * share[..., None])


def by_lot(batches: Batch, n: int, key) -> Batch:
  """`n` rows that have weight, drawn from batches [k, B, ...] without
  replacement; rows of weight 0 fill up where there are fewer."""
  rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batches)
  lot = jax.random.uniform(key, rows.weight.shape)
  first = jnp.argsort(jnp.where(rows.weight > 0, lot, 2.0))[:n]
  return jax.tree.map(lambda x: x[first], rows)


def report(importance: PyTree, name: str = "importance") -> dict[str, Any]:
  """Sum and maximum, which tell how stiff the weights have become."""
  leaves = jax.tree.leaves(importance, is_leaf=is_outer)
  total = lambda f: jnp.sum(f.cols if is_outer(f) else f)
  most = lambda f: jnp.max(f.max if is_outer(f) else f)
  return {
    f"{name}_trace": sum(total(f) for f in leaves),
    f"{name}_max": jnp.max(jnp.stack([most(f) for f in leaves])),
  }
