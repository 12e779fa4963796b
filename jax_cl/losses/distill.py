"""Distillation: how far a policy's answers are from another's."""

from __future__ import annotations

from jaxtyping import Array, Float

from jax_cl.losses import policy


def softened_kl(
  logits_BTV: Float[Array, "B T V"],
  target_BTV: Float[Array, "B T V"],
  temperature: float = 1.0,
) -> Float[Array, "B T"]:
  """T^2 KL(softmax(target / T) || softmax(logits / T)), nats.

  Hinton et al. 2015, https://arxiv.org/abs/1503.02531, section 2: the factor
  T^2 keeps the gradient's size, which is (softmax(logits / T) -
  softmax(target / T)) T, from falling as 1 / T. As T grows this becomes half
  the squared distance of centred logits over V. No gradient is stopped.
  """
  gap_BT = policy.kl(logits_BTV / temperature, target_BTV / temperature)
  return temperature**2 * gap_BT
