"""Devices: the batch is split over them by rows, everything else is copied.

What the field writes as `pmap` is `jit` over `NamedSharding` here: the same
program, compiled once, with the communication that the shardings imply.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class Layout(NamedTuple):
  """Where things live; None leaves it to JAX (one device)."""

  rows: NamedSharding | None  # leaves that lead with B
  replicated: NamedSharding | None  # state and frozen weights


def data_parallel(devices: int) -> Layout:
  """The first `devices` devices of this host."""
  if devices > jax.device_count():
    raise ValueError(
      f"train.devices is {devices}, but there are {jax.device_count()} "
      f"({jax.default_backend()}): set config.train.devices to "
      f"{jax.device_count()} or less"
    )
  if devices == 1:
    return Layout(None, None)
  mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
  return Layout(
    NamedSharding(mesh, PartitionSpec("data")),
    NamedSharding(mesh, PartitionSpec()),
  )


def place(tree, sharding: NamedSharding | None):
  """Puts a tree there, or leaves it where it is."""
  return tree if sharding is None else jax.device_put(tree, sharding)
