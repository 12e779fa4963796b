"""How long a draw from a large buffer takes, by strategy.

  python -m jax_cl.bench memory --out=FILE.json

An entry is an id and scalars beside its payload (here 16 floats). Times are
those of a compiled call that returns b rows with their payload, the call
itself included; `writes` are those of a batch of b rows, in place.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_cl import memory
from jax_cl.types import Batch

WIDTH = 16  # floats of payload


def run(
  entries: int = 1_000_000,
  domains: int = 4,
  b: int = 32,
  repeats: int = 30,
) -> Iterator[dict[str, Any]]:
  """Rows {strategy, entries, b, ms, ms_min}: median and least of `repeats`."""
  buffer = full(entries, domains)
  for name in memory.STRATEGIES:
    draw = jax.jit(
      functools.partial(memory.sample, b=b, choose=memory.strategy(name))
    )
    times = [_timed(draw, buffer, jax.random.key(i)) for i in range(repeats)]
    yield _row(name, entries, b, times[1:])
  items = memory.Items(rows(b, domains), jnp.ones(b, bool))
  for name, insert in (
    ("add", memory.add), ("add_reservoir", memory.reservoir),
  ):  # fmt: skip
    put = jax.jit(insert, donate_argnums=0)
    times = []
    for i in range(repeats):
      key, began = jax.random.key(i), time.perf_counter()
      buffer = jax.block_until_ready(put(buffer, items, jnp.int32(i), key))
      times.append(time.perf_counter() - began)
    yield _row(name, entries, b, times[1:])


def full(entries: int, domains: int) -> memory.Buffer:
  """A buffer with every slot taken, with binary rewards."""
  capacity = entries // domains
  empty = memory.init(
    memory.Items(rows(1, domains), jnp.ones(1, bool)),
    np.eye(domains, dtype=bool),
    capacity,
  )
  rng = np.random.default_rng(0)
  draws = lambda: jnp.asarray(rng.random((domains, capacity)), jnp.float32)
  return empty._replace(
    rows=empty.rows._replace(
      weight=jnp.ones_like(empty.rows.weight),
      reward=(draws() > 0.5).astype(jnp.float32),
    ),
    added=jnp.full(domains, capacity, jnp.int32),
    priority=draws(),
  )


def rows(n: int, domains: int) -> Batch:
  ones = jnp.ones(n)
  return Batch(
    obs={"x": jnp.ones((n, WIDTH))},
    action=jnp.zeros((n, 1), jnp.int32),
    mask=jnp.ones((n, 1)),
    logp_old=jnp.zeros((n, 1)),
    adv=ones,
    weight=ones,
    domain=jnp.arange(n, dtype=jnp.int32) % domains,
    task=jnp.zeros(n, jnp.int32),
    reward=ones,
  )


def _timed(f, *args) -> float:
  began = time.perf_counter()
  jax.block_until_ready(f(*args))
  return time.perf_counter() - began


def _row(name: str, entries: int, b: int, times: list[float]) -> dict[str, Any]:
  return {
    "strategy": name,
    "entries": entries,
    "b": b,
    "ms": 1e3 * float(np.median(times)),
    "ms_min": 1e3 * min(times),
  }
