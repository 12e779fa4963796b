"""O-LoRA: adapters of all stages add up, each in directions of its own.

  W_t = W + sum_{k <= t} A_k B_k,  A_k and B_k learned in stage k alone
  L = L_task + lambda sum_{k < t} sum_ij |A_k^T A_t|_ij

Stage t changes W x only through what A_t reads of x; with A_t orthogonal to
the A_k before, it reads what they do not. The stage need not be told.

Wang et al. 2023, https://arxiv.org/abs/2310.14152, eq. 7 to 9; lambda .5 and
|.| are those of their code (eq. 8 squares). Their second weight, an l2 pull on
the new adapter, is left out: weight decay does it.

The sum is one adapter whose rank is cut into a slot a stage. Where the learner
brings adapters (an LLM: leaves `lora_a`, `lora_b`), their rank is divided among
the stages, and other trainable leaves are learned in stage 0 alone.

Where it brings none, nothing is pretrained either, and the paper does not say
what to do. Here stage 0 learns the tree itself, which is frozen afterwards, and
adapters of `rank` a stage are put beside the matrices that `targets` names.
What stage 0 read is known from what it changed, D = W_0 - W_init: its slot's A
becomes D D^T A (a step of subspace iteration, Halko et al. 2011,
https://arxiv.org/abs/0909.4061, section 4.5), columns of length 1, and its B
stays 0. Without it the first domain is not protected. Biases never get an
adapter, as in the paper.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_cl import tree
from jax_cl.methods import _deltas
from jax_cl.methods.base import Method, penalty

OFF = None  # with lambda 0 each stage still learns in a slot of its own
_RANK_AXIS = {"lora_a": -1, "lora_b": -2}


def make(*, lam: float = 0.5, rank: int = 4, targets: str = ".*") -> Method:
  """`rank` a stage and `targets` where the learner brings no adapters.

  `targets` is a regular expression of whole paths; of those the matrices.
  """
  if lam < 0 or rank < 1:
    raise ValueError(
      f"olora needs lam >= 0 and rank >= 1; got lam {lam}, rank {rank}"
    )

  def extend(p, n_stages, key):
    if _deltas.adapters(p):
      return p
    named = tree.select(p, targets)
    on = jax.tree.map(lambda x, named: named and x.ndim > 1, p, named)
    if not any(jax.tree.leaves(on)):
      raise ValueError(
        f"olora's targets {targets!r} match no matrix among "
        f"{', '.join(tree.paths(p))}"
      )
    return _deltas.extend(p, rank * n_stages, key, on)

  def init(p, n_stages, key):
    for name, a in _deltas.adapters(p).items():
      if a.shape[-1] < n_stages:
        raise ValueError(
          f"olora divides the rank among the stages: {name} has rank "
          f"{a.shape[-1]} for {n_stages} stages; give the model a LoRA rank of "
          f"{n_stages} or more"
        )
    cl = {"n_stages": jnp.int32(n_stages)}
    if isinstance(p, _deltas.Adapted):
      cl["before"] = _deltas.beside(p)  # W_init of the targets
    return cl

  def pull(obj, cl, p, batch, stage, key):
    total = jnp.float32(0)
    for a in _deltas.adapters(p).values():
      slot_r = _deltas.slots(a.shape[-1], cl["n_stages"])
      total += overlap(a, slot_r < stage, slot_r == stage)
    return lam * total

  def view(cl, p, stage):
    return _deltas.merge(p) if isinstance(p, _deltas.Adapted) else p

  def update(cl, p, u, stage):
    def own(name, x):
      axis = _RANK_AXIS.get(name.rsplit("/")[-1])
      if axis is None:
        return jnp.where(stage == 0, x, 0)
      now_r = _deltas.slots(x.shape[axis], cl["n_stages"]) == stage
      shape = [1] * x.ndim
      shape[axis] = -1
      return jnp.where(now_r.reshape(shape), x, 0)

    u = tree.map_with_path(own, u)
    if isinstance(u, _deltas.Adapted):
      u = u._replace(delta=_deltas.where(stage > 0, u.delta))
    return u

  def settle(cl, p, stage, key):
    """At the end of stage 0 its slot is given what it read."""
    if not isinstance(p, _deltas.Adapted):
      return cl, p

    def fill(p):
      read = lambda w, d, w_0: d and _deltas.read_by(w - w_0, d, rank)
      delta = jax.tree.map(read, p.base, p.delta, cl["before"])
      return p._replace(delta=delta)

    return cl, jax.lax.cond(stage == 0, fill, lambda p: p, p)

  return Method(
    extend=extend,
    init=init,
    grads=penalty(pull),
    view=view,
    update=update,
    phases=((1.0, settle),),
  )


def overlap(a, old_r, now_r):
  """sum |A_old^T A_now|, the gradient taken of A_now alone: f32[]."""
  products = jnp.einsum("...ir,...is->...rs", jax.lax.stop_gradient(a), a)
  pairs = (old_r[:, None] & now_r[None, :]).astype(a.dtype)
  return jnp.einsum("...rs,rs->", jnp.abs(products), pairs)
