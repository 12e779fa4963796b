"""The trajectory buffer: a pytree of fixed capacity per domain.

Rows are kept by domain in `C` slots each, so that no domain can push out
another. All functions are pure and jit-compatible: shapes never depend on how
much is held. An entry is an id and scalars (reward, task, priority, when it
came) beside its payload, one row of `Batch` and what the method adds to it
(`extra`). Strategies read the scalars alone; of the payload only the rows that
are drawn are touched, so a large buffer costs no more than its scalars.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from jax_cl import names, tree
from jax_cl.types import Batch

PyTree = Any
PASSED = 0.5  # rewards above it count as success


class Items(NamedTuple):
  """What `Method.store` hands over: B rows, some of them to be kept."""

  rows: Batch  # leaves [B, ...]
  keep: Array  # bool[B]
  extra: PyTree = ()  # leaves [B, ...]: DER's logits
  priority: Array | None = None  # float32[B]; None: 1


class Buffer(NamedTuple):
  """N domains, C slots each."""

  rows: Batch  # leaves [N, C, ...]
  extra: PyTree  # leaves [N, C, ...]
  added: Array  # int32[N], rows ever offered; the ring's next slot is added % C
  id: Array  # int32[N, C], which of its domain's offered rows it is, from 0
  time: Array  # int32[N, C], optimiser step at which a row came
  used: Array  # int32[N, C], how often a row was replayed
  priority: Array  # float32[N, C], loss when last seen, nats; 1 if unknown
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
  counts = lambda: jnp.zeros((n, capacity), jnp.int32)
  return Buffer(
    rows=jax.tree.map(empty, item.rows),
    extra=jax.tree.map(empty, item.extra),
    added=jnp.zeros(n, jnp.int32),
    id=counts(),
    time=counts(),
    used=counts(),
    priority=jnp.zeros((n, capacity), jnp.float32),
    replayed=jnp.zeros(n, jnp.int32),
    trains=jnp.asarray(trains, bool),
  )


def size(buffer: Buffer) -> Int[Array, " N"]:
  """Rows held a domain."""
  return jnp.minimum(buffer.added, buffer.time.shape[1])


def at_most(buffer: Buffer, n: Array) -> Buffer:
  """The buffer as if a domain held its first n slots' rows alone, to draw from.

  Of a ring or a reservoir of rows that came in random order they are a random
  part, and that of a smaller n is part of it.
  """
  return buffer._replace(added=jnp.minimum(buffer.added, n))


def held(buffer: Buffer) -> Bool[Array, "N C"]:
  """Which slots hold a row."""
  slot_C = jnp.arange(buffer.time.shape[1])
  return slot_C[None, :] < size(buffer)[:, None]


# ------------------------------------------------------------------- insertion
# (buffer, items, step, key) -> buffer


def add(buffer: Buffer, items: Items, step: Array, key=None) -> Buffer:
  """Writes the kept rows into their domains' rings, oldest out first."""
  del key
  capacity = buffer.time.shape[1]
  keep_B, id_B, added_N = _offered(buffer, items)
  # Of more rows than slots only the newest are written: no slot twice.
  keep_B &= added_N[items.rows.domain] - id_B <= capacity
  return _write(buffer, items, step, keep_B, id_B % capacity, id_B, added_N)


def reservoir(buffer: Buffer, items: Items, step: Array, key) -> Buffer:
  """Keeps a uniform sample of all rows ever offered, C of each domain.

  The n-th row of a domain enters with probability C / n and takes the place of
  a random one: Vitter 1985, algorithm R, https://doi.org/10.1145/3147.3165.
  """
  capacity, domain_B = buffer.time.shape[1], items.rows.domain
  keep_B, id_B, added_N = _offered(buffer, items)
  lot_B = jax.random.randint(key, id_B.shape, 0, id_B + 1)
  slot_B = jnp.where(id_B < capacity, id_B, lot_B)
  keep_B &= slot_B < capacity
  # One after another, a later row would overwrite an earlier one's slot.
  place_B = domain_B * capacity + jnp.minimum(slot_B, capacity - 1)
  same_BB = (place_B[:, None] == place_B[None, :]) & keep_B[None, :]
  keep_B &= ~jnp.any(jnp.triu(same_BB, 1), axis=1)
  return _write(buffer, items, step, keep_B, slot_B, id_B, added_N)


