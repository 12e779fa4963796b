"""KL to the policy before the stage, on stored prompts of earlier domains.

  L = L_task + lambda * mean over stored s of KL(pi_old(. | s) || pi(. | s))

pi_old is the policy at the start of the stage, and s a state (a prompt, a row)
of a domain that an earlier stage trained on, by lot from the memory. The KL on
such prompts is what predicts forgetting; on prompts of the current domain
(`lwf`) it does not.

Function-space regularisation: Benjamin et al. 2019,
https://arxiv.org/abs/1805.08289 (with the KL in place of their L2 distance);
of `der` it differs in the target, the last stage's policy, where DER's is the
policy at the moment the row was stored.

Deviations: the weights of pi_old are kept (one copy), not its answers, so that
rows are stored without them. Rows are kept whatever their reward: only their
states are read. Where the learner gives its largest logits alone, pi_old's are
what is compared (`_logits`).
"""

from __future__ import annotations

import jax

from jax_cl import memory, tree
from jax_cl.methods import _logits
from jax_cl.methods.base import Method, task_grads
from jax_cl.types import Batch, Objective

OFF = {"lam": 0.0}


def make(
  *,
  batch_size: int,
  lam: float = 1.0,
  ratio: float = 1.0,
  capacity: int = 1000,
  min_buffer_size: int = 20,
) -> Method:
  """int(batch_size * ratio) prompts a step; `capacity` is rows a domain."""
  b = int(batch_size * ratio)
  if lam < 0 or b < 1 or capacity < 1:
    raise ValueError(
      f"kl_previous needs lam >= 0, capacity >= 1 and ratio >= "
      f"{1 / batch_size:.3g} (a row of {batch_size}); got lam {lam}, capacity "
      f"{capacity}, ratio {ratio}"
    )

  def store(obj, cl, p, batch: Batch, key):
    return memory.Items(rows=batch, keep=batch.weight > 0)

  def draw(cl, buffer, stage, key):
    domains = memory.earlier(buffer, stage)
    return memory.sample(
      buffer, key, b, memory.random, domains, min_buffer_size
    )

  def grads(obj: Objective, cl, p, batch, mem, stage, key):
    g, aux = task_grads(obj, cl, p, batch, mem, stage, key)
    old = jax.tree.map(lambda x: x[0], mem.rows)
    kept = jax.lax.stop_gradient(_logits.keep(obj, cl["teacher"], old))
    value, g_old = jax.value_and_grad(
      lambda q: _logits.divergence(obj, q, old, kept)
    )(p)
    return tree.axpy(lam, g_old, g), {**aux, "kl_previous": value}

  return Method(
    init=lambda p, n_stages, key: {"teacher": tree.zeros_like(p)},
    start=lambda cl, p, stage, key: ({"teacher": p}, p),
    grads=grads,
    store=store,
    draw=draw,
    touch=memory.touch,
    report=lambda cl, buffer: memory.report(buffer),
    needs=frozenset({"memory", "outputs"}),
    capacity=capacity,
  )
