"""Slots that hold conversations while they are sampled, turn after turn.

An `Engine` owns what lives on the device between calls: a copy of the weights,
one cache of keys and values a domain's prefix, and one of `slots` rows. A
conversation keeps its slot from its first token to `close`; what it has read
is never read again. Each `step` reads what is new, chunk by chunk, then
samples `steps` tokens for all rows that have an answer to give.

Shapes are few: rows and chunk are fixed, caches and prefixes grow in `sizes`,
and nothing else compiles. A row's tokens depend on its own ids and seed, the
number of slots and the chunk; not on the other rows, nor on the slot.

All slots share one prefix at a time: a conversation with another one waits
until the slots are empty.

A `Guide` says token by token what an answer may be. While any row has one, a
call samples one token, since the next mask depends on it: as many calls as
tokens, each with a word from the host. Draws stay those of the row's seed.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jax_cl import generate, sharding, tree
from jax_cl.policies import base, slots

PyTree = Any


class Sampling(NamedTuple):
  """How tokens are drawn; see `generate.sample`."""

  temperature: float = 1.0  # 0: the most probable token
  top_p: float = 1.0  # 1: all
  top_k: int = 0  # 0: all


class Guide(Protocol):
  """What one answer may be, token by token."""

  def support(self) -> np.ndarray:
    """uint32[ceil(V / 32)], packed (`generate.allowed`): the next token."""
    ...

  def take(self, token: int) -> None:
    """Goes on behind a token of the support."""
    ...


class Answer(NamedTuple):
  """What a conversation said next, and why it ended there."""

  key: Any  # hashable, the caller's
  ids: list[int]
  logprobs: list[float]
  versions: list[int]  # of the weights, a token
  reason: str  # "stop", "length" (its limit), "context" (no room is left)
  supports: Sequence[np.ndarray] = ()  # with a guide: packed, a token


@dataclasses.dataclass
class _Row:
  """A conversation in a slot, or in the queue for one."""

  key: Any  # hashable, the caller's
  prefix: tuple[int, ...]
  seed: int
  sampling: Sampling
  ids: list[int]  # own tokens, behind the prefix
  left: int  # tokens the answer under way may still take; 0: it waits
  read: int = 0  # of ids, those in the cache
  answer: list[int] = dataclasses.field(default_factory=list)
  logprobs: list[float] = dataclasses.field(default_factory=list)
  versions: list[int] = dataclasses.field(default_factory=list)
  guide: Guide | None = None  # of the answer under way
  supports: list[np.ndarray] = dataclasses.field(default_factory=list)


def sizes(context: int) -> tuple[int, ...]:
  """Lengths of caches: 128, 256, 384, 512, 768, 1024, ..., the last of them
  the context, rounded up to a block."""
  whole = -(-context // slots.BLOCK) * slots.BLOCK
  out, n = [slots.BLOCK], 2 * slots.BLOCK
  while n < whole:
    out += [n, n + n // 2]
    n *= 2
  return (*(x for x in out if x < whole), whole)


class Engine:
  """See the module. Not thread-safe; one process, one device."""

  def __init__(
    self,
    policy: base.Policy,
    *,
    stops: Sequence[int],
    slots: int,
    context: int,
    chunk: int,
    steps: int,
  ):
    self.policy, self.context = policy, context
    self.chunk, self.steps = chunk, steps
    self.version, self.checksum = -1, ""
    self._stops = jnp.asarray(list(stops), jnp.int32)
    self._params: PyTree = None
    self._rows: list[_Row | None] = [None] * slots
    self._queue: collections.deque[_Row] = collections.deque()
    self._prefixes: dict[tuple[int, ...], Any] = {}
    self._cache: Any = None
    # The cache is donated; the prefix, which others will need, is not.
    # Jitted apart for each engine, so that `compiles` counts its own.
    self._fill = jax.jit(functools.partial(generate.fill, policy))
    self._extend = jax.jit(
      functools.partial(_extend, policy), donate_argnames="cache"
    )
    self._decode = jax.jit(
      functools.partial(_decode, policy),
      donate_argnames="cache",
      static_argnames=("steps", "truncate"),
    )
    self._take = jax.jit(functools.partial(_take, policy.config.dtype))

  @property
  def compiles(self) -> int:
    """Programs compiled so far to read, to sample and to swap weights."""
    jitted = (self._fill, self._extend, self._decode, self._take)
    return sum(f._cache_size() for f in jitted)  # pyright: ignore

  @property
  def slots(self) -> int:
    return len(self._rows)

  @property
  def busy(self) -> bool:
    return bool(self._queue) or any(r and r.left for r in self._rows)

  def swap(self, params: PyTree, version: int) -> None:
    """New weights, copied, with nothing compiled again.

    Keys and values belong to the weights that made them: those of prefixes
    and of conversations under way are dropped, and read again when needed.
    """
    taken, checksum = self._take(params)
    self._params = sharding.local(taken)
    self.version, self.checksum = version, f"{int(checksum):08x}"
    self._prefixes.clear()
    for row in self._rows:
      if row is not None:
        row.read = 0

  def release(self) -> None:
    """Frees the device's memory for an update, until the next `swap`."""
    self._params = self._cache = None
    self._prefixes.clear()

  def submit(
    self,
    key: Any,
    prefix: Sequence[int],
    ids: Sequence[int],
    *,
    seed: int,
    sampling: Sampling,
    max_tokens: int,
    guide: Guide | None = None,
  ) -> None:
    """A new conversation, which answers `ids` as soon as a slot is free."""
    _check_sampling(sampling)
    if any(r.key == key for r in self._all()):
      raise ValueError(f"conversation {key!r} is under way: close it first")
    if not ids:
      raise ValueError(
        f"conversation {key!r} begins without a token of its own"
      )
    row = _Row(key, tuple(prefix), seed, sampling, list(ids), 0, guide=guide)
    row.left = self._room(row, max_tokens)
    self._queue.append(row)

  def reply(
    self,
    key: Any,
    ids: Sequence[int],
    max_tokens: int,
    guide: Guide | None = None,
  ) -> None:
    """Goes on with a conversation that has answered."""
    row = self._find(key)
    if row.left:
      raise ValueError(f"conversation {key!r} has not answered yet")
    row.ids += ids
    row.answer, row.logprobs, row.versions = [], [], []
    row.guide, row.supports = guide, []
    row.left = self._room(row, max_tokens)

  def close(self, key: Any) -> None:
    """Ends a conversation; its slot is free."""
    row = self._find(key)
    self._rows = [None if r is row else r for r in self._rows]
    self._queue = collections.deque(r for r in self._queue if r is not row)

  def step(self) -> list[Answer]:
    """Reads what is new, samples `steps` tokens; the answers that ended."""
    if self._params is None:
      raise ValueError("no weights yet: call swap(params, version) first")
    self._admit()
    rows = [r for r in self._rows if r is not None and r.left]
    full = [r for r in rows if r.left < 0]
    for row in full:
      row.left = 0
    rows = [r for r in rows if r.left]
    if rows:
      self._read(rows)
      self._sample(rows)
    done = [_answer(r, "context") for r in full]
    return done + [_answer(r, self._reason(r)) for r in rows if not r.left]

  def nbytes(self, params: PyTree) -> dict[str, int]:
    """Bytes of the weights and of the caches when full; shapes will do."""
    size = sizes(self.context)[-1]
    config = self.policy.config
    cache = jax.eval_shape(lambda: slots.init(config, self.slots, size))
    taken, _ = jax.eval_shape(self._take, params)
    return {"weights": tree.nbytes(taken), "caches": tree.nbytes(cache)}

  # ------------------------------------------------------------------ inside

  def _all(self) -> list[_Row]:
    return [r for r in self._rows if r is not None] + list(self._queue)

  def _find(self, key: Any) -> _Row:
    for row in self._all():
      if row.key == key:
        return row
    raise ValueError(f"no conversation {key!r} is under way")

  def _room(self, row: _Row, max_tokens: int) -> int:
    """Tokens an answer may take; -1 where not even one fits."""
    if max_tokens < 1:
      raise ValueError(f"max_tokens={max_tokens}: an answer has at least one")
    room = self.context - len(row.prefix) - len(row.ids)
    return min(max_tokens, room) if room > 0 else -1

  def _reason(self, row: _Row) -> str:
    if row.ids[-1] in np.asarray(self._stops):
      return "stop"
    full = len(row.prefix) + len(row.ids) >= self.context
    return "context" if full else "length"

  def _admit(self) -> None:
    """Gives free slots to the queue, in order, one prefix at a time."""
    held = [r.prefix for r in self._rows if r is not None]
    while self._queue and None in self._rows:
      if held and self._queue[0].prefix != held[0]:
        return
      row = self._queue.popleft()
      self._rows[self._rows.index(None)] = row
      held.append(row.prefix)

  def _read(self, rows: list[_Row]) -> None:
    """All ids but the last into the cache: `decode` reads that one."""
    longest = max(len(r.ids) + min(r.left, self.steps) for r in rows)
    self._grow(longest)
    prefix = self._prefix(rows[0].prefix)
    while any(len(r.ids) - 1 > r.read for r in rows):
      tokens = np.zeros((len(self._rows), self.chunk), np.int32)
      count = np.zeros(len(self._rows), np.int32)
      for i, r in enumerate(self._rows):
        if r is not None and r.left > 0:
          part = r.ids[r.read : len(r.ids) - 1][: self.chunk]
          tokens[i, : len(part)], count[i] = part, len(part)
      self._cache = self._extend(
        self._params, tokens, count, cache=self._at_hand(), prefix=prefix
      )
      for i, r in enumerate(self._rows):
        if r is not None:
          r.read += int(count[i])

  def _sample(self, rows: list[_Row]) -> None:
    support = self._support() if any(r.guide for r in rows) else None
    live = [r if r is not None and r.left > 0 else None for r in self._rows]
    column = lambda f, rest, dtype: jnp.asarray(
      [rest if r is None else f(r) for r in live], dtype
    )
    state = generate.SamplingState(
      column(lambda r: r.ids[-1], 0, jnp.int32),
      column(lambda r: r.left, 0, jnp.int32),
      column(lambda r: r.seed % 2**32, 0, jnp.uint32),
      column(lambda r: r.sampling.temperature, 1.0, jnp.float32),
      column(lambda r: r.sampling.top_p, 1.0, jnp.float32),
      column(lambda r: r.sampling.top_k, 0, jnp.int32),
    )
    truncate = any(r.sampling.top_p < 1 or r.sampling.top_k > 0 for r in rows)
    self._cache, _, drawn = self._decode(
      self._params,
      cache=self._at_hand(),
      prefix=self._prefix(rows[0].prefix),
      state=state,
      stops=self._stops,
      steps=self.steps if support is None else 1,
      truncate=truncate,
      support=support,
    )
    tokens, logprobs, sampled = map(np.asarray, drawn)
    for i, row in enumerate(live):
      if row is not None:
        n = int(sampled[i].sum())
        self._note(row, tokens[i, :n].tolist(), logprobs[i, :n].tolist())
        if row.guide is not None and support is not None:
          row.guide.take(row.ids[-1])
          row.supports.append(support[i])

  def _support(self) -> np.ndarray:
    """uint32[slots, W]: what each row may say next; all, without a guide."""
    words = generate.words(self.policy.config.vocab)
    out = np.full((len(self._rows), words), 2**32 - 1, np.uint32)
    for i, row in enumerate(self._rows):
      if row is not None and row.left > 0 and row.guide is not None:
        out[i] = row.guide.support()
    return out

  def _note(self, row: _Row, ids: list[int], logprobs: list[float]) -> None:
    for j, x in enumerate(logprobs):
      if not np.isfinite(x):
        self._explain(row, ids[:j])
    row.read += len(ids)
    row.ids += ids
    row.answer += ids
    row.logprobs += logprobs
    row.versions += [self.version] * len(ids)
    row.left -= len(ids)
    if ids[-1] in np.asarray(self._stops):
      row.left = 0

  def _at_hand(self) -> slots.Slots:
    """The cache as the next call wants it: what rows have read is theirs."""
    held = [0 if r is None else r.read for r in self._rows]
    return self._cache._replace(length=jnp.asarray(held, jnp.int32))

  def _grow(self, length: int) -> None:
    """Room for `length` own tokens a row."""
    size = next(s for s in sizes(self.context) if s >= length)
    if self._cache is None:
      self._cache = slots.init(self.policy.config, len(self._rows), size)
    held = self._cache.k[0].shape[2]
    if held < size:
      self._cache = _grow(self._cache, size)

  def _prefix(self, ids: tuple[int, ...]) -> slots.Prefix | None:
    """Keys and values of a prefix, read once for these weights."""
    if not ids:
      return None
    if ids not in self._prefixes:
      size = next(s for s in sizes(self.context) if s >= len(ids))
      width = min(size, PREFIX_CHUNK)
      chunks = [
        _padded(ids[at : at + width], width) for at in range(0, len(ids), width)
      ]
      cache = _grow(self._fill(self._params, *chunks[0]), size)
      for chunk in chunks[1:]:
        cache = self._extend(self._params, *chunk, cache=cache, prefix=None)
      self._prefixes[ids] = slots.prefix_of(cache)
    return self._prefixes[ids]

  def _explain(self, row: _Row, ids: list[int]) -> None:
    """Raises, with the first layer whose output is not finite."""
    tokens = np.asarray([[*row.prefix, *row.ids, *ids]], np.int32)
    positions = np.arange(tokens.shape[1], dtype=np.int32)[None]
    where = "the head"
    for layer in range(1, self.policy.config.layers + 1):
      hidden = jax.jit(functools.partial(self.policy.hidden, layers=layer))
      x, _ = hidden(self._params, tokens, positions, np.ones_like(tokens))
      if not bool(jnp.isfinite(x).all()):
        where = f"layer {layer} of {self.policy.config.layers}"
        break
    raise FloatingPointError(
      f"logits of conversation {row.key!r} are not finite at step"
      f" {len(row.answer) + len(ids)} of its answer (position"
      f" {tokens.shape[1]}, weights version {self.version}, checksum"
      f" {self.checksum}): first in {where}"
    )


