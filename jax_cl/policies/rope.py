"""Rotary positions, plain and stretched beyond the trained context."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

KINDS = ("linear", "llama3", "yarn")


@dataclasses.dataclass(frozen=True)
class Scaling:
  """How a longer context was made of `original_context` positions.

  "linear" (Chen et al. 2023, arXiv:2306.15595), "llama3" (Dubey et al. 2024,
  arXiv:2407.21783, as its reference code does it) or "yarn" (Peng et al. 2023,
  arXiv:2309.00071). Fields of other kinds are not read.
  """

  kind: str
  factor: float
  original_context: int = 0
  low_freq_factor: float = 1.0  # llama3
  high_freq_factor: float = 4.0  # llama3
  beta_fast: float = 32.0  # yarn
  beta_slow: float = 1.0  # yarn
  truncate: bool = True  # yarn: the ramp begins and ends at whole channels
  gain: float = 1.0  # yarn: of cos and sin, so of scores its square


def angles(
  positions_BT: Int[Array, "B T"],
  width: int,
  theta: float,
  scaling: Scaling | None = None,
) -> tuple[Float[Array, "B T 1 c"], Float[Array, "B T 1 c"]]:
  """cos and sin of position * theta^(-2i / width), i < c = width / 2.

  float32 whatever the compute dtype: bfloat16 rounds position 257 to 256.
  """
  i = jnp.arange(0, width, 2, dtype=jnp.float32)
  frequency = 1.0 / theta ** (i / width)
  if scaling:
    frequency = _scaled(frequency, scaling, width, theta)
  angle = jnp.einsum("bt,c->btc", positions_BT.astype(jnp.float32), frequency)
  cos, sin = jnp.cos(angle)[:, :, None], jnp.sin(angle)[:, :, None]
  if scaling and scaling.gain != 1.0:
    cos, sin = cos * scaling.gain, sin * scaling.gain
  return cos, sin


def rotate(x: Float[Array, "B T H C"], cos, sin) -> Float[Array, "B T H C"]:
  """Rotates channel i against channel i + C/2 (the hub's order of channels).

  Su et al. 2021, arXiv:2104.09864, rotates neighbours; GGUF files keep that
  order, and `weights` sorts their rows.
  """
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(
    x.dtype
  )


def _scaled(frequency, s: Scaling, width: int, theta: float):
  if s.kind == "linear":
    return frequency / s.factor
  if s.kind == "llama3":
    # Turns within the original context: many, kept; few, slowed; a ramp
    # between.
    turns = s.original_context * frequency / (2 * math.pi)
    low, high = s.low_freq_factor, s.high_freq_factor
    kept = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
  else:
    kept = 1.0 - _yarn_ramp(s, width, theta)
  return kept * frequency + (1.0 - kept) * frequency / s.factor


def _yarn_ramp(s: Scaling, width: int, theta: float) -> Float[Array, " c"]:
  """0 up to the channel that turns `beta_fast` times, 1 from `beta_slow` on."""

  def channel(turns):  # which turns so often within the original context
    ratio = s.original_context / (turns * 2 * math.pi)
    return width * math.log(ratio) / (2 * math.log(theta))

  low, high = channel(s.beta_fast), channel(s.beta_slow)
  if s.truncate:
    low, high = math.floor(low), math.ceil(high)
  low, high = max(low, 0), min(high, width - 1)
  i = jnp.arange(width // 2, dtype=jnp.float32)
  return jnp.clip((i - low) / max(high - low, 1e-3), 0.0, 1.0)


def yarn_gain(factor: float, scale: float = 1.0) -> float:
  """0.1 scale ln(factor) + 1, YaRN's eq. 22; 1 where nothing is stretched."""
  return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0
