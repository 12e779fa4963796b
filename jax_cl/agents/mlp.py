"""A classifier as a policy with one decision: pi(label | features).

The net of the permuted-digits check: fully connected, ReLU, torch's default
initialisation U(+-1/sqrt(fan_in)) for weights and biases, so that its numbers
compare with those of other libraries.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jax_cl.losses import policy
from jax_cl.types import Agent, Batch


def make(
  *,
  features: int,
  classes: int,
  hidden: Sequence[int] = (100, 100),
  entropy_bonus: float = 0.0,
) -> Agent:
  """`Batch.obs` is {"x": float32[B, features]}; an action is a label."""
  widths = (features, *hidden, classes)

  def init(key):
    keys = jax.random.split(key, len(widths) - 1)
    shapes = zip(keys, widths[:-1], widths[1:])
    return {f"layer{i}": _layer(*s) for i, s in enumerate(shapes)}, ()

  def logits(p, obs):
    x = obs["x"]
    for i in range(len(widths) - 1):
      kernel, bias = p[f"layer{i}"]["kernel"], p[f"layer{i}"]["bias"]
      x = x @ kernel + bias[None, :]
      x = jax.nn.relu(x) if i < len(widths) - 2 else x
    return x

  def out(p, batch: Batch):
    return logits(p, batch.obs)[:, None, :]

  def act(p, frozen, obs, key, greedy):
    del frozen
    logits_BV = logits(p, obs)
    best_B = jnp.argmax(logits_BV, axis=-1)
    drawn_B = jax.random.categorical(key, logits_BV)
    action_B = jnp.where(greedy, best_B, drawn_B)
    logp_BV = jax.nn.log_softmax(logits_BV)
    logp_B = jnp.take_along_axis(logp_BV, action_B[:, None], axis=1)[:, 0]
    return action_B, logp_B, {}

  return Agent(
    init=init,
    objective=lambda frozen: policy.objective(out, entropy_bonus),
    act=act,
    obs_spec={"x": ((features,), jnp.float32)},
  )


def _layer(key, fan_in: int, fan_out: int):
  k_kernel, k_bias = jax.random.split(key)
  bound = fan_in**-0.5
  return {
    "kernel": jax.random.uniform(
      k_kernel, (fan_in, fan_out), minval=-bound, maxval=bound
    ),
    "bias": jax.random.uniform(k_bias, (fan_out,), minval=-bound, maxval=bound),
  }
