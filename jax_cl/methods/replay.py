"""Experience replay: rows of earlier domains join every batch.

For a batch of B new rows, b = int(B * ratio) rows are drawn from the buffer,
shared evenly among earlier domains, and the loss is the weighted mean over all
of them. What is drawn depends on `strategy` (see `memory`):

  random | high_reward | recent | balanced

`kind` says how a stored row is learned from:
* `replay_bc`: cloned, advantage 1; only successes (reward > .5) are stored.
* `replay_pg`: the stored advantage times min(pi(a|s) / mu(a|s), clip), the
  truncated importance ratio (Espeholt et al. 2018, eq. 1); all rows are stored.
  A demonstration has mu = 1. The ratio of a forgotten action goes to 0, and
  its gradient with it: prefer `replay_bc` against forgetting.

Robins 1995; Rolnick et al. 2019, https://arxiv.org/abs/1811.11682 (CLEAR mixes
half and half; the two kinds are its two losses on old data).

Deviations: b counts rows (decisions), not episodes; a padding row counts in B.
`mode="within"` keeps the batch at B rows: the drawn rows take the places of
random new ones, which are lost. `replay_all_domains=False` draws from the
previous stage's domains alone. Until `min_buffer_size` rows of earlier domains
are held nothing is drawn, so stage 0 is that of `sequential`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_cl import memory, names
from jax_cl.methods.base import Method, task_grads
from jax_cl.types import Batch, Objective

OFF = {"ratio": 0.0}


def make(
  *,
  batch_size: int,
  ratio: float = 0.2,
  strategy: str = "random",
  kind: str = "replay_bc",
  mode: str = "appended",
  min_buffer_size: int = 20,
  replay_all_domains: bool = True,
  capacity: int = 1000,
  clip: float = 2.0,
) -> Method:
  """`capacity` is rows a domain; `batch_size` is the run's."""
  choose = memory.strategy(strategy)
  names.check("kind of replay", kind, ("replay_bc", "replay_pg"))
  names.check("mode of replay", mode, ("appended", "within"))
  if not 0 <= ratio <= 1:
    raise ValueError(f"replay ratio is {ratio}; it must be in [0, 1]")
  if ratio == 0:
    return Method()
  b = int(batch_size * ratio)
  if b == 0:
    raise ValueError(
      f"replay ratio {ratio} of {batch_size} rows is 0 rows: ask for "
      f"{1 / batch_size:.3g} or more, or for 0"
    )
  if capacity < 1:
    raise ValueError(f"replay capacity is {capacity}; it must be 1 or more")
  bc = kind == "replay_bc"
  join = append if mode == "appended" else within

  def store(obj, cl, p, batch: Batch, key):
    keep = batch.reward > 0.5 if bc else batch.weight > 0
    return memory.Items(rows=batch, keep=keep)

  def draw(cl, buffer, stage, key):
    domains = memory.earlier(buffer, stage, last_only=not replay_all_domains)
    return memory.sample(buffer, key, b, choose, domains, min_buffer_size)

  def grads(obj: Objective, cl, p, batch, mem, stage, key):
    old = jax.tree.map(lambda x: x[0], mem.rows)
    old = old._replace(
      adv=jnp.ones_like(old.adv) if bc else corrected(obj, p, old, clip)
    )
    joined = join(batch, old, jax.random.fold_in(key, 1))
    g, aux = task_grads(obj, cl, p, joined, mem, stage, key)
    return g, {**aux, "replay_ratio": jnp.sum(old.weight > 0) / batch_size}

  return Method(
    grads=grads,
    store=store,
    draw=draw,
    touch=memory.touch,
    report=lambda cl, buffer: memory.report(buffer),
    needs=frozenset({"memory"}),
    capacity=capacity,
  )


def corrected(obj: Objective, p, old: Batch, clip: float):
  """adv * min(prod_t pi(a_t|s_t) / mu(a_t|s_t), clip), no gradient: f32[B]."""
  gap_BT = old.mask * (obj.logp(p, old) - old.logp_old)
  ratio_B = jnp.exp(jnp.minimum(jnp.sum(gap_BT, axis=1), jnp.log(clip)))
  return old.adv * jax.lax.stop_gradient(ratio_B)


def append(batch: Batch, old: Batch, key) -> Batch:
  del key
  return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), batch, old)


def within(batch: Batch, old: Batch, key) -> Batch:
  """Old rows that have weight take the places of random new ones."""
  n, b = batch.weight.shape[0], old.weight.shape[0]
  place_b = jax.random.permutation(key, n)[:b]
  place_b = jnp.where(old.weight > 0, place_b, n)  # out of range: dropped
  return jax.tree.map(
    lambda x, y: x.at[place_b].set(y, mode="drop"), batch, old
  )
