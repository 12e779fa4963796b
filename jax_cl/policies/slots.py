"""Caches for decoding: one slot a conversation, behind a shared prefix.

Keys and values lie by head, [B, K, S, C], so that a head reads one stretch of
memory, and layers lie apart, so that no step copies a stack. What all slots
have in common (a domain's rules and tools) is kept once, [K, P, C], and read
once a step for all of them (Juravsky et al. 2024, Hydragen, arXiv:2402.05099).

Attention over parts is merged by float32 log-sum-exps of our own:
`jax.nn.dot_product_attention(return_residual=True)` stops their gradient, and
so gives wrong gradients for q. Parts are blocks of BLOCK keys, whatever the
cache's size; a block that a row does not see adds exact zeros to it, so that a
row's bits do not depend on how long the others have become.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

BLOCK = 128  # keys; caches and prefixes are multiples of it
UNSEEN = -1e30  # finite, so that what sees nothing stays a number


class Prefix(NamedTuple):
  """Keys and values that every row sees, at positions 0 to length - 1."""

  k: Any  # L arrays dtype[K, P, C], rotated; or one, stacked
  v: Any
  length: Array  # int32[], the rest of P is padding


class Tail(NamedTuple):
  """The tokens of one call of `decode`, in all rows at the same place.

  A loop that carried the cache and scattered into it would copy it at every
  step. The cache stands still meanwhile, and takes the tail at the end.
  """

  k: Any  # L arrays dtype[B, K, N, C]
  v: Any
  used: Array  # int32[], of N


class Slots(NamedTuple):
  """A row's own tokens, at positions prefix.length, ...

  As in `base.Cache`, padding at the end of a written chunk is overwritten by
  the next, and what does not fit is dropped. `k` and `v` are None before the
  first chunk, which then is the cache: to fill one, and to train on a prompt
  that rows share.
  """

  k: Any  # L arrays dtype[B, K, S, C], rotated; or one, stacked
  v: Any
  length: Array  # int32[B]
  prefix: Prefix | None = None
  tail: Tail | None = None  # while decoding


class Layer(NamedTuple):
  """One layer of `Slots`, or all of them."""

  k: Any
  v: Any
  prefix_k: Any = None
  prefix_v: Any = None
  tail_k: Any = None
  tail_v: Any = None


def init(config, rows: int, slots: int, prefix: Prefix | None = None) -> Slots:
  """Empty slots with the layers apart, for parameters that are `unstack`ed."""
  shape = (rows, config.kv_heads, slots, config.head_width)
  zeros = lambda: tuple(
    jnp.zeros(shape, config.dtype) for _ in range(config.layers)
  )
  return Slots(zeros(), zeros(), jnp.zeros(rows, jnp.int32), prefix)


def prefix_of(cache: Slots) -> Prefix:
  """The first row of a cache, which is all of its own, for others to share."""
  first = lambda x: x[..., 0, :, :, :]
  return Prefix(
    jax.tree.map(first, cache.k), jax.tree.map(first, cache.v), cache.length[0]
  )


def grow(cache: Slots, slots: int) -> Slots:
  """The same cache with room for `slots` tokens a row."""
  pad = lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, slots - x.shape[2]), (0, 0)))
  return cache._replace(
    k=jax.tree.map(pad, cache.k), v=jax.tree.map(pad, cache.v)
  )


def with_tail(cache: Slots, steps: int) -> Slots:
  """The cache, ready for that many single tokens."""
  empty = lambda x: jnp.zeros((*x.shape[:2], steps, x.shape[3]), x.dtype)
  k, v = jax.tree.map(empty, (cache.k, cache.v))
  return cache._replace(tail=Tail(k, v, jnp.int32(0)))


def without_tail(cache: Slots, count_B: Int[Array, " B"]) -> Slots:
  """The cache with the first `count` tokens of each row's tail inside."""
  B, N = count_B.size, jax.tree.leaves(cache.tail.k)[0].shape[2]
  steps = jnp.broadcast_to(jnp.arange(N)[None], (B, N))
  at = jnp.broadcast_to(cache.length[:, None], (B, N)) + steps
  put = lambda old, new: write(old, at, new)
  return cache._replace(
    k=jax.tree.map(put, cache.k, cache.tail.k),
    v=jax.tree.map(put, cache.v, cache.tail.v),
    length=cache.length + count_B,
    tail=None,
  )


def layers(cache: Slots, n: int) -> Layer:
  """The first n layers of a cache, together."""
  prefix = cache.prefix or Prefix(None, None, jnp.int32(0))
  tail = cache.tail or Tail(None, None, jnp.int32(0))
  parts = cache.k, cache.v, prefix.k, prefix.v, tail.k, tail.v
  return Layer(*(None if a is None else a[:n] for a in parts))


def pick(kv, i: int):
  """Layer i of `layers`, of a `base.Ahead`, or of a plain (k, v)."""
  parts = [None if a is None else a[i] for a in kv]
  return tuple(parts) if type(kv) is tuple else type(kv)(*parts)


