"""PackNet: each stage keeps the weights it needs most and frees the others.

A stage trains all free weights. After `at` of its steps it keeps, in every
matrix, a share of the free weights, those of largest |w|, for itself for ever;
the others become 0 and free, and the rest of the stage retrains the kept ones
without them. In stage s the policy acts with the weights of stages <= s.

The *updates* are masked, not the gradients: weight decay and momentum move a
weight whose gradient is 0. What a stage owns does not move by one bit, so
nothing is forgotten, as long as the stage is told at test time.

Mallya & Lazebnik 2018, https://arxiv.org/abs/1711.05769, section 3.

Deviations: `keep` is a share of the free weights (theirs: .25 or .5 of them);
by default 1 / (stages left), which gives every stage as many, the last one
included, which prunes nothing. Leaves that are no matrix (biases, norms) are
learned in stage 0 alone, as theirs are.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_cl.methods.base import Method

OFF = None  # a stage that owned nothing would have learned nothing
FREE = -1


def make(*, keep: float = 0.0, at: float = 0.6) -> Method:
  """`keep` 0: an equal share a stage; `at`: when in a stage it is taken."""
  if not 0 <= keep <= 1 or not 0 < at <= 1:
    raise ValueError(
      f"packnet needs keep in [0, 1] and at in (0, 1]; got keep {keep}, at {at}"
    )

  def init(p, n_stages, key):
    free = lambda x: jnp.full(x.shape, FREE, jnp.int16)
    return {
      "owner": jax.tree.map(free, p),  # the stage that keeps it, or FREE
      "open": jnp.int32(0),  # the stage that trains what is free, or -1
      "n_stages": jnp.int32(n_stages),
    }

  def start(cl, p, stage, key):
    return {**cl, "open": stage}, p

  def view(cl, p, stage):
    open_ = stage == cl["open"]

    def seen(x, owner):
      free = owner == FREE
      return jnp.where(jnp.where(free, open_, owner <= stage), x, 0)

    return jax.tree.map(seen, p, cl["owner"])

  def update(cl, p, u, stage):
    open_ = stage == cl["open"]

    def mine(x, owner):
      return jnp.where(jnp.where(open_, owner == FREE, owner == stage), x, 0)

    return jax.tree.map(mine, u, cl["owner"])

  def prune(cl, p, stage, key):
    share = keep if keep else 1 / (cl["n_stages"] - stage)
    owner = jax.tree.map(lambda x, o: claim(x, o, share, stage), p, cl["owner"])
    zeroed = lambda x, o: jnp.where(o == FREE, 0, x)
    return {**cl, "owner": owner, "open": jnp.int32(-1)}, jax.tree.map(
      zeroed, p, owner
    )

  def report(cl, buffer):
    leaves = jax.tree.leaves(cl["owner"])
    free = sum(jnp.sum(o == FREE) for o in leaves)
    return {"free_share": free / sum(o.size for o in leaves)}

  return Method(
    init=init,
    start=start,
    view=view,
    update=update,
    phases=((at, prune),),
    report=report,
    needs=frozenset({"stage_at_test"}),
  )


def claim(x, owner, share, stage):
  """Owners once `stage` has taken its share of the free weights of a leaf."""
  free = owner == FREE
  if x.ndim < 2:
    return jnp.where(free, stage, owner).astype(owner.dtype)
  size = jnp.where(free, jnp.abs(x), -1).ravel()
  rank = jnp.argsort(jnp.argsort(-size, stable=True)).reshape(x.shape)
  n = jnp.round(share * jnp.sum(free)).astype(rank.dtype)
  return jnp.where(free & (rank < n), stage, owner).astype(owner.dtype)
