"""Low-rank adapters as leaves beside the kernels they adapt.

Hu et al. 2021, arXiv:2106.09685: y = x W + (alpha / r) (x A) B, A random and B
zero at first. A is `lora_a` [(L,) in, r] and B `lora_b` [(L,) r, out] in the
dict that holds `kernel`; `base.Linear` applies what it finds. So a tree without
them is the base model (the reference of a KL needs no copy), and

  trainable, frozen = tree.split(params, tree.select(params, lora.LEAVES))

gives methods the adapters alone. Nothing is merged but by `merge`, on export:
gradients through merged weights cost 2.6x the memory and 1.8x the work, and a
bfloat16 kernel swallows small products.
"""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp

from jax_cl import tree

PyTree = Any
LEAVES = r".*/lora_[ab]"  # for `tree.select`


def modules(params: PyTree, targets: str) -> list[str]:
  """Paths of the layers' kernels that `targets` matches, without `/kernel`."""
  known = [
    p.removesuffix("/kernel")
    for p in tree.paths({"layers": params["layers"]})
    if p.endswith("/kernel")
  ]
  found = [p for p in known if re.fullmatch(targets, p)]
  if not found:
    raise ValueError(
      f"lora_targets={targets!r} matches no module; there are"
      f" {', '.join(known)}"
    )
  return found


def add(params: PyTree, key: jax.Array, *, rank: int, targets: str) -> PyTree:
  """Stacked `params` with fresh float32 adapters.

  A is uniform in +-1/sqrt(in), as in PEFT (the paper says Gaussian).
  """
  if rank < 1:
    raise ValueError(f"lora_rank={rank} must be positive")
  init = jax.nn.initializers.variance_scaling(
    1 / 3, "fan_in", "uniform", batch_axis=0
  )
  paths = modules(params, targets)
  flat = dict(zip(tree.paths(params), jax.tree.leaves(params)))
  for path, k in zip(paths, jax.random.split(key, len(paths))):
    L, n_in, n_out = flat[f"{path}/kernel"].shape
    flat[f"{path}/lora_a"] = init(k, (L, n_in, rank), jnp.float32)
    flat[f"{path}/lora_b"] = jnp.zeros((L, rank, n_out), jnp.float32)
  return tree.nest(flat)


def merge(params: PyTree, scale: float) -> PyTree:
  """W + scale A B in W's place, computed in float32; no adapter is left."""
  flat = dict(zip(tree.paths(params), jax.tree.leaves(params)))
  for path in [p for p in flat if p.endswith("/lora_a")]:
    module = path.removesuffix("/lora_a")
    a, b = flat.pop(path), flat.pop(f"{module}/lora_b")
    w = flat[f"{module}/kernel"]
    delta = jnp.matmul(
      a.astype(jnp.float32), b.astype(jnp.float32), precision="highest"
    )
    flat[f"{module}/kernel"] = (w + scale * delta).astype(w.dtype)
  return tree.nest(flat)
