"""Progressive columns: new weights each stage, with laterals to the frozen.

  W_s = V_s + sum_{k < s} c_sk V_k

V_s (the column) and the scalars c_sk (one a leaf and earlier column) are
learned in stage s alone, from the starting weights and from 0. Nothing is
forgotten; what earlier columns know can be used and is never changed. The
stage must be told at test time.

Rusu et al. 2016, https://arxiv.org/abs/1606.04671, eq. 2 and 3.

Deviation: their laterals carry the hidden activations of earlier columns into
the new one through adapters of their own. A method that knows a tree and no
layers can only reuse earlier columns' weights on the new column's activations,
by a learned share of each; in a net of one layer both are the same thing.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_cl.methods import _bank
from jax_cl.methods.base import Method
from jax_cl.types import Array

OFF = None  # a new column is no matter of strength


class Column(NamedTuple):
  own: Array  # tree like the learner's
  laterals: Array  # tree like it, leaves f32[N]: the share of each column


def make() -> Method:
  def extend(p, n_stages, key):
    none = lambda x: jnp.zeros(n_stages, x.dtype)
    return Column(p, jax.tree.map(none, p))

  def view(cl, p, stage):
    column = _bank.seen(cl, p, stage)
    earlier_N = jnp.arange(len(jax.tree.leaves(p.laterals)[0])) < stage

    def add(v, c_N, v_N):
      return v + jnp.tensordot(jnp.where(earlier_N, c_N, 0), v_N, axes=1)

    return jax.tree.map(add, column.own, column.laterals, cl.stages.own)

  return Method(
    extend=extend,
    init=lambda p, n_stages, key: _bank.init(p, n_stages),
    start=lambda cl, p, stage, key: _bank.swap(cl, p, stage),
    view=view,
    needs=frozenset({"stage_at_test"}),
  )