def apart(new: list[Layer]) -> Layer:
  """Layers that ran one by one, as tuples."""
  return Layer(*(None if a[0] is None else a for a in zip(*new)))


def written(cache: Slots, new: Layer, count_B: Int[Array, " B"]) -> Slots:
  """The cache after a chunk of `count` tokens a row."""
  if cache.tail is not None:
    tail = Tail(new.tail_k, new.tail_v, cache.tail.used + 1)
    return cache._replace(tail=tail)
  return cache._replace(k=new.k, v=new.v, length=cache.length + count_B)


def places(cache: Slots, T: int):
  """Where a chunk of T goes: int32[B, T] in the cache, int32[] in the tail."""
  if cache.tail is not None:
    return cache.tail.used
  B = cache.length.size
  steps = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], (B, T))
  return jnp.broadcast_to(cache.length[:, None], (B, T)) + steps


def keys(cache: Slots, positions_BT, segments_BT):
  """(positions, segments) of all keys a chunk may see, int32[B, M]: those of
  the prefix, of the cache, and of the chunk or the tail."""
  B = positions_BT.shape[0]
  start = jnp.int32(0)
  positions, segments = [], []

  def add(position, segment, n):
    positions.append(jnp.broadcast_to(position, (B, n)))
    segments.append(jnp.broadcast_to(segment, (B, n)).astype(jnp.int32))

  at = lambda x: jnp.arange(jax.tree.leaves(x)[0].shape[-2])[None]
  if cache.prefix is not None:
    start = cache.prefix.length
    i = at(cache.prefix.k)
    add(i, i < start, i.size)
  if cache.k is not None:
    i = at(cache.k)
    held = jnp.broadcast_to(cache.length[:, None], (B, i.size))
    add(start + i, i < held, i.size)
  if cache.tail is not None:
    i = at(cache.tail.k)
    first = jnp.broadcast_to((start + cache.length)[:, None], (B, i.size))
    add(first + i, i <= cache.tail.used, i.size)
  else:
    add(positions_BT, segments_BT, positions_BT.shape[1])
  return jnp.concatenate(positions, 1), jnp.concatenate(segments, 1)


