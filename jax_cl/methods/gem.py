"""GEM: the step nearest to g that raises no earlier domain's loss.

  min |g~ - g|^2   so that   g~ . g_k >= 0   for every earlier domain k

with g_k the gradient of the cloning loss on int(B * ratio) rows of domain k.
The dual has one variable a domain, over the matrix G of rows g_k:

  min_v  v' G G' v / 2 + (G g)' v   so that   v_k >= margin;   g~ = g + G' v

Where no g . g_k is negative, g~ = g. A margin above 0 leans towards the memory.

Lopez-Paz & Ranzato 2017, https://arxiv.org/abs/1706.08840, eqs. 11 and 12; the
margin is their gamma.

Deviations: the dual is solved by coordinate descent (Hildreth 1957), which
needs no 1e-3 on the diagonal, as their solver does: g_k of small norm count in
full. A domain's gradient is of rows drawn anew, not of all that it has stored.
Successes alone (reward > .5) are stored. A step costs one gradient a domain of
the stream, in every stage. At ratio 0 no domain is asked.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_cl import memory
from jax_cl.methods import _replay
from jax_cl.methods.base import Method, task_grads

OFF = {"ratio": 0.0}
SWEEPS, TOLERANCE = 500, 1e-6


def make(
  *,
  batch_size: int,
  ratio: float = 1.0,
  margin: float = 0.5,
  capacity: int = 1000,
) -> Method:
  """`capacity` is rows a domain; `batch_size` is the run's."""
  b = _replay.count("gem ratio", batch_size, ratio, most=100.0)
  if margin < 0:
    raise ValueError(f"gem margin is {margin}; it must be 0 or more")
  if b == 0:
    return Method()

  def draw(cl, buffer, stage, key):
    domains = memory.earlier(buffer, stage)
    return memory.sample_each(buffer, key, b, domains, memory.distinct)

  def grads(obj, cl, p, batch, mem, stage, key):
    k_new, k_old = jax.random.split(key)
    g, aux = task_grads(obj, cl, p, batch, mem, stage, k_new)
    one = lambda old: jax.grad(obj.loss, has_aux=True)(p, old, k_old)[0]
    refs = jax.lax.map(one, _replay.cloned(mem.rows))  # leaves [N, ...]
    g, broken = project(g, refs, margin)
    return g, {**aux, "projected": broken.astype(jnp.float32)}

  return _replay.remembering(grads=grads, draw=draw, capacity=capacity)


def project(g, refs, margin: float = 0.0):
  """(g~, bool[] whether g broke a constraint); leaves of refs lead with N."""
  flat = lambda x: x.reshape(x.shape[0], -1).astype(jnp.float32)
  rows = [flat(x) for x in jax.tree.leaves(refs)]
  new = [x.reshape(-1).astype(jnp.float32) for x in jax.tree.leaves(g)]
  gram_NN: Any = sum(x @ x.T for x in rows)
  dots_N: Any = sum(x @ y for x, y in zip(rows, new, strict=True))
  broken = jnp.any(dots_N < 0)
  v_N = jnp.where(broken, dual(gram_NN, dots_N, margin), 0.0)
  add = lambda x, r: x + jnp.tensordot(v_N, r, axes=1).astype(x.dtype)
  return jax.tree.map(add, g, refs), broken


def dual(
  gram_NN: Float[Array, "N N"], dots_N: Float[Array, " N"], margin: float
) -> Float[Array, " N"]:
  """argmin_{v >= margin} v' P v / 2 + d' v, one coordinate after another.

  A domain without a gradient (P_kk = 0) has v = 0.
  """
  n, size_N = len(dots_N), jnp.diag(gram_NN)
  low_N = jnp.where(size_N > 0, margin, 0.0)

  def coordinate(k, v_N):
    slope = gram_NN[k] @ v_N + dots_N[k]
    best = v_N[k] - slope / jnp.maximum(size_N[k], 1e-30)
    best = jnp.maximum(best, low_N[k])
    return v_N.at[k].set(jnp.where(size_N[k] > 0, best, 0.0))

  def sweep(carry):
    v_N, _, i = carry
    new_N = jax.lax.fori_loop(0, n, coordinate, v_N)
    moved = jnp.max(jnp.abs(new_N - v_N)) / jnp.maximum(jnp.max(new_N), 1e-30)
    return new_N, moved, i + 1

  go_on = lambda carry: (carry[1] > TOLERANCE) & (carry[2] < SWEEPS)
  start = low_N, jnp.float32(jnp.inf), jnp.int32(0)
  return jax.lax.while_loop(go_on, sweep, start)[0]
