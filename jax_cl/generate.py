"""Prefill, decode and sampling as pure functions; `engine` drives them.

Shapes are fixed: a chunk of T tokens is read into new slots (`fill`) or behind
what they hold (`extend`), N tokens are sampled from all of them (`decode`),
whatever each slot needs. A
slot's cache holds all of its tokens but the last, which `decode` reads first:
its logits are those that the next token is drawn from.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from jax_cl.policies import base, slots


class SamplingState(NamedTuple):
  """What sampling needs to know of each slot."""

  token: Array  # int32[B], the row's last token, not yet in the cache
  left: Array  # int32[B], tokens it may still sample; 0: it waits
  seed: Array  # uint32[B], of the request
  temperature: Array  # float32[B]; 0 takes the most probable token
  top_p: Array  # float32[B], in (0, 1]; 1 keeps all
  top_k: Array  # int32[B]; 0 keeps all


class Drawn(NamedTuple):
  """What `decode` sampled; rows stop at different times, shapes do not."""

  tokens: Array  # int32[B, N]
  logprobs: Array  # float32[B, N], under the distribution drawn from
  sampled: Array  # bool[B, N], false once a row has stopped


def fill(
  policy: base.Policy,
  params,
  tokens_BT: Int[Array, "B T"],
  count_B: Int[Array, " B"],
  prefix: slots.Prefix | None = None,
) -> slots.Slots:
  """New slots that hold the first `count` tokens of each row.

  As `extend` into empty slots, but knowing that they are empty: no token is
  compared with what lies after it.
  """
  empty = slots.Slots(None, None, jnp.zeros_like(count_B), prefix)
  return extend(policy, params, tokens_BT, count_B, empty)


def extend(
  policy: base.Policy,
  params,
  tokens_BT: Int[Array, "B T"],
  count_B: Int[Array, " B"],
  cache: slots.Slots,
) -> slots.Slots:
  """Reads the first `count` tokens of each row into the cache."""
  B, T = tokens_BT.shape
  steps = jnp.broadcast_to(jnp.arange(T)[None], (B, T))
  inside = steps < count_B[:, None]
  positions = steps + _position(cache)[:, None]
  _, cache = policy.hidden(
    params, tokens_BT, positions, inside.astype(jnp.int32), cache
  )
  return cache


def decode(
  policy: base.Policy,
  params,
  cache: slots.Slots,
  state: SamplingState,
  *,
  stops: Int[Array, " n"],
  steps: int,
  truncate: bool,
  support: UInt32[Array, "B W"] | None = None,
) -> tuple[slots.Slots, SamplingState, Drawn]:
  """Samples `steps` tokens, or fewer where a row meets a stop or its limit.

  A fixed number of steps, since a loop that ends when all rows have stopped
  would ask the device at each one. `truncate`: some row has top_p < 1 or
  top_k > 0, so that logits must be sorted. `support`: the tokens that each row
  may draw (`allowed`); the next ones depend on what is drawn, so `steps` is 1.
  """
  if support is not None and steps != 1:
    raise ValueError(f"steps={steps} with a support, which is of one token")

  start = _position(cache)

  def step(carry, i):
    tail, state = carry
    live = state.left > 0
    position = start + i
    x, now = policy.hidden(
      params,
      state.token[:, None],
      position[:, None],
      live[:, None].astype(jnp.int32),
      cache._replace(tail=tail),
    )
    logits = policy.unembed(params, x)[:, 0]
    token, logprob = sample(
      logits, state, position + 1, truncate=truncate, support_BW=support
    )
    token = jnp.where(live, token, state.token)
    ended = jnp.isin(token, stops)
    left = jnp.where(live & ~ended, state.left - 1, 0)
    state = state._replace(token=token, left=left)
    return (now.tail, state), (token, logprob, live)

  carry = slots.with_tail(cache, steps).tail, state
  (tail, state), out = jax.lax.scan(step, carry, jnp.arange(steps))
  drawn = Drawn(*(x.T for x in out))
  cache = cache._replace(tail=tail)
  return slots.without_tail(cache, drawn.sampled.sum(1)), state, drawn


def sample(
  logits_BV: Float[Array, "B V"],
  state: SamplingState,
  position_B: Int[Array, " B"],
  *,
  truncate: bool,
  support_BW: UInt32[Array, "B W"] | None = None,
) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
  """(token, its log-probability), drawn from softmax(logits / temperature).

  After temperature, `support` and truncation, over what was drawn from: the
  trainer must do the same. At temperature 0 the most probable token is taken,
  and its log-probability is that at temperature 1. The key is fold_in(seed,
  position of the new token): a draw depends on its own row alone.
  """
  greedy = state.temperature == 0
  z = logits_BV / jnp.where(greedy, 1.0, state.temperature)[:, None]
  if support_BW is not None:
    z = jnp.where(allowed(support_BW, z.shape[1]), z, -jnp.inf)
  if truncate:
    z = jnp.where(keep(z, state.top_p, state.top_k), z, -jnp.inf)
  noise = jax.vmap(_gumbel, (0, 0, None))(
    state.seed, position_B, logits_BV.shape[1]
  )
  best = jnp.argmax(jnp.where(greedy[:, None], z, z + noise), axis=-1)
  z = jax.nn.log_softmax(z)
  return best, jnp.take_along_axis(z, best[:, None], axis=1)[:, 0]


def keep(
  z_BV: Float[Array, "B V"],
  top_p_B: Float[Array, " B"],
  top_k_B: Int[Array, " B"],
) -> Bool[Array, "B V"]:
  """The k most probable tokens, and of these as few as hold a share top_p.

  Both as in transformers: top_p counts shares after top_k, and the token that
  passes the share is kept. Tokens equal to the last one kept are kept too.
  """
  V = z_BV.shape[1]
  z = -jnp.sort(-z_BV, axis=-1)
  rank = jnp.arange(V)[None]
  k = jnp.where(top_k_B > 0, top_k_B, V)[:, None]
  p = jax.nn.softmax(jnp.where(rank < k, z, -jnp.inf))
  before = jnp.cumsum(p, axis=-1) - p
  kept = (rank < k) & (before < top_p_B[:, None])
  last = jnp.maximum(jnp.sum(kept, axis=-1, keepdims=True) - 1, 0)
  return z_BV >= jnp.take_along_axis(z, last, axis=1)


def words(vocab: int) -> int:
  """How many a packed support has."""
  return -(-vocab // 32)


def allowed(
  support: UInt32[Array, "*rows W"], vocab: int
) -> Bool[Array, "*rows V"]:
  """A packed support, token by token: i is bit i % 32 of word i // 32."""
  place = jax.lax.broadcasted_iota(
    jnp.uint32, (*support.shape, 32), support.ndim
  )
  bits = (support[..., None] >> place) & 1
  return bits.astype(bool).reshape(*support.shape[:-1], -1)[..., :vocab]


def _gumbel(seed, position, n: int):
  key = jax.random.fold_in(jax.random.key(seed), position)
  return jax.random.gumbel(key, (n,))


def _position(cache: slots.Slots) -> Int[Array, " B"]:
  """Of each row's next token: behind the prefix and what its slot holds."""
  start = 0 if cache.prefix is None else cache.prefix.length
  return cache.length + start
