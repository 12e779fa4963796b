"""MAS: what the policy's outputs are sensitive to is important.

  Omega_i += mean over rows of |d ||f(x)||^2 / d theta_i|
  L        = L_task + lambda * sum_i Omega_i (theta_i - theta*_i)^2

f are the logits. No label is read, so any rows of the stage will do.

Aljundi et al. 2018, https://arxiv.org/abs/1711.09601, eqs. 2 to 4.

On LoRA factors Omega and the distance are those of the product (`lora` is
`online_ewc`'s option).

Deviations: options that are not legal (logit -1e9) are left out of the norm, as
are all but the largest where the learner gives no others (`agent.top_k`), and
only positions where the policy chose count. Omega is capped,
lr * 2 lambda Omega <= 1, beyond which gradient descent on the penalty diverges.
||f||^2 changes when a constant is added to all logits, which no policy can
tell apart; it is the paper's all the same.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_cl import tree
from jax_cl.losses import fisher
from jax_cl.methods import _adapters, _logits, _quadratic
from jax_cl.methods.base import Method, penalty
from jax_cl.types import Batch, Objective

OFF = {"lam": 0.0}


def make(
  *, lr: float, lam: float = 0.1, samples: int = 100, lora: str = "product"
) -> Method:
  """`samples` is how many rows Omega is a mean of; `lr` is the run's."""
  space = _adapters.space(lora)
  if lam < 0 or samples < 1:
    raise ValueError(
      f"mas needs lam >= 0 and samples >= 1; got lam {lam}, samples {samples}"
    )

  def init(p, n_stages, key):
    return {"importance": space.zeros(p), "anchor": tree.zeros_like(p)}

  def pull(obj, cl, p, batch, stage, key):
    Omega = _quadratic.cap(cl["importance"], lr, 2 * lam)
    anchor = space.product(cl["anchor"])
    return lam * _quadratic.pull(Omega, anchor, space.product(p))

  def end(obj, cl, p, batches, stage, key):
    rows = _quadratic.by_lot(batches, samples, key)
    gain = space.pack(sensitivity(*space.at(obj, p), rows))
    Omega = tree.axpy(1.0, cl["importance"], gain)
    return {"importance": Omega, "anchor": p}, p

  return Method(
    init=init,
    grads=penalty(pull),
    end=end,
    report=lambda cl, buffer: _quadratic.report(cl["importance"]),
    needs=frozenset({"outputs"}),
    rows=samples,
  )


def sensitivity(obj: Objective, p, rows: Batch):
  """|d ||f||^2 / d theta|, a mean over the rows that have weight."""

  def row(one: Batch):
    return jax.tree.map(jnp.abs, jax.grad(lambda q: norm(obj, q, one)[0])(p))

  return fisher.mean_over_rows(row, rows)


def norm(obj: Objective, p, batch: Batch):
  """||f||^2 of each row, f32[B]: legal options at chosen positions."""
  f_BTV = _logits.keep(obj, p, batch)["z"]
  square_BTV = jnp.where(f_BTV > _logits.LEGAL, f_BTV, 0.0) ** 2
  return jnp.sum(batch.mask[:, :, None] * square_BTV, axis=(1, 2))
