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

Deviations: F is capped so that lr * lambda_k * F <= 1, beyond which gradient
descent on the penalty diverges; with Adam the cap is only a bound.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_cl import names, tree
from jax_cl.losses import fisher as estimators
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
) -> Method:
  """`samples` is how many rows F is a mean of; `lr` is the run's."""
  estimate = _pick("fisher", fisher, FISHER)
  grow = _pick("growth", growth, GROWTH)
  if lam < 0 or not 0 <= gamma <= 1 or samples < 1:
    raise ValueError(
      f"online_ewc needs lam >= 0, gamma in [0, 1], samples >= 1; got "
      f"lam {lam}, gamma {gamma}, samples {samples}"
    )

  def init(p, n_stages, key):
    zeros = tree.zeros_like(p)
    return {"fisher": zeros, "anchor": zeros, "stages": jnp.float32(0)}

  def pull(obj, cl, p, batch, stage, key):
    strength = lam * grow(cl["stages"])
    cap = 1 / jnp.maximum(lr * strength, 1e-30)
    F = jax.tree.map(lambda f: jnp.minimum(f, cap), cl["fisher"])
    return strength * ewc_penalty(F, cl["anchor"], p)

  def end(obj, cl, p, batches, stage, key):
    rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batches)
    k_rows, key = jax.random.split(key)
    lot = jax.random.uniform(k_rows, rows.weight.shape)
    first = jnp.argsort(jnp.where(rows.weight > 0, lot, 2.0))[:samples]
    rows = jax.tree.map(lambda x: x[first], rows)
    F = estimate(obj, p, rows, key)
    return {
      "fisher": tree.axpy(gamma, cl["fisher"], F),
      "anchor": p,
      "stages": cl["stages"] + 1,
    }, p

  def report(cl, buffer):
    leaves = jax.tree.leaves(cl["fisher"])
    return {
      "fisher_trace": sum(jnp.sum(x) for x in leaves),
      "fisher_max": jnp.max(jnp.stack([jnp.max(x) for x in leaves])),
      "lambda": lam * grow(cl["stages"]),
    }

  return Method(
    init=init, grads=penalty(pull), end=end, report=report, rows=samples
  )


def ewc_penalty(fisher, anchor, p):
  """0.5 * sum_i F_i (theta_i - theta*_i)^2, nats; the caller has lambda."""
  gap = jax.tree.map(lambda f, a, x: f * (x - a) ** 2, fisher, anchor, p)
  return 0.5 * sum(jnp.sum(x) for x in jax.tree.leaves(gap))


def _pick(what: str, name: str, known: dict):
  names.check(what, name, known)
  return known[name]
