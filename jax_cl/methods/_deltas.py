"""Low-rank deltas beside any tree: W + A B, A [..., in, r], B [..., r, out].

Hu et al. 2021, https://arxiv.org/abs/2106.09685. A is drawn from
U(+-1/sqrt(in)), B is 0 at first; a leaf that is no matrix gets a delta of its
own shape. An LLM brings its adapters itself (leaves `lora_a`, `lora_b`, never
merged); for every other learner `merge` makes the weights that act, which for
small matrices costs little.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_cl import tree

PyTree = Any


class Adapted(NamedTuple):
  """A learner without adapters, and deltas beside it."""

  base: PyTree  # the learner's own tree
  delta: PyTree  # like it, each leaf {lora_a, lora_b}, {delta} or {}


def adapters(p: PyTree) -> dict[str, Any]:
  """path -> A of every adapter, a learner's own or a delta."""
  named = zip(tree.paths(p), jax.tree.leaves(p))
  return {k: x for k, x in named if k.rsplit("/")[-1] == "lora_a"}


def extend(p: PyTree, rank: int, key, on: PyTree | None = None) -> PyTree:
  """p itself where it brings adapters, else p with fresh deltas of a rank.

  `on` (booleans like p) says which leaves get one; None: all.
  """
  if adapters(p):
    return p
  leaves, treedef = jax.tree.flatten(p)
  ons = [True] * len(leaves) if on is None else jax.tree.leaves(on)
  keys = jax.random.split(key, len(leaves))
  deltas = [
    _fresh(x, rank, k) if yes else {} for x, k, yes in zip(leaves, keys, ons)
  ]
  return Adapted(p, jax.tree.unflatten(treedef, deltas))


def beside(p: Adapted) -> PyTree:
  """The base's matrices that have an adapter; () in place of other leaves."""
  return jax.tree.map(lambda w, d: w if "lora_a" in d else (), p.base, p.delta)


def _fresh(x, rank: int, key):
  if x.ndim < 2:
    return {"delta": jnp.zeros_like(x)}
  *stack, n_in, n_out = x.shape
  bound = n_in**-0.5
  shape = (*stack, n_in, rank)
  return {
    "lora_a": jax.random.uniform(key, shape, x.dtype, -bound, bound),
    "lora_b": jnp.zeros((*stack, rank, n_out), x.dtype),
  }


def merge(p: Adapted) -> PyTree:
  """The learner's tree: W + A B."""

  def add(w, d):
    if not d:
      return w
    return w + (d["lora_a"] @ d["lora_b"] if "lora_a" in d else d["delta"])

  return jax.tree.map(add, p.base, p.delta)


def where(condition, x: PyTree) -> PyTree:
  """x, or zeros like it."""
  return jax.tree.map(lambda a: jnp.where(condition, a, 0), x)


def read_by(change, d: dict, rank: int) -> dict:
  """The adapter `d`, its first slot turned to what `change` [in, out] reads.

  No singular vectors: close ones change places at the least rounding.
  """
  a = d["lora_a"][..., :rank]
  some = change @ (jnp.swapaxes(change, -1, -2) @ a)
  some /= jnp.maximum(jnp.linalg.norm(some, axis=-2, keepdims=True), 1e-12)
  rest = d["lora_a"][..., rank:]
  return {**d, "lora_a": jnp.concatenate([some, rest], axis=-1)}


def slots(rank: int, n_stages):
  """The stage that each place of the rank belongs to: int32[r].

  What does not divide evenly is the last stage's.
  """
  return jnp.minimum(jnp.arange(rank) // (rank // n_stages), n_stages - 1)
