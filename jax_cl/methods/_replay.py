"""What methods that replay share: which rows are kept, and how to learn them.

A drawn row is `cloned` (its action's likelihood goes up), or `corrected` (its
advantage counts, as far as the policy would still act so). Kept are successes
alone where rows will be cloned. Everything here is a pure function of rows.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jax_cl import memory, types
from jax_cl.methods.base import Method
from jax_cl.types import Batch, Objective


def count(name: str, batch_size: int, ratio: float, most: float = 1.0) -> int:
  """int(batch_size * ratio) rows, or an error that says which ratios exist."""
  if not 0 <= ratio <= most:
    raise ValueError(f"{name} is {ratio}; it must be in [0, {most:g}]")
  b = int(batch_size * ratio + 1e-6)
  if ratio and not b:
    raise ValueError(
      f"{name} {ratio} of {batch_size} is 0: ask for {1 / batch_size:.3g} or "
      "more, or for 0"
    )
  return b


def remembering(*, capacity: int, **parts) -> Method:
  """A method with a memory of `capacity` rows a domain."""
  if capacity < 1:
    raise ValueError(f"replay capacity is {capacity}; it must be 1 or more")
  parts = {
    "store": successes,
    "touch": memory.touch,
    "report": lambda cl, buffer: memory.report(buffer),
    "needs": frozenset({"memory"}),
    **parts,
  }
  return Method(capacity=capacity, **parts)


# --------------------------------------------------------------- what is stored


def successes(obj, cl, p, batch: Batch, key) -> memory.Items:
  """Rows of reward > .5: what is worth cloning."""
  return memory.Items(rows=batch, keep=batch.reward > memory.PASSED)


def everything(obj, cl, p, batch: Batch, key) -> memory.Items:
  return memory.Items(rows=batch, keep=batch.weight > 0)


def with_loss(store):
  """The same items with their loss as priority."""

  def all_(obj, cl, p, batch, key):
    items = store(obj, cl, p, batch, key)
    return items._replace(priority=surprisal(obj, p, batch))

  return all_


# ---------------------------------------------------------------- what is drawn


def from_earlier(b: int, choose=memory.random, min_size: int = 1):
  """A `draw` of b rows, shared among the domains of earlier stages."""

  def draw(cl, buffer, stage, key):
    domains = memory.earlier(buffer, stage)
    return memory.sample(buffer, key, b, choose, domains, min_size)

  return draw


def rows(mem: memory.Sample, k: int = 0) -> Batch:
  """The k-th draw's rows: leaves [b, ...]."""
  return jax.tree.map(lambda x: x[k], mem.rows)


def extra(mem: memory.Sample, k: int = 0):
  """What was stored beside them."""
  return jax.tree.map(lambda x: x[k], mem.extra)


def cloned(old: Batch) -> Batch:
  """The likelihood of their actions is learned, whoever took them."""
  return old._replace(
    adv=jnp.ones_like(old.adv),
    logp_old=jnp.full_like(old.logp_old, types.CLONED),
  )


def corrected(obj: Objective, p, old: Batch, clip: float) -> Batch:
  """Advantages times min(ratio, clip), ratio = pi(a|s) / mu(a|s), no gradient.

  Truncated importance sampling (Espeholt et al. 2018, eq. 1). Of a row of many
  tokens it is their geometric mean, whose size does not grow with length (Zheng
  et al. 2025, https://arxiv.org/abs/2507.18071). What no policy sampled has
  mu = 1. `logp_old` becomes log pi: a loss with a ratio of its own finds 1.
  """
  logp_BT = jax.lax.stop_gradient(obj.logp(p, old))
  gap_BT = logp_BT - jnp.minimum(old.logp_old, 0.0)
  gap_B = _mean(gap_BT, old)
  ratio_B = jnp.exp(jnp.minimum(gap_B, jnp.log(clip)))
  return old._replace(adv=old.adv * ratio_B, logp_old=logp_BT)


def surprisal(obj: Objective, p, batch: Batch):
  """-log pi of the actions, mean over a row's tokens, nats: f32[B]."""
  return _mean(-obj.logp(p, batch), batch)


def _mean(x_BT, batch: Batch):
  n_B = jnp.maximum(jnp.sum(batch.mask, axis=1), 1.0)
  return jnp.sum(batch.mask * x_BT, axis=1) / n_B


# ------------------------------------------------------ where new rows meet old


def append(batch: Batch, old: Batch, key) -> Batch:
  del key
  return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), batch, old)


def within(batch: Batch, old: Batch, key) -> Batch:
  """Old rows that have weight take the places of random new ones.

  By a gather: on a CPU it takes a fifth of the time of scattering whole rows.
  """
  n, b = batch.weight.shape[0], old.weight.shape[0]
  place_b = jax.random.permutation(key, n)[:b]
  place_b = jnp.where(old.weight > 0, place_b, n)  # out of range: dropped
  from_B = jnp.arange(n).at[place_b].set(n + jnp.arange(b), mode="drop")
  return jax.tree.map(lambda x, y: jnp.concatenate([x, y])[from_B], batch, old)


def shares(
  trains: np.ndarray, stage, ratio, mode: str, last_only: bool = False
):
  """Of a step's rollouts, how many times their number a domain gets: f32[N].

  Domains of earlier stages share `ratio`; the stage's own have 1 ("appended":
  rollouts are added) or 1 - ratio ("within"), and 1 while none is earlier.
  """
  trains_SN, index_S = jnp.asarray(trains), jnp.arange(len(trains))
  past_S = index_S == stage - 1 if last_only else index_S < stage
  own_N = trains_SN[stage]
  old_N = jnp.any(trains_SN & past_S[:, None], axis=0) & ~own_N
  ratio = jnp.where(jnp.any(old_N), ratio, 0.0)
  rest = 1.0 - ratio if mode == "within" else 1.0
  share = lambda on_N: on_N / jnp.maximum(jnp.sum(on_N), 1)
  return rest * share(own_N) + ratio * share(old_N)
