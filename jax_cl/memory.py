"""The trajectory buffer: a pytree of fixed capacity per domain.

Rows are kept by domain in rings of `C` slots, so that no domain can push out
another. All functions are pure and jit-compatible: shapes never depend on how
much is held. An entry is scalars (reward, task, when it came) beside its
payload, one row of `Batch` and what the method adds to it (`extra`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jax_cl import names
from jax_cl.types import Batch

PyTree = Any


class Items(NamedTuple):
  """What `Method.store` hands over: B rows, some of them to be kept."""

  rows: Batch  # leaves [B, ...]
  keep: Array  # bool[B]
  extra: PyTree = ()  # leaves [B, ...]: DER's logits


class Buffer(NamedTuple):
  """N domains, C slots each."""

  rows: Batch  # leaves [N, C, ...]
  extra: PyTree  # leaves [N, C, ...]
  added: Array  # int32[N], rows ever added; the ring's next slot is added % C
  time: Array  # int32[N, C], optimiser step at which a row came
  used: Array  # int32[N, C], how often a row was replayed
  replayed: Array  # int32[N], rows replayed a domain
  trains: Array  # bool[n_stages, N], constant: what each stage trains on


class Sample(NamedTuple):
  """What `Method.draw` returns. `rows.weight` is 0 where nothing was there."""

  rows: Batch  # leaves [k, b, ...]
  extra: PyTree  # leaves [k, b, ...]
  domain: Array  # int32[k, b]
  slot: Array  # int32[k, b]


def init(item: PyTree, trains: np.ndarray, capacity: int) -> Buffer:
  """An empty buffer. `item` is `Items` of arrays or ShapeDtypeStructs."""
  n = trains.shape[1]
  empty = lambda x: jnp.zeros((n, capacity, *x.shape[1:]), x.dtype)
  return Buffer(
    rows=jax.tree.map(empty, item.rows),
    extra=jax.tree.map(empty, item.extra),
    added=jnp.zeros(n, jnp.int32),
    time=jnp.zeros((n, capacity), jnp.int32),
    used=jnp.zeros((n, capacity), jnp.int32),
    replayed=jnp.zeros(n, jnp.int32),
    trains=jnp.asarray(trains, bool),
  )


def size(buffer: Buffer) -> Int[Array, " N"]:
  """Rows held a domain."""
  return jnp.minimum(buffer.added, buffer.time.shape[1])


def add(buffer: Buffer, items: Items, step: Array) -> Buffer:
  """Writes the kept rows into their domains' rings, oldest out first."""
  n, capacity = buffer.time.shape
  keep, domain = items.keep & (items.rows.weight > 0), items.rows.domain
  mine_BN = (domain[:, None] == jnp.arange(n)[None, :]) & keep[:, None]
  count_BN = jnp.cumsum(mine_BN.astype(jnp.int32), axis=0)
  rank_B = jnp.take_along_axis(count_BN, domain[:, None], axis=1)[:, 0] - 1
  # Of more rows than slots only the newest are written: no slot twice.
  keep &= count_BN[-1][domain] - rank_B <= capacity
  slot_B = (buffer.added[domain] + rank_B) % capacity
  slot_B = jnp.where(keep, slot_B, capacity)  # out of range: dropped
  put = lambda into, x: into.at[domain, slot_B].set(x, mode="drop")
  return buffer._replace(
    rows=jax.tree.map(put, buffer.rows, items.rows),
    extra=jax.tree.map(put, buffer.extra, items.extra),
    added=buffer.added + count_BN[-1],
    time=put(buffer.time, step),
    used=put(buffer.used, 0),
  )


def earlier(
  buffer: Buffer, stage: Array, last_only: bool = False
) -> Bool[Array, " N"]:
  """Domains that stages before this one trained on and this one does not."""
  index_S = jnp.arange(buffer.trains.shape[0])
  past_S = (index_S == stage - 1) if last_only else (index_S < stage)
  past_N = jnp.any(buffer.trains & past_S[:, None], axis=0)
  return past_N & ~buffer.trains[stage]


# ------------------------------------------------------------------ strategies
# (key, buffer, domain int32[b], rank int32[b], n int32[b]) -> slot int32[b]:
# the rank-th row to take from a domain that holds n.


