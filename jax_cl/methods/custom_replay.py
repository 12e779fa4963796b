"""Replay of what a function of yours selects.

`select` names it as "package.module:function" or "path/to/file.py:function":

  def select(key, buffer: memory.Buffer) -> f32[N, C]: a score for each slot

Of each domain the slots of highest score are replayed, ties at random; empty
slots never are. `buffer` has, a slot: `rows.reward`, `rows.task`, `priority`
(loss when last seen), `used` (how often replayed), `time` (when it came) and
`id`. The function is traced once, so it must be made of `jax.numpy`. Random
numbers of `key` on top of a score turn the best into a draw. The rest is
`replay` with cloned rows.

Deviations: none; this is a place for yours.
"""

from __future__ import annotations

import importlib
import importlib.util
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jax_cl import memory
from jax_cl.methods import _replay, replay
from jax_cl.methods.base import Method

OFF = {"ratio": 0.0}


def least_used(key, buffer: memory.Buffer) -> jax.Array:
  """The rows that were replayed least: everything in turn."""
  del key
  return -buffer.used.astype(jnp.float32)


def make(
  *,
  batch_size: int,
  select: str = "jax_cl.methods.custom_replay:least_used",
  ratio: float = 0.2,
  mode: str = "appended",
  min_buffer_size: int = 20,
  capacity: int = 1000,
) -> Method:
  """`capacity` is rows a domain; `batch_size` is the run's."""
  score = load(select)

  def choose(key, buffer, domain, rank, n):
    k_score, k_ties = jax.random.split(key)
    x_NC = score(k_score, buffer)
    if jnp.shape(x_NC) != buffer.time.shape:
      raise TypeError(
        f"{select} gives {jnp.shape(x_NC)}; it must give a score for each "
        f"slot, {buffer.time.shape}"
      )
    return memory.best(k_ties, buffer, x_NC, domain, rank, n)

  base = replay.make(
    batch_size=batch_size, ratio=ratio, strategy="surprise", mode=mode,
    min_buffer_size=min_buffer_size, capacity=capacity,
  )  # fmt: skip
  b = _replay.count("replay ratio", batch_size, ratio)
  draw = _replay.from_earlier(b, choose, min_buffer_size)
  return base._replace(draw=draw) if base.capacity else base


def load(name: str) -> Callable:
  """The function that a text names, or an error that says what is wrong."""
  where, colon, function = name.rpartition(":")
  if not colon:
    raise ValueError(
      f"custom_replay.select is {name!r}; write package.module:function or "
      "path/to/file.py:function"
    )
  try:
    module = _file(where) if where.endswith(".py") else _package(where)
  except (ImportError, FileNotFoundError) as e:
    raise ValueError(f"custom_replay.select: no {where!r} ({e})") from e
  if not callable(found := getattr(module, function, None)):
    raise ValueError(f"custom_replay.select: {where} has no {function!r}")
  return found


def _package(name: str):
  return importlib.import_module(name)


def _file(path: str):
  stem = pathlib.Path(path).stem
  spec = importlib.util.spec_from_file_location(f"custom_{stem}", path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module
