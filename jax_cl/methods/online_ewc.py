"""Online EWC: a quadratic pull to the last stage's weights, by importance.

  L = L_task + lambda_k / 2 * sum_i F_i (theta_i - theta*_i)^2

After each stage F <- gamma F + F_stage and theta* <- theta: one anchor, the
latest, with the Fisher information of all stages before it.

Kirkpatrick et al. 2017, https://arxiv.org/abs/1612.00796, eq. 3; the online
form is Schwarz et al. 2018, https://arxiv.org/abs/1805.06370, with Huszar's
correction (https://arxiv.org/abs/1712.03847): the anchor is the latest one.

lambda_k after k stages: `constant` lam, `linear` lam k, `adaptive` lam sqrt(k).
`fisher` is one of three estimators of the policy's own Fisher information
(`losses.fisher`), which differ in size, so lam does not travel between them.

On LoRA factors F and the distance are those of the product A B, which alone
acts (`_adapters`); of each F are kept the sums of rows and of columns.
`lora="product_full"` keeps all of it, as large as the full matrices;
`lora="factors"` takes A and B as any other weights, and depends on how A B is
split.

Deviations: F is capped so that lr * lambda_k * F <= 1, beyond which gradient
descent on the penalty diverges; with Adam, and on a product, the cap is only a
bound.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_cl import names, tree
from jax_cl.losses import fisher as estimators
from jax_cl.methods import _adapters, _quadratic
from jax_cl.methods.base import Method, penalty

OFF = {"lam": 0.0}
FISHER = {
  f.__name__: f
  for f in (estimators.exact, estimators.sampled, estimators.empirical)
}
GROWTH = {
  "constant": lambda k: jnp.minimum(k, 1.0),
  "linear": lambda k: k,
  "adaptive": jnp.sqrt,
}


def make(
  *,
  lr: float,
  lam: float = 1.0,
  gamma: float = 1.0,
  growth: str = "adaptive",
  fisher: str = "sampled",
  samples: int = 100,
  lora: str = "product",
) -> Method:
  """`samples` is how many rows F is a mean of; `lr` is the run's."""
  names.check("fisher", fisher, FISHER)
  names.check("growth", growth, GROWTH)
  space = _adapters.space(lora)
  estimate, grow = FISHER[fisher], GROWTH[growth]
  if lam < 0 or not 0 <= gamma <= 1 or samples < 1:
    raise ValueError(
      f"online_ewc needs lam >= 0, gamma in [0, 1], samples >= 1; got "
      f"lam {lam}, gamma {gamma}, samples {samples}"
    )

  def init(p, n_stages, key):
    return {
      "fisher": space.zeros(p),
      "anchor": tree.zeros_like(p),
      "stages": jnp.float32(0),
    }

  def pull(obj, cl, p, batch, stage, key):
    strength = lam * grow(cl["stages"])
    F = _quadratic.cap(cl["fisher"], lr, strength)
    anchor = space.product(cl["anchor"])
    return strength * ewc_penalty(F, anchor, space.product(p))

  def end(obj, cl, p, batches, stage, key):
    k_rows, key = jax.random.split(key)
    rows = _quadratic.by_lot(batches, samples, k_rows)
    F = space.pack(estimate(*space.at(obj, p), rows, key))
    return consolidate(cl, p, F, gamma), p

  def report(cl, buffer):
    known = _quadratic.report(cl["fisher"], "fisher")
    return {**known, "lambda": lam * grow(cl["stages"])}

  return Method(
    init=init, grads=penalty(pull), end=end, report=report, rows=samples
  )


def consolidate(cl, p, F, gamma: float = 1.0):
  """F <- gamma F + F_stage, and the anchor moves here."""
  F = tree.axpy(gamma, cl["fisher"], F)
  return {"fisher": F, "anchor": p, "stages": cl["stages"] + 1}


def ewc_penalty(fisher, anchor, p):
  """0.5 * sum_i F_i (theta_i - theta*_i)^2, nats; the caller has lambda."""
  return 0.5 * _quadratic.pull(fisher, anchor, p)
