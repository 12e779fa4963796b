"""Dark experience replay ++: old answers, and old labels beside them.

  L = L_task(new rows) + alpha * mean over M of |z - z_stored|^2
      + beta * mean over M' of -log pi(a_stored | s)

M and M' are two independent draws of int(B * ratio) stored rows of earlier
domains. The second term is `der`; the third clones what was right: of M' only
successes (reward > .5) count.

Buzzega et al. 2020, https://arxiv.org/abs/2004.07211, eq. 7. Mean over classes,
last epoch, reservoirs and `top_k` as in `der`.
"""

from __future__ import annotations

import jax

from jax_cl import memory, tree
from jax_cl.methods import _logits, _replay
from jax_cl.methods.base import Method, task_grads
from jax_cl.methods.der import remembering_logits
from jax_cl.types import Objective

OFF = {"alpha": 0.0, "beta": 0.0}


def make(
  *,
  batch_size: int,
  alpha: float = 0.5,
  beta: float = 0.5,
  ratio: float = 1.0,
  top_k: int = 256,
  capacity: int = 1000,
) -> Method:
  """`capacity` is rows a domain; `batch_size` is the run's."""
  b = _replay.count("derpp ratio", batch_size, ratio)
  if alpha < 0 or beta < 0 or top_k < 1:
    raise ValueError(
      "derpp needs alpha >= 0, beta >= 0 and top_k >= 1; got alpha "
      f"{alpha}, beta {beta}, top_k {top_k}"
    )
  if b == 0:
    return Method()
  one = _replay.from_earlier(b)

  def draw(cl, buffer, stage, key):
    keys = jax.random.split(key)
    return memory.join(*(one(cl, buffer, stage, k) for k in keys))

  def grads(obj: Objective, cl, p, batch, mem, stage, key):
    k_new, k_old = jax.random.split(key)
    g, aux = task_grads(obj, cl, p, batch, mem, stage, k_new)
    old, kept = _replay.rows(mem), _replay.extra(mem)
    value, g_z = jax.value_and_grad(
      lambda q: _logits.distance(obj, q, old, kept)
    )(p)
    right = _replay.cloned(_replay.rows(mem, 1))
    passed = right.reward > memory.PASSED
    right = right._replace(weight=right.weight * passed)
    (again, _), g_a = jax.value_and_grad(obj.loss, has_aux=True)(
      p, right, k_old
    )
    g = tree.axpy(beta, g_a, tree.axpy(alpha, g_z, g))
    return g, {**aux, "distillation": value, "replay_loss": again}

  return remembering_logits(top_k, grads=grads, draw=draw, capacity=capacity)