def _offered(buffer, items):
  """(kept bool[B], id int32[B], new `added` int32[N]) of a batch."""
  n, domain_B = len(buffer.added), items.rows.domain
  keep_B = items.keep & (items.rows.weight > 0)
  mine_BN = (domain_B[:, None] == jnp.arange(n)[None, :]) & keep_B[:, None]
  count_BN = jnp.cumsum(mine_BN.astype(jnp.int32), axis=0)
  rank_B = jnp.take_along_axis(count_BN, domain_B[:, None], axis=1)[:, 0] - 1
  return keep_B, buffer.added[domain_B] + rank_B, buffer.added + count_BN[-1]


def _write(buffer, items, step, keep_B, slot_B, id_B, added_N) -> Buffer:
  domain_B, capacity = items.rows.domain, buffer.time.shape[1]
  slot_B = jnp.where(keep_B, slot_B, capacity)  # out of range: dropped
  put = lambda into, x: into.at[domain_B, slot_B].set(x, mode="drop")
  return buffer._replace(
    rows=jax.tree.map(put, buffer.rows, items.rows),
    extra=jax.tree.map(put, buffer.extra, items.extra),
    added=added_N,
    id=put(buffer.id, id_B),
    time=put(buffer.time, step),
    used=put(buffer.used, 0),
    priority=put(
      buffer.priority, 1.0 if items.priority is None else items.priority
    ),
  )


# ------------------------------------------------------------------ strategies
# (key, buffer, domain int32[b], rank int32[b], n int32[b]) -> slot int32[b]:
# the rank-th row to take from a domain that holds n.


def random(key, buffer, domain, rank, n):
  """Uniform with replacement."""
  del buffer, rank
  return jax.random.randint(key, domain.shape, 0, jnp.maximum(n, 1))


def distinct(key, buffer, domain, rank, n):
  """Uniform without replacement, as far as there are so many."""
  return best(key, buffer, jnp.zeros_like(buffer.priority), domain, rank, n)


def recent(key, buffer, domain, rank, n, share: float = 0.25):
  """Uniform over the newest quarter of what a domain's ring holds.

  The newest b rows themselves would be the same at every step of a stage.
  """
  del rank
  window = jnp.maximum((n * share).astype(jnp.int32), 1)
  back = jax.random.randint(key, domain.shape, 0, window)
  return (buffer.added[domain] - 1 - back) % buffer.time.shape[1]


def high_reward(key, buffer, domain, rank, n):
  """The rows of highest reward, ties broken at random, without replacement."""
  return best(key, buffer, buffer.rows.reward, domain, rank, n)


def surprise(key, buffer, domain, rank, n):
  """The rows of highest loss when last seen, without replacement."""
  return best(key, buffer, buffer.priority, domain, rank, n)