def attend(q, k, v, mask: Bool[Array, "B T M"], at, layer: Layer):
  """(y_BTHC, layer): a chunk's attention to prefix, cache and itself.

  The order of parts is that of `keys`. Without a cache, the layer that comes
  back holds the chunk.
  """
  B, T, H, C = q.shape
  K = k.shape[2]
  q = q.reshape(B, T, K, H // K, C)
  k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
  held = []  # (function, keys, values)
  if layer.prefix_k is not None:
    held.append((_shared, layer.prefix_k, layer.prefix_v))
  if layer.k is not None:
    part = functools.partial(_walk, at=at) if T > BLOCK else _own
    held.append((part, layer.k, layer.v))
  if layer.tail_k is not None:
    put = jax.lax.dynamic_update_slice_in_dim
    tail = put(layer.tail_k, k, at, 2), put(layer.tail_v, v, at, 2)
    held.append((_own, *tail))
    layer = layer._replace(tail_k=tail[0], tail_v=tail[1])
  else:
    held.append((_chunk, k, v))
    if layer.k is not None:
      k, v = write(layer.k, at, k), write(layer.v, at, v)
    layer = layer._replace(k=k, v=v)
  parts, first = [], 0
  for part, k, v in held:
    last = first + k.shape[-2]
    parts.append(part(q, k, v, mask[..., first:last]))
    first = last
  y = merge([jnp.stack(x) for x in zip(*parts)])
  return y.astype(v.dtype).reshape(B, T, H, C), layer


def write(old: Array, at, new: Array) -> Array:
  """old[b, :, at[b, t]] = new[b, :, t]; what lies outside is dropped."""
  B, _, T, _ = new.shape
  rows = jnp.broadcast_to(jnp.arange(B)[:, None], (B, T))
  return old.at[rows, :, at].set(new.swapaxes(1, 2), mode="drop")


def merge(parts) -> Float[Array, "*B C"]:
  """softmax over all parts' keys, from (o, m, l) stacked on axis 0.

  o = sum_s e^(x_s - m) v_s and l = sum_s e^(x_s - m) over a part's scores x,
  m their maximum: y = sum_i e^(m_i - M) o_i / sum_i e^(m_i - M) l_i.
  """
  o, m, l = parts
  w = jnp.exp(m - m.max(0, keepdims=True))
  return (w * o).sum(0) / (w * l).sum(0)


def _own(q, k, v, mask):
  """(o, m, l) of rows over their own keys, f32[B, T, K, G, C or 1]."""
  B, K, S, C = k.shape
  n, b = _blocks(S)
  k, v = k.reshape(B, K, n, b, C), v.reshape(B, K, n, b, C)
  # Batch axes in the order of the cache's own: no key is moved for a product.
  x = _scores("btkgc,bknsc->bkntgs", q, k)
  mask = mask.reshape(*mask.shape[:2], n, b).swapaxes(1, 2)
  mask = mask[:, None, :, :, None]  # [B, 1, n, T, 1, b]
  parts = _parts("bkntgs,bknsc->bkntgc", x, mask, v, axis=2)
  return [a.swapaxes(1, 2) for a in parts]


def _walk(q, k, v, mask, at):
  """The same, block after block up to where the chunk begins (`at`).

  For long chunks (a prefix that is read): of a cache that is mostly empty only
  what is full is looked at, and no scores of all keys exist at once. Sums are
  taken in another order than `_own`'s; a block that a row does not see changes
  no bit of it here, either. Not differentiable backwards.
  """
  B, T, K, G, C = q.shape
  n, b = _blocks(k.shape[2])
  used = jnp.minimum((at[:, 0].max() + b - 1) // b, n)

  def block(i, part):
    o, m, l = part
    cut = lambda x, axis: jax.lax.dynamic_slice_in_dim(x, i * b, b, axis)
    x = _scores("btkgc,bksc->bktgs", q, cut(k, 2))
    x = jnp.where(cut(mask, 2)[:, None, :, None], x, UNSEEN)
    most = jnp.maximum(m, x.max(-1, keepdims=True))
    p, w = jnp.exp(x - most), jnp.exp(m - most)
    y = _product("bktgs,bksc->bktgc", p, cut(v, 2))
    return w * o + y, most, w * l + _halved(p)

  start = [(C, 0.0), (1, UNSEEN), (1, 0.0)]
  start = [jnp.full((B, K, T, G, c), x, jnp.float32) for c, x in start]
  parts = jax.lax.fori_loop(0, used, block, tuple(start))
  return [a.swapaxes(1, 2) for a in parts]


def _chunk(q, k, v, mask):
  """The same over the chunk's own keys, block by block: none sees a later."""
  T = q.shape[1]
  if T <= BLOCK or T % BLOCK:
    return _own(q, k, v, mask)
  ends = range(BLOCK, T + 1, BLOCK)
  rows = [
    _own(
      q[:, n - BLOCK : n], k[:, :, :n], v[:, :, :n], mask[:, n - BLOCK : n, :n]
    )
    for n in ends
  ]
  return [jnp.concatenate(x, axis=1) for x in zip(*rows)]


def _shared(q, k, v, mask):
  """The same over keys that all rows share: one product for all of them."""
  K, P, C = k.shape
  n, b = _blocks(P)
  k, v = k.reshape(K, n, b, C), v.reshape(K, n, b, C)
  x = _scores("btkgc,knsc->knbtgs", q, k)
  mask = jnp.moveaxis(mask.reshape(*mask.shape[:2], n, b), 2, 0)
  mask = mask[None, :, :, :, None]  # [1, n, B, T, 1, b]
  parts = _parts("knbtgs,knsc->knbtgc", x, mask, v, axis=1)
  return [jnp.moveaxis(a, 0, 2) for a in parts]


def _blocks(keys: int) -> tuple[int, int]:
  return (keys // BLOCK, BLOCK) if keys % BLOCK == 0 else (1, keys)


def _scores(equation, q, k):
  # float32: see `base.attention`.
  return jnp.einsum(
    equation, q, k, precision=_exact(q), preferred_element_type=jnp.float32
  ) * (q.shape[-1] ** -0.5)


def _product(equation, p, v):
  return jnp.einsum(
    equation,
    p.astype(v.dtype),
    v,
    precision=_exact(v),
    preferred_element_type=jnp.float32,
  )


def _parts(equation, x, mask, v, axis: int):
  """(o, m, l) of all blocks, which lie on `axis`, merged into one part."""
  x = jnp.where(mask, x, UNSEEN)
  # The shift cancels out of the result: its gradient is zero.
  m = jax.lax.stop_gradient(x.max(-1, keepdims=True))
  p = jnp.exp(x - m)
  l = _halved(p)
  o = _product(equation, p, v)
  most = m.max(axis, keepdims=True)
  w = jnp.exp(m - most)
  # Sums of blocks merged into the product or into multiply-adds would round
  # differently at each number of blocks.
  o, l = jax.lax.optimization_barrier((w * o, w * l))
  return _sum(o, axis), most.squeeze(axis), _sum(l, axis)


def _halved(x):
  """Sum over the last axis, kept, by adding halves: a reduction's order, and
  so its bits, would depend on how many blocks there are beside it."""
  while x.shape[-1] > 1 and x.shape[-1] % 2 == 0:
    a, b = jnp.split(x, 2, axis=-1)
    x = a + b
  return x.sum(-1, keepdims=True)


def _sum(x, axis: int):
  """Sum over blocks in pairs: zeros behind them do not change the order, as
  they would in a reduction."""
  every = functools.partial(jax.lax.slice_in_dim, stride=2, axis=axis)
  while (n := x.shape[axis]) > 1:
    odd = [(0, 0)] * x.ndim
    odd[axis] = (0, n % 2)
    x = jnp.pad(x, odd)
    x = every(x, 0, None) + every(x, 1, None)
  return x.squeeze(axis)


def _exact(x):
  return jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
