"""Avalanche 0.6.0's regularisers, said in our methods' terms.

Its estimators are not ours, so their functions stand here and take the places
of a method's own; the penalty, its gradient and the update are the method's.

  EWC     lambda sum F d^2, no 1/2. F: mean over minibatches (a short last one
          counts the same) of the squared gradient of the minibatch mean.
  SI      lambda/2 sum Omega d^2. The path takes the total gradient; what it
          gains is neither cut at 0 a stage nor bounded below:
          Omega = min(sum over stages of omega / (d^2 + xi), .001).
  MAS     lambda sum Omega d^2. Omega: mean over minibatches of the absolute
          gradient of the minibatch mean of ||f||^2; then .5 old + .5 new.
  LwF     alpha KL(old || new) at temperature 2, without T^2.

No bound on lambda F: `lr` is given as 0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jax_cl import tree
from jax_cl.methods import ewc, lwf, mas, online_ewc, sequential, si
from jax_cl.methods.base import Method


def methods(
  ewc_lambda: float = 10.0,
  si_lambda: float = 30.0,
  si_xi: float = 1e-7,
  mas_lambda: float = 0.01,
  lwf_alpha: float = 1.0,
  temperature: float = 2.0,
) -> dict[str, Method]:
  """By the names of the fixture."""
  twice = 2 * ewc_lambda
  return {
    "naive": sequential.make(),
    "ewc": ewc.make(lam=twice, lr=0.0)._replace(end=_ewc_end),
    "ewc_online": online_ewc.make(
      lam=twice, growth="constant", lr=0.0
    )._replace(end=_online_end),
    "si": _si(si.make(lam=si_lambda / 2, xi=si_xi, lr=0.0), si_xi),
    "mas": mas.make(lam=mas_lambda, lr=0.0)._replace(end=_mas_end),
    "lwf": lwf.make(lam=lwf_alpha / temperature**2, temperature=temperature),
  }


def fused_sgd(lr: float) -> optax.GradientTransformation:
  """theta - lr g rounded once, as torch's fused multiply-add does.

  update.py adds -lr g, rounded by itself, to theta. The step here is the
  difference of two neighbours, which is exact, so that theta plus it is again
  what was rounded once.
  """

  def update(updates, state, params=None):
    step = lambda x, g: (x - lr * g) - x
    return jax.tree.map(step, params, updates), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _mean(f, batches):
  """Mean over minibatches of f(batch) -> tree, added up in order, op by op.

  Inside one compiled loop sums may be fused into fewer roundings, and a ReLU
  kink can turn on the last bit.
  """
  f = jax.jit(f)
  total = f(batches[0])
  for batch in batches[1:]:
    total = jax.tree.map(jnp.add, total, f(batch))
  return jax.tree.map(lambda t: t / len(batches), total)


def _fisher(obj, p, batches, key):
  def square(batch):
    g = jax.grad(lambda q: obj.loss(q, batch, key)[0])(p)
    return jax.tree.map(jnp.square, g)

  return _mean(square, batches)


def _ewc_end(obj, cl, p, batches, stage, key):
  return ewc.consolidate(cl, p, _fisher(obj, p, batches, key), stage), p


def _online_end(obj, cl, p, batches, stage, key):
  return online_ewc.consolidate(cl, p, _fisher(obj, p, batches, key)), p


def _mas_end(obj, cl, p, batches, stage, key):
  def sensitivity(batch):
    mean = lambda q: (
      jnp.sum(batch.weight * mas.norm(obj, q, batch)) / jnp.sum(batch.weight)
    )
    return jax.tree.map(jnp.abs, jax.grad(mean)(p))

  old = jnp.where(stage == 0, 0.0, 0.5)
  blend = lambda a, b: old * a + (1 - old) * b
  new = _mean(sensitivity, batches)
  new = jax.tree.map(blend, cl["importance"], new)
  return {"importance": new, "anchor": p}, p


def _si(method: Method, xi: float) -> Method:
  def init(p, n_stages, key):
    cl = method.init(p, n_stages, key)
    return {**cl, "sum": tree.zeros_like(p)}

  def start(cl, p, stage, key):
    gain = lambda w, a, b: w / ((b - a) ** 2 + xi)
    gain = jax.tree.map(gain, cl["omega"], cl["anchor"], p)
    total = tree.axpy(1.0, cl["sum"], gain)
    bounded = jax.tree.map(lambda x: jnp.minimum(x, 1e-3), total)
    return {**si.consolidate(cl, p, bounded), "sum": total}, p

  def step(cl, p_tm1, p_t, g, aux, stage):
    return method.step(cl, p_tm1, p_t, g, {**aux, "task_grads": g}, stage)

  return method._replace(init=init, start=start, step=step)
