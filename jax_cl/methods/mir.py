"""MIR: replay the rows that the next step would hurt most.

Of c = pool * b stored rows of earlier domains, drawn at random, the
b = int(B * ratio) with the largest

  rise = l(theta - lr g; row) - l(theta; row)

join the batch, cloned, as in `replay`; l is -log pi, g the gradient of the new
batch alone, and theta - lr g a virtual step that is not taken.

Aljundi et al. 2019, https://arxiv.org/abs/1908.04742, section 3.1 (ER-MIR).

Deviations: the virtual step is plain SGD at the run's `lr`, whatever its
optimiser is. Only successes (reward > .5) are stored, in a ring a domain
(theirs is a reservoir over the stream). A step costs one more gradient of the
batch and two forward passes over the candidates.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_cl import memory, tree
from jax_cl.methods import _replay
from jax_cl.methods.base import Method, task_grads
from jax_cl.types import Objective

OFF = {"ratio": 0.0}


def make(
  *,
  batch_size: int,
  lr: float,
  ratio: float = 0.2,
  pool: int = 5,
  min_buffer_size: int = 20,
  capacity: int = 1000,
) -> Method:
  """`pool` is candidates a replayed row, `capacity` rows a domain."""
  b = _replay.count("mir ratio", batch_size, ratio)
  if pool < 1:
    raise ValueError(f"mir pool is {pool}; it must be 1 or more")
  if b == 0:
    return Method()

  def grads(obj: Objective, cl, p, batch, mem, stage, key):
    k_new, k_join = jax.random.split(key)
    g, _ = jax.grad(obj.loss, has_aux=True)(p, batch, k_new)
    candidates = _replay.cloned(_replay.rows(mem))
    picked_b = most_hurt(obj, p, tree.axpy(-lr, g, p), candidates, b)
    old = jax.tree.map(lambda x: x[picked_b], candidates)
    joined = _replay.append(batch, old, k_join)
    g, aux = task_grads(obj, cl, p, joined, mem, stage, k_new)
    replayed = jnp.zeros(mem.slot.shape, bool).at[0, picked_b].set(True)
    ratio_now = jnp.sum(old.weight > 0) / batch_size
    return g, {**aux, "replayed": replayed, "replay_ratio": ratio_now}

  return _replay.remembering(
    grads=grads,
    draw=_replay.from_earlier(b * pool, memory.distinct, min_buffer_size),
    capacity=capacity,
  )


def most_hurt(obj: Objective, p, virtual, candidates, b: int):
  """Places of the b candidates whose loss the virtual step raises most."""
  rise_c = _replay.surprisal(obj, virtual, candidates) - _replay.surprisal(
    obj, p, candidates
  )
  return jax.lax.top_k(jnp.where(candidates.weight > 0, rise_c, -jnp.inf), b)[1]