_grow = jax.jit(slots.grow, static_argnums=1)
PREFIX_CHUNK = 512  # tokens of a prefix read at a time


def make(
  policy: base.Policy,
  *,
  stops: Sequence[int],
  slots: int = 16,
  context: int = 2048,
  chunk: int = 64,
  steps: int = 16,
) -> Engine:
  """An engine without weights.

  Args:
    stops: ids that end an answer.
    slots: conversations at a time; part of what makes runs repeat.
    context: tokens of a conversation, prefix included.
    chunk: tokens read at a time; about what a turn's answer of tools has.
    steps: tokens sampled at a time; a row that stops early waits for the rest.
  """
  for name, value in (
    ("slots", slots), ("context", context), ("chunk", chunk), ("steps", steps),
  ):  # fmt: skip
    if value < 1:
      raise ValueError(f"{name}={value}: it must be 1 or more")
  if context > policy.config.context:
    raise ValueError(
      f"context={context}, but the model was trained for"
      f" {policy.config.context} positions"
    )
  return Engine(
    policy, stops=stops, slots=slots, context=context, chunk=chunk, steps=steps
  )


def checksum(params: PyTree) -> jax.Array:
  """uint32[] that changes with any bit of any weight, and with its place."""
  total = jnp.uint32(0)
  for n, leaf in enumerate(jax.tree.leaves(params)):
    bits = {2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
    words = jax.lax.bitcast_convert_type(leaf, bits).astype(jnp.uint32).ravel()
    place = jnp.arange(words.size, dtype=jnp.uint32) * jnp.uint32(0x9E3779B9)
    mixed = jnp.sum(_mix(words ^ _mix(place + jnp.uint32(n))))
    total = _mix(total + mixed)
  return total


def _mix(x):
  """MurmurHash3's finaliser: every bit of the input moves half of all bits."""
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
    x = (x ^ (x >> shift)) * jnp.uint32(factor)
  return x ^ (x >> 16)


def _padded(ids: Sequence[int], width: int) -> tuple[np.ndarray, np.ndarray]:
  """One row of a chunk, int32[1, width], and its count, int32[1]."""
  tokens = np.zeros((1, width), np.int32)
  tokens[0, : len(ids)] = ids
  return tokens, np.asarray([len(ids)], np.int32)


def _extend(policy, params, tokens, count, *, cache, prefix) -> slots.Slots:
  cache = cache._replace(prefix=prefix)
  cache = generate.extend(policy, params, tokens, count, cache)
  return cache._replace(prefix=None)


def _decode(policy, params, *, cache, prefix, state, stops, **how):
  cache, state, drawn = generate.decode(
    policy, params, cache._replace(prefix=prefix), state, stops=stops, **how
  )
  return cache._replace(prefix=None), state, drawn


def _take(dtype: str, params: PyTree) -> tuple[PyTree, jax.Array]:
  """(the weights as they are used, their checksum).

  A copy, since the trainer's own buffers are donated to its next update: with
  its layers apart, and in the dtype to which each use would cast it.
  """
  if isinstance(params["layers"], tuple):
    apart = params
  else:
    apart = base.unstack(params)
  cast = lambda x: jnp.copy(x).astype(dtype)
  return jax.tree.map(cast, apart), checksum(params)


def _answer(row: _Row, reason: str) -> Answer:
  return Answer(
    row.key, row.answer, row.logprobs, row.versions, reason, row.supports
  )


def _check_sampling(s: Sampling) -> None:
  if s.temperature < 0 or not 0 < s.top_p <= 1 or s.top_k < 0:
    raise ValueError(
      f"{s}: temperature must be 0 or more, top_p in (0, 1], top_k 0 or more"
    )