def random(key, buffer, domain, rank, n):
  """Uniform with replacement."""
  del buffer, rank
  return jax.random.randint(key, domain.shape, 0, jnp.maximum(n, 1))


def recent(key, buffer, domain, rank, n, share: float = 0.25):
  """Uniform over the newest quarter of what a domain holds.

  The newest b rows themselves would be the same at every step of a stage.
  """
  del rank
  window = jnp.maximum((n * share).astype(jnp.int32), 1)
  back = jax.random.randint(key, domain.shape, 0, window)
  return (buffer.added[domain] - 1 - back) % buffer.time.shape[1]


def high_reward(key, buffer, domain, rank, n):
  """The rows of highest reward, ties broken at random, without replacement."""
  order = _order(key, buffer, buffer.rows.reward, domain.shape[0])
  return order[domain, rank % jnp.clip(n, 1, order.shape[1])]


def balanced(key, buffer, domain, rank, n):
  """Passed (reward > .5) and failed rows in turn, as far as both exist."""
  passed = (buffer.rows.reward > 0.5).astype(jnp.float32)
  up = _order(key, buffer, passed, domain.shape[0])
  down = _order(key, buffer, -passed, domain.shape[0])
  place = (rank // 2) % jnp.clip(n, 1, up.shape[1])
  return jnp.where(rank % 2 == 0, up[domain, place], down[domain, place])


STRATEGIES = {f.__name__: f for f in (random, high_reward, recent, balanced)}


def strategy(name: str):
  """A strategy by name, or an error with the nearest one."""
  names.check("strategy", name, STRATEGIES)
  return STRATEGIES[name]


def _order(key, buffer, score: Float[Array, "N C"], b: int):
  """Slots by falling score, held ones first, ties at random: int32[N, <=b]."""
  n, capacity = buffer.time.shape
  held = jnp.arange(capacity)[None, :] < size(buffer)[:, None]
  _, shuffled = jax.lax.top_k(jax.random.uniform(key, (n, capacity)), capacity)
  mixed = jnp.take_along_axis(
    jnp.where(held, score, -jnp.inf), shuffled, axis=1
  )
  _, best = jax.lax.top_k(mixed, min(b, capacity))  # stable: keeps the shuffle
  return jnp.take_along_axis(shuffled, best, axis=1)


def sample(
  buffer: Buffer,
  key: Array,
  b: int,
  choose=random,
  domains: Bool[Array, " N"] | None = None,
  min_size: int = 1,
) -> Sample:
  """b rows, shared evenly among `domains` that hold anything.

  While they hold fewer than `min_size` rows together, all weights are 0. What
  does not divide evenly goes to domains chosen by lot.
  """
  k_turn, k_choose = jax.random.split(key)
  held_N = size(buffer)
  on_N = held_N > 0 if domains is None else domains & (held_N > 0)
  lot_N = jax.random.uniform(k_turn, on_N.shape)
  order_N = jnp.argsort(jnp.where(on_N, lot_N, 2.0))
  count = jnp.maximum(jnp.sum(on_N), 1)
  place_b = jnp.arange(b)
  domain_b = order_N[place_b % count]
  rank_b, held_b = place_b // count, held_N[domain_b]
  slot_b = choose(k_choose, buffer, domain_b, rank_b, held_b)
  enough = jnp.sum(jnp.where(on_N, held_N, 0)) >= max(min_size, 1)
  take = lambda x: x[domain_b, slot_b][None]
  rows = jax.tree.map(take, buffer.rows)
  return Sample(
    rows=rows._replace(weight=rows.weight * enough),
    extra=jax.tree.map(take, buffer.extra),
    domain=domain_b[None].astype(jnp.int32),
    slot=slot_b[None].astype(jnp.int32),
  )


def touch(buffer: Buffer, mem: Sample, aux=None) -> Buffer:
  """Counts what was replayed."""
  del aux
  real = (mem.rows.weight > 0).astype(jnp.int32)
  return buffer._replace(
    used=buffer.used.at[mem.domain, mem.slot].add(real),
    replayed=buffer.replayed.at[mem.domain].add(real),
  )


def report(buffer: Buffer) -> dict[str, Array]:
  """Statistics by the names that users of replay look for."""
  return {
    "total_replay_samples": jnp.sum(buffer.replayed),
    "replay_samples_per_domain": buffer.replayed,
    "buffer_per_domain": size(buffer),
  }
