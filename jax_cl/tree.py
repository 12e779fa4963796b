"""Small pytree helpers: paths, inner products, selection by regex."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


def paths(tree: PyTree) -> list[str]:
  """Leaf paths as `layers/attn/q/kernel`, in `jax.tree.leaves` order."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  name = lambda p: jax.tree_util.keystr(p, simple=True, separator="/")
  return [name(p) for p, _ in leaves]


def map_with_path(f, tree: PyTree, *rest: PyTree) -> PyTree:
  """`f(path, leaf, *leaves_of_rest)` over a tree."""
  return jax.tree_util.tree_map_with_path(
    lambda p, *xs: f(jax.tree_util.keystr(p, simple=True, separator="/"), *xs),
    tree,
    *rest,
  )


def nest(flat: Mapping[str, Any]) -> PyTree:
  """{"a/b": leaf} -> {"a": {"b": leaf}}: dicts from leaf paths."""
  root: dict[str, Any] = {}
  for path, leaf in flat.items():
    *folders, name = path.split("/")
    node = root
    for folder in folders:
      node = node.setdefault(folder, {})
    node[name] = leaf
  return root


def select(tree: PyTree, regex: str) -> PyTree:
  """Booleans like `tree`: True where the whole path matches `regex`."""
  pattern = re.compile(regex)
  return map_with_path(lambda p, _: bool(pattern.fullmatch(p)), tree)


def split(tree: PyTree, keep: PyTree) -> tuple[PyTree, PyTree]:
  """(where keep, elsewhere), with None in the holes. `join` undoes it."""
  left = jax.tree.map(lambda x, k: x if k else None, tree, keep)
  right = jax.tree.map(lambda x, k: None if k else x, tree, keep)
  return left, right


def join(left: PyTree, right: PyTree) -> PyTree:
  """Inverse of `split`."""
  is_hole = lambda x: x is None
  return jax.tree.map(
    lambda a, b: b if a is None else a, left, right, is_leaf=is_hole
  )


def dot(a: PyTree, b: PyTree) -> jax.Array:
  """sum_i a_i b_i over all leaves, accumulated in float32."""
  parts = jax.tree.map(
    lambda x, y: jnp.vdot(x.astype(jnp.float32), y.astype(jnp.float32)), a, b
  )
  return jnp.sum(jnp.stack(jax.tree.leaves(parts)))


def zeros_like(tree: PyTree) -> PyTree:
  return jax.tree.map(jnp.zeros_like, tree)


def axpy(alpha, x: PyTree, y: PyTree) -> PyTree:
  """alpha * x + y."""
  return jax.tree.map(lambda a, b: alpha * a + b, x, y)


def scale(alpha, x: PyTree) -> PyTree:
  return jax.tree.map(lambda a: alpha * a, x)


def size(tree: PyTree) -> int:
  """Number of parameters."""
  return sum(x.size for x in jax.tree.leaves(tree))


def nbytes(tree: PyTree) -> int:
  """Bytes of a tree of arrays or ShapeDtypeStructs."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def all_finite(tree: PyTree) -> jax.Array:
  """bool[]: no NaN and no infinity anywhere."""
  ok = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]
  return jnp.all(jnp.stack(ok)) if ok else jnp.bool_(True)
