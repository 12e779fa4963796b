"""Rows that begin alike: what they share is computed once, and learned from.

Conversations of a domain share its rules, answers to one prompt all of it. If
the first n tokens of B rows are those of at most `most` prompts, layers run
over `most` rows of n tokens and B rows of T - n, in place of B rows of T. Own
tokens attend to their prompt's keys and values, through which gradients flow:
outputs and gradients are those of whole rows, but for rounding. (What `slots`
do for sampling; Juravsky et al. 2024, Hydragen, arXiv:2402.05099.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jax_cl.policies import base

PyTree = Any


class Prompts(NamedTuple):
  """Which rows begin alike."""

  leaders: Array  # int32[U], a row of each prompt; repeated where fewer are
  place: Array  # int32[B], of a row's prompt among them
  fits: Array  # bool[], whether U prompts are enough


def find(
  begins_BN: Int[Array, "B N"], real_B: Bool[Array, " B"], most: int
) -> Prompts:
  """Compares how rows begin; those that are not real begin as any."""
  same_BB = jnp.all(begins_BN[:, None] == begins_BN[None], axis=-1)
  first_B = jnp.argmax(same_BB & real_B[None], axis=1)
  leads_B = real_B & (first_B == jnp.arange(first_B.size))
  leaders = jnp.nonzero(leads_B, size=most, fill_value=0)[0]
  place_B = jnp.clip(jnp.cumsum(leads_B) - 1, 0, most - 1)[first_B]
  return Prompts(leaders, place_B, jnp.sum(leads_B) <= most)


def hidden(
  policy: base.Policy,
  params: PyTree,
  obs: Mapping[str, Int[Array, "B T"]],
  n: int,
  most: int = 1,
) -> Float[Array, "B S D"]:
  """`policy.hidden` of all tokens but each row's first n, S = T - n.

  `obs` has `tokens`, `positions` and `segments` (0 behind a row's end, else
  1). NaN where rows begin in more than `most` ways: wrong gradients would not
  be seen.
  """
  parts = [jnp.asarray(obs[k]) for k in ("tokens", "positions", "segments")]
  tokens, _, segments = parts
  prompts = find(tokens[:, :n], segments[:, 0] > 0, most)
  begins = (x[prompts.leaders, :n] for x in parts)
  _, read = policy.hidden(params, *begins, policy.init_cache(most, n))
  ahead = base.Ahead(
    read.k, read.v, read.positions, read.segments, prompts.place
  )
  x, _ = policy.hidden(params, *(x[:, n:] for x in parts), ahead)
  return jnp.where(prompts.fits, x, jnp.nan)
