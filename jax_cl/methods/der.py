"""Dark experience replay: answer old rows as when they were remembered.

  L = L_task(new rows) + alpha * mean over stored rows of |z - z_stored|^2

z are the policy's logits on int(B * ratio) stored rows of earlier domains and
z_stored what it answered when they were stored. The square is a mean over the
options that were allowed, and over the tokens of a row.

Buzzega et al. 2020, https://arxiv.org/abs/2004.07211, eq. 6 and their code,
which takes the mean over classes, too.

Deviations: they remember along the whole trajectory of training; here a stage's
demonstrations are stored in its last epoch, when the policy knows them, and its
episodes as they come. A reservoir a domain, not one for the stream. Of more
than `top_k` options (an LLM's vocabulary) the largest logits alone are kept.
"""

from __future__ import annotations

import jax

from jax_cl import memory, tree
from jax_cl.methods import _logits, _replay
from jax_cl.methods.base import Method, task_grads
from jax_cl.types import Batch, Objective

OFF = {"alpha": 0.0}


def make(
  *,
  batch_size: int,
  alpha: float = 0.5,
  ratio: float = 1.0,
  top_k: int = 256,
  capacity: int = 1000,
) -> Method:
  """`capacity` is rows a domain; `batch_size` is the run's."""
  b = _replay.count("der ratio", batch_size, ratio)
  if alpha < 0 or top_k < 1:
    raise ValueError(
      f"der needs alpha >= 0 and top_k >= 1; got alpha {alpha}, top_k {top_k}"
    )
  if b == 0:
    return Method()

  def grads(obj: Objective, cl, p, batch, mem, stage, key):
    g, aux = task_grads(obj, cl, p, batch, mem, stage, key)
    old, kept = _replay.rows(mem), _replay.extra(mem)
    value, g_old = jax.value_and_grad(
      lambda q: _logits.distance(obj, q, old, kept)
    )(p)
    return tree.axpy(alpha, g_old, g), {**aux, "distillation": value}

  return remembering_logits(
    top_k, grads=grads, draw=_replay.from_earlier(b), capacity=capacity
  )


def remembering_logits(top_k: int, **parts) -> Method:
  """A method whose memory keeps each row with the policy's answer to it."""

  def store(obj: Objective, cl, p, batch: Batch, key) -> memory.Items:
    items = _replay.everything(obj, cl, p, batch, key)
    return items._replace(extra=_logits.keep(obj, p, batch, top_k))

  parts = {"store": store, "add": memory.reservoir, **parts}
  return _replay.remembering(
    needs=frozenset({"memory", "outputs"}), demos="last", **parts
  )
