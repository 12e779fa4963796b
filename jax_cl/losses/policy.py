"""The policy-gradient loss, and the `Objective` of any policy with logits.

Cloning is the same loss with advantage 1, so demonstrations, on-policy episodes
and replayed rows meet in one batch. Logits of options that are not legal are
-1e9 (`Objective.out`): they get probability 0 and no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jax_cl.losses import fisher
from jax_cl.types import Batch, Objective

PyTree = Any
Logits = Callable[[PyTree, Batch], Array]  # (p, batch) -> f32[B, T, V]


def log_prob(
  logits_BTV: Float[Array, "B T V"], action_BT: Int[Array, "B T"]
) -> Float[Array, "B T"]:
  """log pi(a | s) of the recorded actions, nats."""
  logp_BTV = jax.nn.log_softmax(logits_BTV)
  return jnp.take_along_axis(logp_BTV, action_BT[..., None], axis=-1)[..., 0]


def entropy(logits_BTV: Float[Array, "B T V"]) -> Float[Array, "B T"]:
  """-sum_a pi_a log pi_a, nats. Masked options (-1e9) add exactly 0."""
  logp_BTV = jax.nn.log_softmax(logits_BTV)
  p_BTV = jnp.exp(logp_BTV)
  return -jnp.sum(jnp.where(p_BTV > 0, p_BTV * logp_BTV, 0.0), axis=-1)


@jax.custom_vjp
def log_prob_and_entropy(
  logits_BTV: Float[Array, "B T V"], action_BT: Int[Array, "B T"]
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
  """`log_prob` and `entropy` for a vocabulary of many thousands.

  Autodiff keeps several arrays as large as the logits, and scatters into
  another one. Here the logits alone are kept, and their gradient is written
  once: with p = softmax(z), cotangents g of log p_a and h of the entropy H,

    dL/dz_j = g (1[j = a] - p_j) - h p_j (log p_j + H).
  """
  return _log_prob_and_entropy_fwd(logits_BTV, action_BT)[0]


def _log_prob_and_entropy_fwd(z, action):
  m = jnp.max(z, axis=-1, keepdims=True)
  e = jnp.exp(z - m)
  total = jnp.sum(e, axis=-1)
  norm = jnp.log(total)
  # Of z - m, not of z: the results are small, and m may not be.
  mean = jnp.sum(jnp.where(e > 0, e * (z - m), 0.0), axis=-1) / total
  taken = jnp.take_along_axis(z, action[..., None], axis=-1) - m
  logp, entropy = taken[..., 0] - norm, norm - mean
  return (logp, entropy), (z, action, m, norm, entropy)


def _log_prob_and_entropy_bwd(kept, cotangents):
  z, action, m, norm, entropy = kept
  g, h = (x[..., None] for x in cotangents)
  log_p = z - m - norm[..., None]
  p = jnp.exp(log_p)
  spread = jnp.where(p > 0, p * (log_p + entropy[..., None]), 0.0)
  options = jax.lax.broadcasted_iota(action.dtype, z.shape, z.ndim - 1)
  taken = options == action[..., None]
  return jnp.where(taken, g, 0.0) - g * p - h * spread, None


log_prob_and_entropy.defvjp(
  _log_prob_and_entropy_fwd, _log_prob_and_entropy_bwd
)


def kl(
  logits_BTV: Float[Array, "B T V"], target_BTV: Float[Array, "B T V"]
) -> Float[Array, "B T"]:
  """KL(target || policy), nats."""
  logp_BTV = jax.nn.log_softmax(logits_BTV)
  logq_BTV = jax.nn.log_softmax(target_BTV)
  q_BTV = jnp.exp(logq_BTV)
  gap_BTV = jnp.where(q_BTV > 0, q_BTV * (logq_BTV - logp_BTV), 0.0)
  return jnp.sum(gap_BTV, axis=-1)


def weights(batch: Batch) -> Float[Array, "B T"]:
  """Weight of each action; padding rows and positions weigh 0."""
  return batch.weight[:, None] * batch.mask


def mean(x_BT: Float[Array, "B T"], w_BT: Float[Array, "B T"]):
  """sum(w x) / sum(w), and 0 where nothing has weight."""
  return jnp.sum(w_BT * x_BT) / jnp.maximum(jnp.sum(w_BT), 1e-8)


def objective(logits: Logits, entropy_bonus: float = 0.0) -> Objective:
  """The policy-gradient objective of a policy given by its logits.

  loss = mean_w(-adv log pi(a|s)) - entropy_bonus * mean_w(H(pi(.|s))).

  Williams 1992 (REINFORCE). The weighted mean is over actions, so a
  conversation of many actions counts by `Batch.weight`, not by its length,
  only if the weights say so. `logp_old` is not read: one update follows each
  collection, and importance weights of replayed rows are the method's affair.
  """

  def logp(p, batch):
    return log_prob(logits(p, batch), batch.action)

  def rows(p, batch):
    return -batch.adv * jnp.sum(batch.mask * logp(p, batch), axis=1)

  def loss(p, batch, key):
    del key  # no dropout here
    out_BTV, w_BT = logits(p, batch), weights(batch)
    logp_BT = log_prob(out_BTV, batch.action)
    h = mean(entropy(out_BTV), w_BT)
    pg = mean(-batch.adv[:, None] * logp_BT, w_BT)
    hit_BT = jnp.argmax(out_BTV, axis=-1) == batch.action
    aux = {
      "entropy": h,
      "logp": mean(logp_BT, w_BT),
      "accuracy": mean(hit_BT.astype(jnp.float32), w_BT),
    }
    return pg - entropy_bonus * h, aux

  def sampled(p, batch, key):
    return fisher.sampled(obj, p, batch, key)

  obj = Objective(loss=loss, rows=rows, logp=logp, out=logits, fisher=sampled)
  return obj
