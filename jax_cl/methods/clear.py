"""CLEAR: half new, half old rows; off-policy corrected, and cloned.

  L = L_task(new and corrected old rows) + cloning * KL(mu || pi) on old rows

Old rows count with their stored advantage times min(pi / mu, clip), as
`replay_pg` has it; KL(mu || pi) holds the policy where it was (mu, its logits
when the row was stored), also where the ratio has gone to 0.

Rolnick et al. 2019, https://arxiv.org/abs/1811.11682, section 3.

Deviations: no critic here, so V-trace is its policy term with the stored
advantage, and value cloning falls away. `cloning` is 1, theirs .01 at a loss
of other size. Half and half is `ratio` 1 of the batch, appended; at ratio 0 it
is `sequential`. Storage as in `der`: last epoch, reservoirs, `top_k`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_cl import tree
from jax_cl.methods import _logits, _replay
from jax_cl.methods.base import Method, task_grads
from jax_cl.methods.der import remembering_logits
from jax_cl.types import Objective

OFF = {"ratio": 0.0}


def make(
  *,
  batch_size: int,
  ratio: float = 1.0,
  cloning: float = 1.0,
  clip: float = 1.0,
  top_k: int = 256,
  capacity: int = 1000,
) -> Method:
  """`capacity` is rows a domain; `batch_size` is the run's."""
  b = _replay.count("clear ratio", batch_size, ratio)
  if cloning < 0 or clip <= 0 or top_k < 1:
    raise ValueError(
      "clear needs cloning >= 0, clip > 0 and top_k >= 1; got cloning "
      f"{cloning}, clip {clip}, top_k {top_k}"
    )
  if b == 0:
    return Method()

  def grads(obj: Objective, cl, p, batch, mem, stage, key):
    old, kept = _replay.rows(mem), _replay.extra(mem)
    joined = _replay.append(batch, _replay.corrected(obj, p, old, clip), key)
    g, aux = task_grads(obj, cl, p, joined, mem, stage, key)
    value, g_old = jax.value_and_grad(
      lambda q: _logits.divergence(obj, q, old, kept)
    )(p)
    ratio_now = jnp.sum(old.weight > 0) / batch_size
    aux = {**aux, "kl_stored": value, "replay_ratio": ratio_now}
    return tree.axpy(cloning, g_old, g), aux

  return remembering_logits(
    top_k, grads=grads, draw=_replay.from_earlier(b), capacity=capacity
  )
