"""A-GEM: no step may raise the loss on what is remembered, to first order.

With g_ref the gradient of the cloning loss on int(B * ratio) rows of earlier
domains, and g that of the new batch:

  g <- g - (g . g_ref / |g_ref|^2) g_ref   if g . g_ref < 0,   else g

Chaudhry et al. 2019, https://arxiv.org/abs/1812.00420, eq. 11.

Deviations: rows are shared evenly among earlier domains, and only successes
(reward > .5) are kept. What an optimiser with moments makes of the projected
gradient may still point against g_ref; the guarantee is that of plain SGD.
There is no strength to turn down but how many rows are asked: at ratio 0 none.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_cl import tree
from jax_cl.methods import _replay
from jax_cl.methods.base import Method, task_grads

OFF = {"ratio": 0.0}


def make(
  *, batch_size: int, ratio: float = 1.0, capacity: int = 1000
) -> Method:
  """`capacity` is rows a domain; `batch_size` is the run's."""
  b = _replay.count("agem ratio", batch_size, ratio, most=100.0)
  if b == 0:
    return Method()

  def grads(obj, cl, p, batch, mem, stage, key):
    k_new, k_old = jax.random.split(key)
    g, aux = task_grads(obj, cl, p, batch, mem, stage, k_new)
    old = _replay.cloned(_replay.rows(mem))
    ref, _ = jax.grad(obj.loss, has_aux=True)(p, old, k_old)
    g, dot = project(g, ref)
    return g, {**aux, "projected": (dot < 0).astype(jnp.float32)}

  return _replay.remembering(
    grads=grads, draw=_replay.from_earlier(b), capacity=capacity
  )


def project(g, ref):
  """(g without what points against `ref`, g . ref)."""
  dot, square = tree.dot(g, ref), tree.dot(ref, ref)
  against = jnp.where(dot < 0, dot / jnp.maximum(square, 1e-30), 0.0)
  return tree.axpy(-against, ref, g), dot
