"""The seam between the experiment loop and what is learned.

`train.run` knows a `Problem` and nothing below it. Two kinds exist: supervised
rows (`supervised`) and episodes with an environment. Everything here is a pure
function of its arguments, so that a resumed run repeats itself bit for bit: a
`seed` is an int and owns all randomness of the call, on the host and on the
device. Nothing may be remembered between calls except caches.

A stage is `stage.clone_steps` optimiser steps on minibatches of its `demos`,
then `stage.steps - stage.clone_steps` steps of `collect` -> `batch` -> update.
Every batch of a run has the same shape, so that one compile serves the stream.

`problems.<name>.make(*, seed, batch_size, agent, **stream)` builds one: `seed`
is `config.seed`, `batch_size` is `config.train.batch_size`, `agent` the mapping
`config.agent`, and `stream` the section `config.stream`, key by key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jax_cl import types

PyTree = Any


def minibatch(
  rows: types.Batch, size: int, step: int, seed: int, shuffle: bool = True
) -> types.Batch:
  """The `step`-th batch of `size` rows, epoch after epoch.

  Each epoch is a permutation of its own; its last batch is filled up with
  rows of weight 0, so that all batches have one shape. Of rows on the device
  the batch is gathered there.
  """
  n = len(rows.weight)
  epoch, place = divmod(step, per_epoch(rows, size))
  rng = np.random.default_rng((seed, epoch))
  order = rng.permutation(n) if shuffle else np.arange(n)
  take = order[place * size : (place + 1) * size]
  pad = size - len(take)
  take = np.concatenate([take, np.zeros(pad, take.dtype)])
  real = np.arange(size) < size - pad
  if isinstance(rows.weight, jax.Array):
    return _on_device(rows, take, real)
  return _taken(jax.tree.map(np.asarray, rows), take, real, np)


def _taken(rows: types.Batch, take, real, xp=jnp) -> types.Batch:
  batch = jax.tree.map(lambda x: x[take], rows)
  return batch._replace(
    weight=batch.weight * real, task=xp.where(real, batch.task, -1)
  )


_on_device = jax.jit(_taken)


def per_epoch(rows: types.Batch, size: int) -> int:
  """Batches an epoch."""
  return -(-len(rows.weight) // size)


class Problem(Protocol):
  """A stream of stages, an agent, and where its experience comes from."""

  stages: tuple[types.Stage, ...]
  domains: tuple[str, ...]  # columns of R; `Batch.domain` is a place in it
  # The task table, tasks of all splits: `Batch.task` is a place in it. Ids are
  # unique in a domain; `leaks.Guard` refuses rows of val and test.
  tasks: Sequence[types.TaskSpec]
  agent: types.Agent
  sizes: Mapping[str, Mapping[str, int]]  # domain -> split -> number of tasks
  fingerprint: str  # hash of the data: a resumed run must find the same
  about: Mapping[str, Any]  # goes into run.json: protocol, references, ...

  def demos(self, stage: int) -> types.Batch | None:
    """All demonstrations of one stage, host arrays of any length; adv = 1.

    Read when the stage is, never before: a stage learns from its own domains
    only. None where `clone_steps` is 0.
    """
    ...

  def collect(
    self,
    params: PyTree,
    frozen: PyTree,
    stage: int,
    step: int,
    seed: int,
    mix: np.ndarray | None = None,
  ) -> list[types.Episode]:
    """Runs the policy on training tasks of a stage: one step's episodes.

    `params` is the method's view. `mix` is the share of each domain (float
    [domains]) that the method asks for; None is the stage's own. Episodes of
    one group carry the same `info["group"]`; failed ones are returned, too,
    with `failure` set.
    """
    ...

  def batch(
    self, episodes: Sequence[types.Episode], seed: int, every: bool = False
  ) -> types.Batch:
    """Episodes -> one batch of `batch_size` rows, with advantages.

    With `every`, also those of groups without signal, at advantage 0: a memory
    and the Fisher information want what was done, not what it teaches now.

    Rows that do not fit are sampled (`seed`); missing ones have weight 0. Of
    no episodes it is all padding, which tells the run its shapes.
    """
    ...

  def evaluate(
    self,
    params: PyTree,
    frozen: PyTree,
    domain: str,
    split: str,
    seed: int,
    trials: int,
    stage: int,
  ) -> list[types.Episode]:
    """`trials` episodes of every task of a split, in a fixed order.

    `stage` is the one just trained on (-1: none): growing action spaces.
    `info["trial"]` counts them. All of `info` that is a number, a string or a
    boolean goes into `episodes.jsonl`.
    """
    ...

  def summary(self, params: PyTree, frozen: PyTree) -> Mapping[str, float]:
    """Figures of the finished run that are not of one stage; may be empty."""
    ...

  def note(self) -> str:
    """A line on this process's work (tokens sent), or ""; not logged."""
    ...
