"""A policy's answers to be compared later: all logits, or the largest few.

A policy over many options (an LLM's vocabulary) is kept as its `top_k` largest
logits and their ids; an `Objective.out` that gives such a pair itself is taken
at its word. Policies are then compared on the kept options alone, as if there
were no others: what lies outside of them costs and teaches nothing.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_cl.losses import distill, policy
from jax_cl.types import Batch, Objective

LEGAL = -1e8  # options that are not allowed have a logit of -1e9


def keep(obj: Objective, p, batch: Batch, top_k: int | None = None) -> dict:
  """{"z": f32[B, T, K]} and, unless all are kept, {"ids": int32[B, T, K]}.

  Without `top_k` it is all that the objective gives.
  """
  out = obj.out(p, batch)
  if isinstance(out, tuple):
    z, ids = out
  elif top_k and out.shape[-1] > top_k:
    z, ids = jax.lax.top_k(out, top_k)
  else:
    return {"z": out}
  return {"z": z, "ids": ids}


def at(obj: Objective, p, batch: Batch, kept: dict):
  """The policy's logits of the options that were kept: f32[B, T, K]."""
  if "ids" not in kept:
    return obj.out(p, batch)
  if isinstance(jax.eval_shape(obj.out, p, batch), tuple):
    return obj.out(p, batch, kept["ids"])
  return jnp.take_along_axis(obj.out(p, batch), kept["ids"], axis=-1)


def distance(obj: Objective, p, batch: Batch, kept: dict):
  """|z - z_kept|^2, mean over allowed options, then over positions: f32[]."""
  z_BTK, kept_BTK = at(obj, p, batch, kept), kept["z"]
  legal_BTK = kept_BTK > LEGAL
  gap_BTK = jnp.where(legal_BTK, z_BTK - kept_BTK, 0.0)
  n_BT = jnp.maximum(jnp.sum(legal_BTK, axis=-1), 1)
  return policy.mean(jnp.sum(gap_BTK**2, axis=-1) / n_BT, policy.weights(batch))


def divergence(
  obj: Objective, p, batch: Batch, kept: dict, temperature: float = 1.0
):
  """`distill.softened_kl` of the kept options, mean over positions: f32[]."""
  z_BTK = at(obj, p, batch, kept)
  gap_BT = distill.softened_kl(z_BTK, kept["z"], temperature)
  return policy.mean(gap_BT, policy.weights(batch))
