"""The tool scorer: s_i = w_i . phi(s), pi = softmax(s / temperature).

Two heads share one softmax shape. The tool head adds u . chi(s, i), a few
shared features of act i against the dialogue (was it asked for, done, does it
have an untried argument); the pointer scores the candidates of a slot by
(v_slot + t_type) . psi(s, c), t shared by all slots of an entity type. Heads:

`per_tool`: w_i and v_slot are free vectors, the design's form.
`shared`: w_i = M e_i, with e_i the frozen LLM's vector of the tool's own
description and M learned and shared by all tools (and v_slot likewise), so that
what is learned of one tool moves its neighbours.

phi and psi are made on the host (`features.py`); everything here is pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jax_cl import names
from jax_cl.losses import policy
from jax_cl.types import Agent, Batch

HEADS = ("per_tool", "shared")
MASKED = -1e9


class PerTool(nn.Module):
  """w [D, A] and v [slots, Dc], zeros at first: the start policy is uniform."""

  n_acts: int
  n_options: int
  slot_types: tuple[int, ...]  # of each slot: slots of a type share t

  @nn.compact
  def __call__(self, phi_BD, cand_BCF, slot_B):
    zeros = nn.initializers.zeros
    w_DA = self.param("w", zeros, (phi_BD.shape[-1], self.n_acts))
    v_SF = self.param("v", zeros, (len(self.slot_types), cand_BCF.shape[-1]))
    n_types = max(self.slot_types, default=0) + 1
    t_KF = self.param("t", zeros, (n_types, cand_BCF.shape[-1]))
    u_F = self.param("u", zeros, (cand_BCF.shape[-1],))
    tool_BA = _pad(phi_BD @ w_DA, self.n_options) + cand_BCF @ u_F
    v_BF = v_SF[slot_B] + t_KF[jnp.array(self.slot_types)[slot_B]]
    point_BC = jnp.einsum("bcf,bf->bc", cand_BCF, v_BF)
    return tool_BA, point_BC


class Shared(nn.Module):
  """w_i = M e_i: [D, d] weights for any number of tools."""

  n_options: int
  rank: int

  @nn.compact
  def __call__(self, phi_BD, cand_BCF, slot_B, acts_AE, slots_SE):
    down = nn.initializers.normal(phi_BD.shape[-1] ** -0.5)
    m_DR = self.param("m", down, (phi_BD.shape[-1], self.rank))
    zeros = nn.initializers.zeros
    n_RE = self.param("n", zeros, (self.rank, acts_AE.shape[-1]))
    v_EF = self.param("v", zeros, (slots_SE.shape[-1], cand_BCF.shape[-1]))
    u_F = self.param("u", zeros, (cand_BCF.shape[-1],))
    tool_BA = (phi_BD @ m_DR) @ (n_RE @ acts_AE.T)
    tool_BA = _pad(tool_BA, self.n_options) + cand_BCF @ u_F
    v_BF = slots_SE[slot_B] @ v_EF
    point_BC = jnp.einsum("bcf,bf->bc", cand_BCF, v_BF)
    return tool_BA, point_BC


def _pad(x_BN, n: int):
  return jnp.pad(x_BN, ((0, 0), (0, n - x_BN.shape[1])))


def make(
  *,
  obs_spec: Mapping[str, Any],
  act_vectors: np.ndarray,
  slot_vectors: np.ndarray,
  slot_types: Sequence[int],
  head: str = "per_tool",
  rank: int = 64,
  start_act: int | None = None,
  temperature: float = 1.0,
  entropy_bonus: float = 0.0,
) -> Agent:
  """The scorer of one stream.

  Args:
    obs_spec: `features.Featurizer.spec`.
    act_vectors: float32[A, E], the LLM's vectors of the acts' descriptions.
    slot_vectors: float32[S, E], the same of the slots.
    slot_types: the entity type of each slot, by number.
    head: "per_tool" or "shared".
    rank: width of the shared head's bottleneck.
    start_act: an act whose score is 1 higher, always. All weights start at 0,
      so this is what the starting policy does: it closes the conversation
      (the do-nothing floor) instead of wandering among ties.
    temperature: of the softmax, at training and acting alike.
    entropy_bonus: weight of the policy's entropy in the loss, nats.
  """
  names.check("agent.head", head, HEADS)
  if not temperature > 0:
    raise ValueError(f"agent.temperature = {temperature}; it must be > 0")
  n_options = obs_spec["mask"][0][0]
  if head == "per_tool":
    net = PerTool(len(act_vectors), n_options, tuple(slot_types))
    frozen_extra = ()
  else:
    net = Shared(n_options, rank)
    frozen_extra = (act_vectors, slot_vectors)

  prior_V = np.zeros(n_options, np.float32)
  if start_act is not None:
    prior_V[start_act] = 1.0

  def raw(p, frozen, obs):
    slot_B = jnp.maximum(obs["slot"], 0)
    out: Any = net.apply(
      {"params": p},
      obs["phi"],
      obs["cand"],
      slot_B,
      *frozen,
    )
    tool_BV, point_BV = out
    is_tool_B1 = (obs["slot"] < 0)[:, None]
    tool_BV = tool_BV + prior_V[None, :]
    logits_BV = jnp.where(is_tool_B1, tool_BV, point_BV) / temperature
    if "heat" in obs:  # rows drawn at another temperature are learned at it
      logits_BV = logits_BV * jnp.exp(-obs["heat"])[:, None]
    return jnp.where(obs["mask"], logits_BV, MASKED)

  def init(key):
    one = lambda k: jnp.zeros((1, *obs_spec[k][0]), jnp.float32)
    slot = jnp.zeros((1,), jnp.int32)
    frozen = tuple(jnp.asarray(x) for x in frozen_extra)
    params = net.init(key, one("phi"), one("cand"), slot, *frozen)["params"]
    return dict(params), frozen

  def objective(frozen):
    def logits(p, batch: Batch):
      return raw(p, frozen, batch.obs)[:, None]

    return policy.objective(logits, entropy_bonus)

  def act(p, frozen, obs, key, greedy: bool):
    """One action a row. Row b's draw depends on its own key only."""
    logits_BV = raw(p, frozen, obs)
    logp_BV = jax.nn.log_softmax(logits_BV)
    noise_BV = jax.vmap(lambda k: jax.random.gumbel(k, logits_BV.shape[1:]))(
      key
    )
    a_B = jnp.argmax(logits_BV + (0.0 if greedy else noise_BV), axis=-1)
    logp_B = jnp.take_along_axis(logp_BV, a_B[:, None], axis=-1)[:, 0]
    return a_B, logp_B, {"logits": logits_BV}

  return Agent(init=init, objective=objective, act=act, obs_spec=dict(obs_spec))
