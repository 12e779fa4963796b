"""Diagonal Fisher information of a policy: three estimators, one signature.

F_i = E_rows[ sum_t E_{a ~ pi}[ (d log pi(a | s_t) / d theta_i)^2 ] ], nats^2,
a mean over the rows that have weight. Never weighted by the advantage: F tells
how the policy's distribution moves, not how good it is.

The three differ in the inner expectation, and their sizes differ too (Kunstner
et al. 2019, https://arxiv.org/abs/1905.12558), so a lambda belongs to its
estimator:

* `exact`: all actions, weighted by pi. V backward passes a row.
* `sampled`: one action a position drawn from pi. Unbiased. From an `out` that
  gives the largest logits alone it is drawn among those, which leaves out what
  pi has elsewhere.
* `empirical`: the recorded action, biased wherever pi is not the sampler.

Rows are taken one after another (`lax.map`), so memory is that of one row's
gradient (times V for `exact`). Positions of one row are told apart by random
signs: E[(sum_t e_t g_t)^2] = sum_t g_t^2 with e_t = +-1.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jax_cl.types import Batch, Objective

PyTree = Any


def exact(obj: Objective, p: PyTree, batch: Batch, key) -> PyTree:
  """sum_a pi_a (d log pi_a)^2 for every position of every row."""
  del key
  if isinstance(jax.eval_shape(obj.out, p, batch), tuple):
    raise ValueError(
      "the exact Fisher information wants all logits, and this agent gives its "
      "largest alone: choose fisher 'sampled', or set agent.top_k to 0"
    )

  def row(one: Batch) -> PyTree:
    log_pi = lambda q: jax.nn.log_softmax(obj.out(q, one)[0])
    pi_TV = jnp.exp(log_pi(p)) * one.mask[0][:, None]
    scores = jax.jacrev(log_pi)(p)  # leaves [T, V, ...]
    return jax.tree.map(lambda s: jnp.tensordot(pi_TV, s**2, axes=2), scores)

  return mean_over_rows(row, batch)


def sampled(obj: Objective, p: PyTree, batch: Batch, key) -> PyTree:
  """(d log pi_a)^2 with a drawn from pi."""
  k_action, k_sign = jax.random.split(key)
  out = obj.out(p, batch)
  z_BTK, ids_BTK = out if isinstance(out, tuple) else (out, None)
  action_BT = jax.random.categorical(k_action, z_BTK)
  if ids_BTK is not None:
    at_BT1 = action_BT[..., None]
    action_BT = jnp.take_along_axis(ids_BTK, at_BT1, axis=-1)[..., 0]
  batch = batch._replace(action=action_BT.astype(batch.action.dtype))
  return empirical(obj, p, batch, k_sign)


def empirical(obj: Objective, p: PyTree, batch: Batch, key) -> PyTree:
  """(d log pi_a)^2 of the recorded action."""
  sign_BT = jax.random.rademacher(key, batch.mask.shape, jnp.float32)
  if batch.mask.shape[1] == 1:
    sign_BT = jnp.ones_like(sign_BT)
  signed = batch._replace(mask=batch.mask * sign_BT)

  def row(one: Batch) -> PyTree:
    score = jax.grad(lambda q: jnp.sum(one.mask * obj.logp(q, one)))(p)
    return jax.tree.map(jnp.square, score)

  return mean_over_rows(row, signed)


def mean_over_rows(row, batch: Batch) -> PyTree:
  """Weighted mean of `row` (a batch of one row -> tree) over the batch."""

  def add(total, one):
    one = jax.tree.map(lambda x: x[None], one)
    w = one.weight[0]
    return jax.tree.map(lambda t, f: t + w * f, total, row(one)), None

  first = jax.tree.map(lambda x: x[:1], batch)
  zeros = jax.tree.map(
    lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(row, first)
  )
  total, _ = jax.lax.scan(add, zeros, batch)
  count = jnp.maximum(jnp.sum(batch.weight), 1e-8)
  return jax.tree.map(lambda t: t / count, total)
