"""Learning without forgetting: keep the old policy's answers on new inputs.

  L = L_task + lambda T^2 KL(pi_old(. | x; T) || pi(. | x; T)),  x of the batch

pi_old is the policy at the start of the stage; T, the temperature, softens
both; T^2 keeps the gradient's size from falling with it. No memory is needed.

Li & Hoiem 2016, https://arxiv.org/abs/1606.09282, eqs. 2 to 4 (their
cross-entropy of softened outputs has this gradient).

Deviations: one head serves all stages here, so all options are distilled, not
those of old heads alone; stage 0 has no old policy and no penalty. The paper
warms the new head up first, there is none. Where the learner gives its largest
logits alone, pi_old's are what is distilled (`_logits`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_cl.methods import _logits
from jax_cl.methods.base import Method, penalty

OFF = {"lam": 0.0}


def make(*, lam: float = 1.0, temperature: float = 2.0) -> Method:
  """`lam` 1 and `temperature` 2 are the paper's."""
  if lam < 0 or temperature <= 0:
    raise ValueError(
      f"lwf needs lam >= 0 and temperature > 0; got lam {lam}, "
      f"temperature {temperature}"
    )

  def keep(obj, cl, p, batch, stage, key):
    old = jax.lax.stop_gradient(_logits.keep(obj, cl["teacher"], batch))
    strength = jnp.where(stage > 0, lam, 0.0)
    return strength * _logits.divergence(obj, p, batch, old, temperature)

  return Method(
    init=lambda p, n_stages, key: {"teacher": jax.tree.map(jnp.zeros_like, p)},
    start=lambda cl, p, stage, key: ({"teacher": p}, p),
    grads=penalty(keep),
    needs=frozenset({"outputs"}),
  )
