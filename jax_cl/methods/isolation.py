"""Parameter isolation: each weight is learned in one stage, drawn by lot.

Before training every weight is given to one of the N stages, uniformly. Stage
s moves its own weights alone; in stage s the policy acts with what stages <= s
have learned and starting values elsewhere. Nothing is forgotten, as long as
the stage is told at test time; what it costs is room: 1/N of the net a stage.

The fixed-network family of De Lange et al. 2021,
https://arxiv.org/abs/1909.08383, section 3.3, with the lot of Masse et al.
2018 (XdG), https://arxiv.org/abs/1802.01569.

Deviations: XdG gates units, which a method that knows no layers cannot; here
single weights are drawn. `shared` is the share of weights that every stage
may move; with some, a little is forgotten, and all (1) is `sequential`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_cl.methods.base import Method

OFF = {"shared": 1.0}
SHARED = -1


def make(*, shared: float = 0.0) -> Method:
  if not 0 <= shared <= 1:
    raise ValueError(f"isolation's shared is {shared}; it must be in [0, 1]")
  if shared == 1:
    return Method()

  def init(p, n_stages, key):
    leaves, treedef = jax.tree.flatten(p)
    keys = jax.random.split(key, len(leaves))
    owners = [lot(k, x.shape, n_stages) for k, x in zip(keys, leaves)]
    return {"owner": jax.tree.unflatten(treedef, owners), "first": p}

  def lot(key, shape, n_stages):
    """The stage that may move each weight, or SHARED: int16 like the leaf."""
    k_stage, k_shared = jax.random.split(key)
    stage = jax.random.randint(k_stage, shape, 0, n_stages, jnp.int16)
    common = jax.random.uniform(k_shared, shape) < shared
    return jnp.where(common, jnp.int16(SHARED), stage)

  def view(cl, p, stage):
    seen = lambda x, owner, x0: jnp.where(owner <= stage, x, x0)
    return jax.tree.map(seen, p, cl["owner"], cl["first"])

  def update(cl, p, u, stage):
    def mine(x, owner):
      return jnp.where((owner == stage) | (owner == SHARED), x, 0)

    return jax.tree.map(mine, u, cl["owner"])

  return Method(
    init=init, view=view, update=update, needs=frozenset({"stage_at_test"})
  )
