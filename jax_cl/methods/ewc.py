"""EWC with an anchor of its own for every stage.

  L = L_task + lambda / 2 * sum_{k < stage} sum_i F_ki (theta_i - theta*_ki)^2

F_k is the Fisher information of the policy at the end of stage k, on rows of
that stage, and theta*_k its weights then.

Kirkpatrick et al. 2017, https://arxiv.org/abs/1612.00796, eq. 3 and section
2.1 (several tasks: a penalty for each).

State is 2 n_stages copies of the weights; `online_ewc` has 2 and differs in
where it pulls to: the sum of the quadratics here has its minimum at the
F-weighted mean of the anchors, there it is at the latest weights.
`fisher`, `samples` and `lora` are those of `online_ewc`.

Deviations: the F_k are capped together, lr * lambda * sum_k F_k <= 1, beyond
which gradient descent on the penalty diverges. The paper estimates F from
labels; `fisher="empirical"` does, the default draws them from the policy.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_cl import names
from jax_cl.methods import _adapters, _quadratic
from jax_cl.methods.base import Method, penalty
from jax_cl.methods.online_ewc import FISHER

OFF = {"lam": 0.0}


def make(
  *,
  lr: float,
  lam: float = 1.0,
  fisher: str = "sampled",
  samples: int = 100,
  lora: str = "product",
) -> Method:
  """`samples` is how many rows F_k is a mean of; `lr` is the run's."""
  names.check("fisher", fisher, FISHER)
  space = _adapters.space(lora)
  estimate = FISHER[fisher]
  if lam < 0 or samples < 1:
    raise ValueError(
      f"ewc needs lam >= 0 and samples >= 1; got lam {lam}, samples {samples}"
    )

  def init(p, n_stages, key):
    bank = lambda x: jnp.zeros((n_stages, *x.shape), x.dtype)
    return {
      "fisher": jax.tree.map(bank, space.zeros(p)),
      "anchor": jax.tree.map(bank, p),
    }

  def pull(obj, cl, p, batch, stage, key):
    F = capped(cl["fisher"], lr, lam)
    now, then = space.product(p), jax.vmap(space.product)(cl["anchor"])
    each = jax.vmap(_quadratic.pull, in_axes=(0, 0, None))(F, then, now)
    return 0.5 * lam * jnp.sum(each)

  def end(obj, cl, p, batches, stage, key):
    k_rows, key = jax.random.split(key)
    rows = _quadratic.by_lot(batches, samples, k_rows)
    F = space.pack(estimate(*space.at(obj, p), rows, key))
    return consolidate(cl, p, F, stage), p

  def report(cl, buffer):
    total = jax.tree.map(lambda f: jnp.sum(f, axis=0), cl["fisher"])
    return _quadratic.report(total, "fisher")

  return Method(
    init=init, grads=penalty(pull), end=end, report=report, rows=samples
  )


def consolidate(cl, p, F, stage):
  """Writes F and the weights into the stage's own places."""
  put = lambda bank, x: jax.tree.map(lambda b, y: b.at[stage].set(y), bank, x)
  return {"fisher": put(cl["fisher"], F), "anchor": put(cl["anchor"], p)}


def capped(bank, lr: float, lam: float):
  """F_k, all shrunk alike where lr * lam * sum_k F_k exceeds 1."""

  def node(f):
    outer = _quadratic.is_outer(f)
    total = jnp.sum(f.max if outer else f, axis=0)  # of maxima: a bound
    share = _quadratic.cap(total, lr, lam) / jnp.maximum(total, 1e-30)
    return _quadratic.shrunk(f, share[None]) if outer else f * share[None]

  return jax.tree.map(node, bank, is_leaf=_quadratic.is_outer)
