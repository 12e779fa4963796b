"""The weight space of a tree with LoRA factors: products A B, not A and B.

A layer with factors computes x W + s (x A) B, so that it depends on A [in, r]
and B [r, out] through A B alone: (A Q, Q^-1 B) is the same layer for every
invertible Q, while distance and importance measured on the factors change with
Q. Importance is therefore taken, and distance measured, on `product(p)`.

`shift` adds a change of weights to a tree of factors exactly, at rank r + in:
[A, I] [B; delta] = A B + delta. Its gradient at delta = 0 is s times that of
the layer's whole kernel, which a method never sees. Nothing is approximated,
and the memory is that of full matrices. Leaves that are no factors are
themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_cl import names
from jax_cl.types import Objective

PyTree = Any
A, B, AB = "lora_a", "lora_b", "lora_ab"


def product(p: PyTree) -> PyTree:
  """`p` with each pair of factors [in, r], [r, out] as one leaf [in, out]."""

  def node(x):
    if not _is_pair(x):
      return x
    return {**_others(x), AB: x[A] @ x[B]}

  return jax.tree.map(node, p, is_leaf=_is_pair)


def shift(p: PyTree, delta: PyTree) -> PyTree:
  """Factors and leaves of product(p) + delta; of factors the rank grows."""

  def node(x, d):
    if not _is_pair(x):
      return x + d
    eye = jnp.eye(x[A].shape[-2], dtype=x[A].dtype)
    eye = jnp.broadcast_to(eye, (*x[A].shape[:-1], eye.shape[-1]))
    return {
      **jax.tree.map(jnp.add, _others(x), {k: d[k] for k in _others(x)}),
      A: jnp.concatenate([x[A], eye], axis=-1),
      B: jnp.concatenate([x[B], d[AB]], axis=-2),
    }

  return jax.tree.map(node, p, delta, is_leaf=_is_pair)


def at(obj: Objective, p: PyTree) -> tuple[Objective, PyTree]:
  """(objective of a change of weights around `p`, the change that is none).

  A tree without factors is its own weight space.
  """
  zero = jax.tree.map(jnp.zeros_like, product(p))
  if jax.tree.structure(zero) == jax.tree.structure(p):  # no factors in it
    return obj, p
  of = lambda f: lambda d, *a: f(shift(p, d), *a)
  return Objective(*(of(f) for f in obj)), zero


def _is_pair(x) -> bool:
  return isinstance(x, dict) and A in x and B in x


def _others(x: dict) -> dict:
  return {k: v for k, v in x.items() if k not in (A, B)}


class Space(NamedTuple):
  """Where importance and distance live."""

  product: Callable[[PyTree], PyTree]
  at: Callable[[Objective, PyTree], tuple[Objective, PyTree]]


SPACES = {
  "product": Space(product, at),
  "factors": Space(lambda p: p, lambda obj, p: (obj, p)),
}


def space(name: str) -> Space:
  """The option `lora` of a method."""
  names.check("lora", name, SPACES)
  return SPACES[name]
