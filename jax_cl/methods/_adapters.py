"""The weight space of a tree with LoRA factors: products A B, not A and B.

A layer with factors computes x W + s (x A) B, so that it depends on A [in, r]
and B [r, out] through A B alone: (A Q, Q^-1 B) is the same layer for every
invertible Q, while distance and importance measured on the factors change with
Q. Importance is therefore taken, and distance measured, on `product(p)`.

`shift` adds a change of weights to a tree of factors exactly, at rank r + in:
[A, I] [B; delta] = A B + delta. Its gradient at delta = 0 is s times that of
the layer's whole kernel, which a method never sees. Leaves that are no factors
are themselves.

The importance of a product is as large as the full matrix: 26 GB beside a 7B
model. Three forms, by the option `lora`:

* `product` keeps its sums over rows and over columns, F_ij ~ R_i C_j / sum R
  (Shazeer & Stern 2018, https://arxiv.org/abs/1804.04235, who show that it is
  the nearest of rank one in I-divergence; exact for a layer whose inputs and
  errors are independent, as K-FAC assumes, https://arxiv.org/abs/1503.05671).
  The distance is then a trace of [2r, 2r] matrices; no product is made.
* `product_full` keeps every entry. Nothing is approximated.
* `factors` takes A and B as any other weights.

All need one row's gradient of the full matrices when a stage ends, but for the
last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_cl import names
from jax_cl.methods._quadratic import Factors, Outer
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


def factored(p: PyTree) -> PyTree:
  """`product`, with the matrices not multiplied out: `_quadratic.Factors`."""

  def node(x):
    return {**_others(x), AB: Factors(x[A], x[B])} if _is_pair(x) else x

  return jax.tree.map(node, p, is_leaf=_is_pair)


def marginals(importance: PyTree) -> PyTree:
  """An importance of `product(p)`, that of each product by its sums alone."""

  is_product = lambda x: isinstance(x, dict) and AB in x

  def node(x):
    if not is_product(x):
      return x
    return {**x, AB: Outer(x[AB].sum(-1), x[AB].sum(-2))}

  return jax.tree.map(node, importance, is_leaf=is_product)


def _is_pair(x) -> bool:
  return isinstance(x, dict) and A in x and B in x


def _others(x: dict) -> dict:
  return {k: v for k, v in x.items() if k not in (A, B)}


class Space(NamedTuple):
  """Where importance and distance live."""

  product: Callable[[PyTree], PyTree]
  at: Callable[[Objective, PyTree], tuple[Objective, PyTree]]
  pack: Callable[[PyTree], PyTree]  # what is kept of an importance

  def zeros(self, p: PyTree) -> PyTree:
    """The importance of weights that no stage has learned."""
    there = lambda p: self.pack(self.at(_NOTHING, p)[1])
    shapes = jax.eval_shape(there, p)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


_NOTHING = Objective(*[lambda *_: None] * len(Objective._fields))

SPACES = {
  "product": Space(factored, at, marginals),
  "product_full": Space(product, at, lambda F: F),
  "factors": Space(lambda p: p, lambda obj, p: (obj, p), lambda F: F),
}


def space(name: str) -> Space:
  """The option `lora` of a method."""
  names.check("lora", name, SPACES)
  return SPACES[name]
