"""Replay as a mixture of gradients: g = (1 - a) g_new + a g_old.

g_old is the gradient of the cloning loss on `items` stored rows, every
`frequency`-th update; in between, and while nothing is stored, g = g_new. This
is the gradient of (1 - a) L_new + a L_old: a weighs, whatever the numbers of
rows, where the ratio of `replay` counts them.

`schedule`: `constant` keeps a; `tasks` has a = (t - 1) / t in the t-th stage,
which weighs every task of the stream so far alike (`a` = 0 turns it off, too).

The defaults are the design's replay agent: a .5, 5 items, by importance.
Rolnick et al. 2019, https://arxiv.org/abs/1811.11682, mix half and half.

Deviations: only successes (reward > .5) are stored; with `strategy` importance
they are drawn in proportion to the root of their loss when last seen.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_cl import memory, names, tree
from jax_cl.methods import _replay
from jax_cl.methods.base import Method, task_grads

OFF = {"a": 0.0}
SCHEDULES = {
  "constant": lambda a, stage: jnp.float32(a),
  "tasks": lambda a, stage: jnp.where(a > 0, stage / (stage + 1.0), 0.0),
}


def make(
  *,
  a: float = 0.5,
  items: int = 5,
  frequency: int = 1,
  schedule: str = "constant",
  strategy: str = "importance",
  capacity: int = 1000,
) -> Method:
  """`capacity` is rows a domain."""
  choose = memory.strategy(strategy)
  names.check("schedule of gradient_replay", schedule, SCHEDULES)
  if not 0 <= a <= 1 or items < 1 or frequency < 1:
    raise ValueError(
      "gradient_replay needs a in [0, 1], items >= 1 and frequency >= 1; got "
      f"a {a}, items {items}, frequency {frequency}"
    )

  def grads(obj, cl, p, batch, mem, stage, key):
    k_new, k_old = jax.random.split(key)
    g, aux = task_grads(obj, cl, p, batch, mem, stage, k_new)
    old = _replay.cloned(_replay.rows(mem))
    on = (cl["updates"] % frequency == 0) & jnp.any(old.weight > 0)

    def replayed():
      g_old, _ = jax.grad(obj.loss, has_aux=True)(p, old, k_old)
      return g_old, _replay.surprisal(obj, p, old)

    nothing = lambda: (tree.zeros_like(p), jnp.zeros(items))
    g_old, loss_b = jax.lax.cond(on, replayed, nothing)
    share = jnp.where(on, SCHEDULES[schedule](a, stage), 0.0)
    g = jax.tree.map(lambda x, y: (1 - share) * x + share * y, g, g_old)
    aux |= {"priority": loss_b[None], "replayed": on[None, None]}
    return g, {**aux, "replay_share": share}

  def step(cl, p_tm1, p_t, g, aux, stage):
    return {"updates": cl["updates"] + 1}

  return _replay.remembering(
    init=lambda p, n_stages, key: {"updates": jnp.int32(0)},
    grads=grads,
    step=step,
    store=_replay.with_loss(_replay.successes),
    add=memory.insertion(strategy),
    draw=_replay.from_earlier(items, choose),
    capacity=capacity,
  )
