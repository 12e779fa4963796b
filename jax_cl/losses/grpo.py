"""GRPO and its relatives, on recorded tokens.

All losses share one signature, `(logp_BT, batch, **options) -> (sum, count)`:
`logp_BT` are the log-probabilities of `batch.action` under the weights that
learn, `batch.logp_old` the sampler's own, `batch.adv` one advantage a
conversation. The loss is sum / count, divided once after all micro-batches and
devices have been added, so that a gradient depends on neither. Only tokens with
`batch.mask` 1, those the policy sampled, carry gradient; rows of weight 0
(padding, groups without variance, failed episodes) count nowhere.

| name | ratio | clip | every ... weighs the same | paper |
| --- | --- | --- | --- | --- |
| `grpo` | token | both sides | conversation | arXiv:2402.03300, eq. 3 |
| `bnpo` | token | both sides | token | TRL's name for it |
| `dapo` | token | wider above | token | arXiv:2503.14476, eq. 8 |
| `dr_grpo` | token | both sides | token, over a constant | arXiv:2503.20783 |
| `gspo` | conversation | both sides | conversation | arXiv:2507.18071, eq. 5 |
| `cispo` | token | of the weight | token | arXiv:2506.13585, eq. 4 |

Deviations: TRL's `bnpo` divides by the tokens of one device's batch; here the
count is global, which makes `bnpo` and `dapo` one function with two defaults.
`truncate` (grpo, bnpo, dapo, dr_grpo) parts the clip from the correction for
a sampler that lags behind: the clipped ratio is to the weights before this
update, and each token weighs `truncated_weights`, min(pi / mu, truncate)
(decoupled PPO, Hilton et al. 2022, https://arxiv.org/abs/2110.00641, truncated
as in V-trace). Without it the ratio is pi / mu itself.
The papers' means over groups are means over conversations here: groups may
have lost members to failed environments, and one conversation is one vote.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jax_cl import names
from jax_cl.types import Batch

Sums = tuple[Float[Array, ""], Float[Array, ""]]


def clipped(
  ratio: Float[Array, "*shape"],
  adv: Float[Array, "*#shape"],
  low: float,
  high: float,
  dual: float | None = None,
) -> Float[Array, "*shape"]:
  """-min(r A, clip(r, 1 - low, 1 + high) A), a loss.

  Schulman et al. 2017, https://arxiv.org/abs/1707.06347, eq. 7; `high` apart
  from `low` is DAPO's clip-higher. `dual` bounds the loss of a bad answer by
  dual * |A| (dual clip, Ye et al. 2020, https://arxiv.org/abs/1912.09729).
  """
  bounded = jnp.clip(ratio, 1 - low, 1 + high)
  gain = jnp.minimum(ratio * adv, bounded * adv)
  if dual is not None:
    gain = jnp.where(adv < 0, jnp.maximum(gain, dual * adv), gain)
  return -gain


def grpo(
  logp_BT: Float[Array, "B T"],
  batch: Batch,
  *,
  low: float = 0.2,
  high: float = 0.2,
  dual: float | None = None,
  truncate: float | None = None,
) -> Sums:
  """The mean over tokens of each conversation, then over conversations."""
  loss_BT = _clipped_tokens(logp_BT, batch, low, high, dual, truncate)
  return by_row(loss_BT, batch)


def bnpo(
  logp_BT: Float[Array, "B T"],
  batch: Batch,
  *,
  low: float = 0.2,
  high: float = 0.2,
  dual: float | None = None,
  truncate: float | None = None,
) -> Sums:
  """The mean over all sampled tokens of the step."""
  loss_BT = _clipped_tokens(logp_BT, batch, low, high, dual, truncate)
  return by_token(loss_BT, batch)


dapo = functools.partial(bnpo, high=0.28)


def dr_grpo(
  logp_BT: Float[Array, "B T"],
  batch: Batch,
  *,
  budget: int,
  low: float = 0.2,
  high: float = 0.2,
  dual: float | None = None,
  truncate: float | None = None,
) -> Sums:
  """The sum over tokens, over conversations times `budget` tokens.

  A constant in place of the length: long wrong answers are not forgiven. Goes
  with advantages that are not divided by the group's deviation.
  """
  loss_BT = _clipped_tokens(logp_BT, batch, low, high, dual, truncate)
  total, _ = by_token(loss_BT, batch)
  return total, budget * jnp.sum(batch.weight)


def gspo(
  logp_BT: Float[Array, "B T"],
  batch: Batch,
  *,
  low: float = 3e-4,
  high: float = 4e-4,
  dual: float | None = None,
) -> Sums:
  """One ratio a conversation: the geometric mean of its tokens' ratios."""
  gap_B = row_mean(logp_BT - batch.logp_old, batch.mask)
  loss_B = clipped(jnp.exp(gap_B), batch.adv, low, high, dual)
  return jnp.sum(_rows(batch) * loss_B), jnp.sum(_rows(batch))


def cispo(
  logp_BT: Float[Array, "B T"],
  batch: Batch,
  *,
  high: float = 5.0,
) -> Sums:
  """-sg(min(r, high)) A log pi: no token's gradient is cut off.

  `high` is the bound itself, as in TRL, not the distance from 1.
  """
  ratio_BT = jnp.minimum(_token_ratio(logp_BT, batch), high)
  weight_BT = jax.lax.stop_gradient(ratio_BT) * batch.adv[:, None]
  return by_token(-weight_BT * logp_BT, batch)


LOSSES: dict[str, Callable[..., Sums]] = {
  "grpo": grpo, "bnpo": bnpo, "dapo": dapo, "dr_grpo": dr_grpo, "gspo": gspo,
  "cispo": cispo,
}  # fmt: skip


def loss(name: str, options: dict[str, Any]) -> Callable[..., Sums]:
  """A loss by name with its options; errors name what is known."""
  names.check("loss", name, LOSSES)
  return functools.partial(LOSSES[name], **options)


# ------------------------------------------------------------------- averaging


def by_row(x_BT: Float[Array, "B T"], batch: Batch) -> Sums:
  """(sum, count): every conversation weighs `batch.weight`."""
  rows_B = _rows(batch)
  return jnp.sum(rows_B * row_mean(x_BT, batch.mask)), jnp.sum(rows_B)


def by_token(x_BT: Float[Array, "B T"], batch: Batch) -> Sums:
  """(sum, count): every sampled token weighs its conversation's weight."""
  w_BT = batch.weight[:, None] * batch.mask
  # where, not a product: what stands at a padded place may be no number.
  return jnp.sum(jnp.where(w_BT > 0, w_BT * x_BT, 0.0)), jnp.sum(w_BT)


def row_mean(
  x_BT: Float[Array, "B T"], mask_BT: Float[Array, "B T"]
) -> Float[Array, " B"]:
  """Mean over a row's masked tokens; 0 for a row that has none."""
  total_B = jnp.sum(jnp.where(mask_BT > 0, mask_BT * x_BT, 0.0), axis=1)
  return total_B / jnp.maximum(jnp.sum(mask_BT, axis=1), 1.0)


def _rows(batch: Batch) -> Float[Array, " B"]:
  """Weight of each row; one in which nothing was sampled has none."""
  return batch.weight * (jnp.sum(batch.mask, axis=1) > 0)


def _clipped_tokens(logp_BT, batch: Batch, low, high, dual, truncate):
  """`clipped` of each token's ratio: f32[B, T]."""
  adv_BT = batch.adv[:, None]
  if truncate is None:
    return clipped(_token_ratio(logp_BT, batch), adv_BT, low, high, dual)
  w_BT = truncated_weights(logp_BT, batch.logp_old, batch.mask, truncate)
  own = batch._replace(logp_old=jax.lax.stop_gradient(logp_BT))
  return w_BT * clipped(_token_ratio(logp_BT, own), adv_BT, low, high, dual)


def _token_ratio(logp_BT, batch: Batch) -> Float[Array, "B T"]:
  gap_BT = jnp.where(batch.mask > 0, logp_BT - batch.logp_old, 0.0)
  return jnp.exp(gap_BT)


# -------------------------------------------------------------- KL, entropy, IS
# Estimators of KL(pi || ref) from one sample of pi a token, nats (Schulman
# 2020, http://joschu.net/blog/kl-approx.html). As values all three estimate the
# same number. As losses they differ: in expectation the gradient of k1 is 0,
# that of k2 is the gradient of KL(pi || ref), that of k3 the gradient of
# KL(ref || pi). So k1 belongs into a metric or into the reward, never here.


def k1(logp: Float[Array, "*shape"], ref: Float[Array, "*shape"]):
  """log pi - log ref. Unbiased, may be negative."""
  return logp - ref


def k2(logp: Float[Array, "*shape"], ref: Float[Array, "*shape"]):
  """(log pi - log ref)^2 / 2. Biased, never negative."""
  return 0.5 * (logp - ref) ** 2


def k3(logp: Float[Array, "*shape"], ref: Float[Array, "*shape"]):
  """ref / pi - 1 - log(ref / pi). Unbiased, never negative."""
  gap = ref - logp
  # Not exp - 1: where the two are near, rounding would be all that is left.
  return jnp.expm1(gap) - gap


PENALTIES = {"k2": k2, "k3": k3}


def penalty(name: str) -> Callable[[Array, Array], Array]:
  """A KL estimator that may stand in a loss, by name."""
  if name == "k1":
    raise ValueError(
      "k1 has a gradient of zero expectation: as a loss it is noise. Use 'k2' "
      "(reverse KL) or 'k3' (forward KL), and k1 as a metric or in the reward"
    )
  names.check("KL penalty", name, PENALTIES)
  return PENALTIES[name]


def truncated_weights(
  logp_BT: Float[Array, "B T"],
  mu_BT: Float[Array, "B T"],
  mask_BT: Float[Array, "B T"],
  most: float = 2.0,
) -> Float[Array, "B T"]:
  """min(pi / mu, most) a token, no gradient: off-policy correction.

  A token's truncation, not the product over a conversation: that one grows
  with length until every long conversation is dropped.
  """
  gap_BT = jnp.where(mask_BT > 0, logp_BT - mu_BT, 0.0)
  return jax.lax.stop_gradient(jnp.minimum(jnp.exp(gap_BT), most))


def geometric_mask(
  logp_BT: Float[Array, "B T"],
  mu_BT: Float[Array, "B T"],
  mask_BT: Float[Array, "B T"],
  low: float = 0.99,
  high: float = 1.01,
) -> Bool[Array, " B"]:
  """Conversations whose geometric mean of pi / mu lies in [low, high].

  The others were sampled by a policy too far away to be corrected. Log the
  share that is masked, by length.
  """
  mean_B = jnp.exp(row_mean(logp_BT - mu_BT, mask_BT))
  return (mean_B >= low) & (mean_B <= high)


def statistics(
  logp_BT: Float[Array, "B T"],
  batch: Batch,
  low: float = 0.2,
  high: float = 0.2,
  most: float = 2.0,
) -> dict[str, Sums]:
  """What to log of a step, each as (sum, count): ratio, clip fraction, k1.

  `weights_cut` is the share of tokens that `truncated_weights` would cut.
  Of ratio and its square, E[w]^2 / E[w^2] is the effective sample size as a
  share of the tokens (Kong 1992).
  """
  ratio_BT = _token_ratio(logp_BT, batch)
  adv_BT = jnp.broadcast_to(batch.adv[:, None], ratio_BT.shape)
  out_BT = ((adv_BT > 0) & (ratio_BT > 1 + high)) | (
    (adv_BT < 0) & (ratio_BT < 1 - low)
  )
  return {
    "ratio": by_token(ratio_BT, batch),
    "ratio_square": by_token(ratio_BT**2, batch),
    "clip_fraction": by_token(out_BT.astype(jnp.float32), batch),
    "weights_cut": by_token((ratio_BT > most).astype(jnp.float32), batch),
    "kl_sampler": by_token(batch.logp_old - logp_BT, batch),
  }