def balanced(key, buffer, domain, rank, n):
  """Passed (reward > .5) and failed rows in turn, as far as both exist."""
  k = min(domain.shape[0], buffer.time.shape[1])
  passed_NC = (buffer.rows.reward > PASSED).astype(jnp.float32)
  lot_NC = _lots(key, passed_NC)
  first = lambda x: _top(jnp.where(held(buffer), x + lot_NC, -1.0), k)[1]
  place = domain, (rank // 2) % jnp.clip(n, 1, k)
  up, down = first(passed_NC)[place], first(1 - passed_NC)[place]
  return jnp.where(rank % 2 == 0, up, down)


def importance(key, buffer, domain, rank, n):
  """With probability in proportion to sqrt(priority), with replacement.

  Proportional prioritisation, Schaul et al. 2016,
  https://arxiv.org/abs/1511.05952, with exponent .5 (theirs is .6) and without
  importance weights: what is replayed more often is meant to count more. Sums
  over blocks of about sqrt(C) slots stand for their tree of sums: reading all
  priorities once is as quick, and writing one is a single store.
  """
  del rank, n
  weight_NC = jnp.sqrt(jnp.maximum(buffer.priority, 1e-6)) * held(buffer)
  blocks_NKL = _blocks(weight_NC, 0.0)
  sums_NK = jnp.cumsum(jnp.sum(blocks_NKL, axis=-1), axis=1)
  u_b = jax.random.uniform(key, domain.shape)
  block_b, left_b = _inverse(sums_NK[domain], u_b)
  inside_bL = jnp.cumsum(blocks_NKL[domain, block_b], axis=1)
  width = inside_bL.shape[1]
  slot_b, _ = _inverse(inside_bL, left_b)
  return jnp.minimum(block_b * width + slot_b, buffer.time.shape[1] - 1)


CHOOSE = {
  f.__name__: f
  for f in (random, high_reward, recent, balanced, importance, surprise)
}
STRATEGIES = {**CHOOSE, "reservoir": random}
PRIORITISED = ("importance", "surprise")  # want losses as priorities


def strategy(name: str):
  """How rows are chosen, by name, or an error with the nearest one."""
  names.check("strategy", name, STRATEGIES)
  return STRATEGIES[name]


def insertion(name: str):
  """How the rows of a strategy come in: `reservoir`, or the ring."""
  return reservoir if name == "reservoir" else add


def best(key, buffer: Buffer, score: Float[Array, "N C"], domain, rank, n):
  """The rank-th slot of a domain by falling score, ties at random.

  A strategy in one line, for a score of your own. Only the scores are sorted
  out (twice: what is surely in, then lots among the ties), no payload.
  """
  k = min(domain.shape[0], score.shape[1])
  score_NC = jnp.where(held(buffer), score, -jnp.inf)
  least_N1 = jnp.min(_top(score_NC, k)[0], axis=1, keepdims=True)
  lot_NC = _lots(key, score)
  among_NC = jnp.where(score_NC == least_N1, lot_NC, -1.0)
  _, slot_Nk = _top(jnp.where(score_NC > least_N1, 2.0, among_NC), k)
  take = lambda x: jnp.take_along_axis(x, slot_Nk, axis=1)
  _, _, order_Nk = jax.lax.sort(
    (-take(score_NC), take(lot_NC), slot_Nk), num_keys=2
  )
  return order_Nk[domain, rank % jnp.clip(n, 1, k)]


def _top(x_NC, k: int):
  """`lax.top_k`, by blocks: the k best lie in the k blocks of highest best."""
  x_NKL = _blocks(x_NC, -jnp.inf)
  n, blocks, width = x_NKL.shape
  if blocks <= k:
    return jax.lax.top_k(x_NC, k)
  _, block_Nk = jax.lax.top_k(jnp.max(x_NKL, axis=-1), k)
  some_NkL = jnp.take_along_axis(x_NKL, block_Nk[..., None], axis=1)
  value_Nk, at_Nk = jax.lax.top_k(some_NkL.reshape(n, k * width), k)
  block_Nk = jnp.take_along_axis(block_Nk, at_Nk // width, axis=1)
  return value_Nk, block_Nk * width + at_Nk % width


def _blocks(x_NC, fill: float):
  """[N, C] -> [N, K, L], K and L near sqrt(C), filled up at the end."""
  n, capacity = x_NC.shape
  width = int(np.ceil(np.sqrt(capacity)))
  short = -capacity % width
  if short:
    x_NC = jnp.pad(x_NC, ((0, 0), (0, short)), constant_values=fill)
  return x_NC.reshape(n, -1, width)


def _inverse(sums_bK, u_b):
  """(the first place whose running sum exceeds u of the whole, what is left).

  What is left is the share of that place's own weight: uniform again.
  """
  target_b1 = (u_b * sums_bK[:, -1] * (1 - 1e-6))[:, None]
  place_b = jnp.argmax(sums_bK > target_b1, axis=1)
  take = lambda x, i: jnp.take_along_axis(x, i[:, None], axis=1)
  top_b1 = take(sums_bK, place_b)
  low_b1 = jnp.where(
    place_b[:, None] > 0, take(sums_bK, jnp.maximum(place_b - 1, 0)), 0.0
  )
  own_b1 = jnp.maximum(top_b1 - low_b1, 1e-30)
  return place_b, jnp.clip((target_b1 - low_b1) / own_b1, 0.0, 1.0)[:, 0]


def _lots(key, like: Float[Array, "N C"]) -> Float[Array, "N C"]:
  """A number in [0, 1) for each slot: a hash of its place and the key.

  Thirty times faster on a CPU than as many draws of `jax.random`, and enough
  for ties. The hash is `lowbias32`, https://github.com/skeeto/hash-prospector.
  """
  a, b = jax.random.bits(key, (2,))
  place = jnp.arange(like.size, dtype=jnp.uint32).reshape(like.shape)
  bits = _hash(_hash(place ^ a) + b)
  return (bits >> 8).astype(jnp.float32) * 2.0**-24


def _hash(x: UInt32[Array, "N C"]) -> UInt32[Array, "N C"]:
  x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
  x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
  return x ^ (x >> 16)


# --------------------------------------------------------------------- drawing


def earlier(
  buffer: Buffer, stage: Array, last_only: bool = False
) -> Bool[Array, " N"]:
  """Domains that stages before this one trained on and this one does not."""
  index_S = jnp.arange(buffer.trains.shape[0])
  past_S = (index_S == stage - 1) if last_only else (index_S < stage)
  past_N = jnp.any(buffer.trains & past_S[:, None], axis=0)
  return past_N & ~buffer.trains[stage]


def sample(
  buffer: Buffer,
  key: Array,
  b: int,
  choose=random,
  domains: Bool[Array, " N"] | None = None,
  min_size: int = 1,
) -> Sample:
  """b rows, shared evenly among `domains` that hold anything: leaves [1, b].

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
  domain_b = order_N[place_b % count].astype(jnp.int32)
  slot_b = choose(
    k_choose, buffer, domain_b, place_b // count, held_N[domain_b]
  )
  enough = jnp.sum(jnp.where(on_N, held_N, 0)) >= max(min_size, 1)
  return _take(buffer, domain_b[None], slot_b[None], enough)


def sample_each(
  buffer: Buffer, key: Array, b: int, domains: Bool[Array, " N"], choose=random
) -> Sample:
  """b rows of each of `domains`: leaves [N, b], weight 0 elsewhere."""
  n, held_N = len(buffer.added), size(buffer)
  domain_Nb = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32)[:, None], (n, b))
  rank_Nb = jnp.broadcast_to(jnp.arange(b)[None, :], (n, b))
  domain = domain_Nb.reshape(-1)
  slot = choose(key, buffer, domain, rank_Nb.reshape(-1), held_N[domain])
  on_N1 = (domains & (held_N > 0))[:, None]
  return _take(buffer, domain_Nb, slot.reshape(n, b), on_N1)


def join(*samples: Sample) -> Sample:
  """Independent draws of equal b as one: k adds up."""
  return jax.tree.map(lambda *xs: jnp.concatenate(xs), *samples)


def _take(buffer, domain_kb, slot_kb, on) -> Sample:
  """The rows there; their weights are 0 where `on` is False."""
  take = lambda x: x[domain_kb, slot_kb]
  rows = jax.tree.map(take, buffer.rows)
  return Sample(
    rows=rows._replace(weight=rows.weight * on),
    extra=jax.tree.map(take, buffer.extra),
    domain=domain_kb,
    slot=slot_kb.astype(jnp.int32),
  )


def touch(buffer: Buffer, mem: Sample, aux: Any = None) -> Buffer:
  """Counts what was replayed, and takes new priorities.

  `aux["replayed"]` (bool[k, b]) says which of the drawn rows were learned from,
  where not all were; `aux["priority"]` (float32[k, b]) is their loss now.
  """
  aux = aux or {}
  real = (mem.rows.weight > 0) & aux.get("replayed", True)
  place = mem.domain, jnp.where(real, mem.slot, buffer.time.shape[1])
  if "priority" in aux:
    priority = buffer.priority.at[place].set(aux["priority"], mode="drop")
    buffer = buffer._replace(priority=priority)
  return buffer._replace(
    used=buffer.used.at[place].add(1, mode="drop"),
    replayed=buffer.replayed.at[mem.domain].add(real.astype(jnp.int32)),
  )


# ------------------------------------------------------------------ statistics


def report(buffer: Buffer) -> dict[str, Array]:
  """Statistics by the names that users of replay look for.

  Of a domain that holds nothing mean, highest and lowest reward are 0.
  """
  held_NC, reward_NC = held(buffer), buffer.rows.reward
  size_N = size(buffer)
  some_N = size_N > 0
  of_held = lambda f, empty: f(jnp.where(held_NC, reward_NC, empty), axis=1)
  return {
    "total_replay_samples": jnp.sum(buffer.replayed),
    "replay_samples_per_domain": buffer.replayed,
    "buffer_per_domain": size_N,
    "buffer_reward_mean": of_held(jnp.sum, 0.0) / jnp.maximum(size_N, 1),
    "buffer_reward_max": jnp.where(some_N, of_held(jnp.max, -jnp.inf), 0.0),
    "buffer_reward_min": jnp.where(some_N, of_held(jnp.min, jnp.inf), 0.0),
    "buffer_high_reward": jnp.sum(held_NC & (reward_NC > PASSED), axis=1),
  }


# ------------------------------------------------------------------ JSON Lines

_SCALARS = ("id", "time", "used", "priority")


def save_jsonl(buffer: Buffer, path: str | os.PathLike) -> None:
  """A head line with the counters, then a line an entry, by domain and slot.

  Keys of `row` and `extra` are paths of leaves; floats are written so that
  they come back bit for bit.
  """
  buffer = jax.tree.map(np.asarray, buffer)
  head = {
    "capacity": buffer.time.shape[1],
    "added": buffer.added.tolist(),
    "replayed": buffer.replayed.tolist(),
  }
  with open(path, "w") as f:
    print(json.dumps(head), file=f)
    for domain, n in enumerate(np.asarray(size(buffer))):
      for at in ((domain, slot) for slot in range(n)):
        line = {"domain": at[0], "slot": at[1]}
        line |= {k: getattr(buffer, k)[at].item() for k in _SCALARS}
        line |= {
          "row": _cell(buffer.rows, at),
          "extra": _cell(buffer.extra, at),
        }
        print(json.dumps(line), file=f)


def load_jsonl(buffer: Buffer, path: str | os.PathLike) -> Buffer:
  """The buffer of `save_jsonl`; `buffer` gives its shapes and its `trains`."""
  lines = [json.loads(x) for x in Path(path).read_text().splitlines()]
  head, entries = lines[0], lines[1:]
  n, capacity = buffer.time.shape
  if (len(head["added"]), head["capacity"]) != (n, capacity):
    raise ValueError(
      f"{path} holds {len(head['added'])} domains of {head['capacity']} slots, "
      f"this buffer {n} of {capacity}: give the method that capacity"
    )
  out = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), buffer)
  for e in entries:
    at = e["domain"], e["slot"]
    for name in _SCALARS:
      getattr(out, name)[at] = e[name]
    for part, values in ((out.rows, e["row"]), (out.extra, e["extra"])):
      leaves = dict(zip(tree.paths(part), jax.tree.leaves(part), strict=True))
      if leaves.keys() != values.keys():
        raise ValueError(
          f"{path} has rows of {sorted(values)}, this buffer of "
          f"{sorted(leaves)}: they are of another agent or method"
        )
      for name, leaf in leaves.items():
        leaf[at] = values[name]
  out = out._replace(
    added=np.asarray(head["added"], np.int32),
    replayed=np.asarray(head["replayed"], np.int32),
    trains=buffer.trains,
  )
  return jax.tree.map(jnp.asarray, out)


def _cell(part: PyTree, at: tuple[int, int]) -> dict[str, Any]:
  leaves = zip(tree.paths(part), jax.tree.leaves(part), strict=True)
  return {name: x[at].tolist() for name, x in leaves}
