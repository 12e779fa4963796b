"""Weights that belong to one stage: a bank of N trees, one of them in use.

The tree in use is the trainable one; the bank holds those of the other stages,
so that `view` can act with any of them when it is told which.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_cl.types import Array

PyTree = Any


class Bank(NamedTuple):
  stages: PyTree  # leaves [N, ...]: as learned, or as fresh as at first
  now: Array  # int32[], whose tree is in use and not in the bank


def init(fresh: PyTree, n_stages: int) -> Bank:
  """Every stage begins with a copy of `fresh`."""
  copies = lambda x: jnp.broadcast_to(x[None], (n_stages, *x.shape))
  return Bank(jax.tree.map(copies, fresh), jnp.int32(0))


def swap(bank: Bank, used: PyTree, stage) -> tuple[Bank, PyTree]:
  """(bank with `used` put away, the tree of `stage`)."""
  put = lambda b, x: b.at[bank.now].set(x)
  bank = Bank(jax.tree.map(put, bank.stages, used), stage)
  return bank, at(bank, stage)


def at(bank: Bank, stage) -> PyTree:
  return jax.tree.map(lambda x: x[stage], bank.stages)


def seen(bank: Bank, used: PyTree, stage) -> PyTree:
  """The tree of any stage, the one in use among them."""
  now = stage == bank.now
  return jax.tree.map(lambda x, b: jnp.where(now, x, b), used, at(bank, stage))
