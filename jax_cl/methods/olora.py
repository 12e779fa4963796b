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
the stages, and other trainable leaves are learned in stage 0 alone. Where it
brings none, deltas with `rank` a stage are put beside every matrix; there is
nothing pretrained then, so stage 0 learns the tree itself, which is frozen
afterwards, and the first slot stays empty.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_cl import tree
from jax_cl.methods import _deltas
from jax_cl.methods.base import Method, penalty

OFF = None  # with lambda 0 each stage still learns in a slot of its own
_RANK_AXIS = {"lora_a": -1, "lora_b": -2}


def make(*, lam: float = 0.5, rank: int = 4) -> Method:
  """`rank` a stage, where the learner brings no adapters of its own."""
  if lam < 0 or rank < 1:
    raise ValueError(
      f"olora needs lam >= 0 and rank >= 1; got lam {lam}, rank {rank}"
    )

  def init(p, n_stages, key):
    for name, a in _deltas.adapters(p).items():
      if a.shape[-1] < n_stages:
        raise ValueError(
          f"olora divides the rank among the stages: {name} has rank "
          f"{a.shape[-1]} for {n_stages} stages; give the model a LoRA rank of "
          f"{n_stages} or more"
        )
    return {"n_stages": jnp.int32(n_stages)}

  def pull(obj, cl, p, batch, stage, key):
    first = int(isinstance(p, _deltas.Adapted))  # slot 0 is empty then
    total = jnp.float32(0)
    for a in _deltas.adapters(p).values():
      slot_r = slots(a.shape[-1], cl["n_stages"])
      old_r = (slot_r >= first) & (slot_r < stage)
      total += overlap(a, old_r, slot_r == stage)
    return lam * total

  def view(cl, p, stage):
    return _deltas.merge(p) if isinstance(p, _deltas.Adapted) else p

  def update(cl, p, u, stage):
    def own(name, x):
      axis = _RANK_AXIS.get(name.rsplit("/")[-1])
      if axis is None:
        return jnp.where(stage == 0, x, 0)
      now_r = slots(x.shape[axis], cl["n_stages"]) == stage
      shape = [1] * x.ndim
      shape[axis] = -1
      return jnp.where(now_r.reshape(shape), x, 0)

    u = tree.map_with_path(own, u)
    if isinstance(u, _deltas.Adapted):
      u = u._replace(delta=_deltas.where(stage > 0, u.delta))
    return u

  return Method(
    extend=lambda p, n_stages, key: _deltas.extend(p, rank * n_stages, key),
    init=init,
    grads=penalty(pull),
    view=view,
    update=update,
  )


def slots(rank: int, n_stages):
  """The stage that each place of the rank belongs to: int32[r].

  What does not divide evenly is the last stage's.
  """
  return jnp.minimum(jnp.arange(rank) // (rank // n_stages), n_stages - 1)


def overlap(a, old_r, now_r):
  """sum |A_old^T A_now|, the gradient taken of A_now alone: f32[]."""
  products = jnp.einsum("...ir,...is->...rs", jax.lax.stop_gradient(a), a)
  pairs = (old_r[:, None] & now_r[None, :]).astype(a.dtype)
  return jnp.einsum("...rs,rs->", jnp.abs(products), pairs)
