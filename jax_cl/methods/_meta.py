"""What MAML and OML share: the gradient of a loss after a few inner steps.

  theta' = inner(theta; new rows);  g = d/dtheta L(theta'; new and old rows)

Old rows come from the memory of `replay` and are cloned as its `replay_bc`
does. Until it holds enough (all of stage 0) the outer rows are the new ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jax_cl import tree
from jax_cl.methods import _replay
from jax_cl.methods.base import Method
from jax_cl.types import Batch, Objective

# (obj, p, batch, key) -> (p', gradient on the new rows); differentiable in p
Inner = Callable[..., Any]


def method(inner: Inner, kept: Method, clip: float = 0.0) -> Method:
  """`kept` is a `replay`: its memory, with the outer gradient for its own.

  The norm of that gradient is at most `clip`, unless that is 0.
  """

  def grads(obj: Objective, cl, p, batch: Batch, mem, stage, key):
    k_inner, k_outer = jax.random.split(key)
    rows = batch
    if kept.capacity:
      rows = _replay.append(batch, _replay.cloned(_replay.rows(mem)), None)

    def outer(p):
      p, g = inner(obj, p, batch, k_inner)
      loss, aux = obj.loss(p, rows, k_outer)
      return loss, (aux, g)

    (loss, (aux, g_task)), g = jax.value_and_grad(outer, has_aux=True)(p)
    if clip:
      norm = optax.tree.norm(g)
      g = tree.scale(jnp.minimum(1.0, clip / jnp.maximum(norm, 1e-9)), g)
    return g, {"loss": loss, **aux, "task_grads": g_task}

  return kept._replace(grads=grads)


def descend(obj: Objective, p, batch: Batch, key, alpha: float, fast=None):
  """(p - alpha dL/dp where `fast`, dL/dp); fast: booleans like p, None: all."""
  g, _ = jax.grad(obj.loss, has_aux=True)(p, batch, key)
  if fast is None:
    fast = jax.tree.map(lambda x: True, p)
  move = lambda x, d, on: x - alpha * d if on else x
  return jax.tree.map(move, p, g, fast), g
