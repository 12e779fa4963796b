"""Synaptic intelligence: importance read off the path that training took.

  omega_i   = sum over the stage's steps of -g_i * (theta_i,t - theta_i,t-1)
  Omega_i  += relu(omega_i) / ((theta_i,end - theta_i,start)^2 + xi)
  L         = L_task + lambda * sum_i Omega_i (theta_i - theta*_i)^2

g is the gradient of the task's loss alone, taken before the step, so that the
omega_i of a stage sum to the loss that training has taken off, up to the size
of the steps. theta* is the last stage's end.

Zenke et al. 2017, https://arxiv.org/abs/1703.04200, eqs. 3 to 5; lambda is
their c. At a quadratic loss and small steps Omega is half its curvature, so
lambda 1 pulls as the old loss itself would.

Deviations: the Omega of a stage is added when the next one starts, so nothing
is asked of the rows. It is capped, lr * 2 lambda Omega <= 1, beyond which
gradient descent on the penalty diverges. A noisy gradient adds
lr * variance to every omega, which is why unused weights are held, too. LoRA
factors are weights like others here: the gradient of their product is not on
the path.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_cl import tree
from jax_cl.methods import _quadratic
from jax_cl.methods.base import Method, penalty

OFF = {"lam": 0.0}


def make(*, lr: float, lam: float = 1.0, xi: float = 1e-3) -> Method:
  """`xi` keeps weights that did not move from being held; `lr` is the run's."""
  if lam < 0 or xi <= 0:
    raise ValueError(f"si needs lam >= 0 and xi > 0; got lam {lam}, xi {xi}")

  def init(p, n_stages, key):
    zeros = tree.zeros_like(p)
    return {"omega": zeros, "importance": zeros, "anchor": zeros}

  def start(cl, p, stage, key):
    gain = importance(cl["omega"], cl["anchor"], p, xi)
    # At stage 0 nothing was walked, and there is no anchor yet.
    return consolidate(cl, p, tree.axpy(1.0, cl["importance"], gain)), p

  def pull(obj, cl, p, batch, stage, key):
    Omega = _quadratic.cap(cl["importance"], lr, 2 * lam)
    return lam * _quadratic.pull(Omega, cl["anchor"], p)

  def step(cl, p_tm1, p_t, g, aux, stage):
    walk = lambda w, g, a, b: w - g * (b - a)
    omega = jax.tree.map(walk, cl["omega"], aux["task_grads"], p_tm1, p_t)
    return {**cl, "omega": omega}

  return Method(
    init=init,
    start=start,
    grads=penalty(pull),
    step=step,
    report=lambda cl, buffer: _quadratic.report(cl["importance"]),
  )


def importance(omega, p_start, p_end, xi: float):
  """relu(omega) / ((theta_end - theta_start)^2 + xi)."""
  share = lambda w, a, b: jax.nn.relu(w) / ((b - a) ** 2 + xi)
  return jax.tree.map(share, omega, p_start, p_end)


def consolidate(cl, p, total):
  """A new path begins here, with the importance of all before it."""
  omega = jax.tree.map(jnp.zeros_like, cl["omega"])
  return {"omega": omega, "importance": total, "anchor": p}
