"""Reptile on a stream: slow weights that go part of the way of the fast ones.

After every `inner` steps of the optimiser, fast weights theta and slow phi:

  phi <- phi + eps (theta - phi);  theta <- phi

which, to second order, follows the gradient and raises the inner product of
the gradients of successive batches: steps that help one batch help the other.

Nichol et al. 2018, https://arxiv.org/abs/1803.02999, algorithm 1. On a stream
with a memory it is the outer loop of Riemer et al. 2019 (MER),
https://arxiv.org/abs/1810.11910: `cl.name = "replay+reptile"`.

Deviations: an inner loop is the next `inner` batches of the stream, not a task
drawn anew; what is left of one at the end of a stage is brought in then. The
optimiser's moments go on over the jumps.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_cl.methods.base import Method

OFF = {"eps": 1.0}


def make(*, eps: float = 0.3, inner: int = 100) -> Method:
  """`eps` is the outer step, `inner` the number of steps between two.

  A short `inner` (their 5 to 10) only slows learning down here; with many the
  slow weights stay near earlier stages.
  """
  if not 0 < eps <= 1 or inner < 1:
    raise ValueError(
      f"reptile needs eps in (0, 1] and inner >= 1; got eps {eps}, inner "
      f"{inner}"
    )
  if eps == 1:
    return Method()
  back = lambda phi, theta: (1 - eps) * (phi - theta)

  def init(p, n_stages, key):
    return {"slow": p, "steps": jnp.int32(0)}

  def start(cl, p, stage, key):
    return {"slow": p, "steps": jnp.int32(0)}, p

  def jumps(cl):
    return (cl["steps"] + 1) % inner == 0

  def update(cl, p, u, stage):
    jump = jumps(cl)
    add = lambda phi, x, d: d + jnp.where(jump, back(phi, x + d), 0)
    return jax.tree.map(add, cl["slow"], p, u)

  def step(cl, p_tm1, p_t, g, aux, stage):
    jump = jumps(cl)
    slow = jax.tree.map(lambda a, b: jnp.where(jump, b, a), cl["slow"], p_t)
    return {"slow": slow, "steps": cl["steps"] + 1}

  def settle(cl, p, stage, key):
    p = jax.tree.map(lambda x, phi: x + back(phi, x), p, cl["slow"])
    return {**cl, "slow": p}, p

  return Method(
    init=init, start=start, update=update, step=step, phases=((1.0, settle),)
  )
