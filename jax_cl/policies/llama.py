"""Llama: RMSNorm, RoPE, grouped-query attention, SwiGLU; no biases.

Touvron et al. 2023, arXiv:2302.13971 and 2307.09288; SmolLM2 (Allal et al.
2025, arXiv:2502.02737) has this form. Checked against transformers'
`LlamaForCausalLM` in `tests/policies/test_llama.py`.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax

from jax_cl import names
from jax_cl.policies import base

VARIANTS = {
  "smollm2-135m": base.Config(
    layers=30,
    width=576,
    heads=9,
    kv_heads=3,
    head_width=64,
    ff_width=1536,
    vocab=49152,
    context=8192,
    rope_theta=100000.0,
  ),
  "tiny": base.Config(  # for tests: every size differs from every other
    layers=3,
    width=32,
    heads=4,
    kv_heads=2,
    head_width=16,
    ff_width=48,
    vocab=99,
    context=64,
    rope_theta=1000.0,
  ),
}

# Our path -> name in hub files and in GGUF; {} is the layer. A kernel is the
# transpose of what both hold.
WEIGHT_MAP = {
  "embed/embedding": "model.embed_tokens.weight",
  "layers/attn_norm/scale": "model.layers.{}.input_layernorm.weight",
  "layers/attn/q/kernel": "model.layers.{}.self_attn.q_proj.weight",
  "layers/attn/k/kernel": "model.layers.{}.self_attn.k_proj.weight",
  "layers/attn/v/kernel": "model.layers.{}.self_attn.v_proj.weight",
  "layers/attn/o/kernel": "model.layers.{}.self_attn.o_proj.weight",
  "layers/mlp_norm/scale": "model.layers.{}.post_attention_layernorm.weight",
  "layers/mlp/gate/kernel": "model.layers.{}.mlp.gate_proj.weight",
  "layers/mlp/up/kernel": "model.layers.{}.mlp.up_proj.weight",
  "layers/mlp/down/kernel": "model.layers.{}.mlp.down_proj.weight",
  "norm/scale": "model.norm.weight",
  "head/kernel": "lm_head.weight",
}
GGUF_MAP = {
  "embed/embedding": "token_embd.weight",
  "layers/attn_norm/scale": "blk.{}.attn_norm.weight",
  "layers/attn/q/kernel": "blk.{}.attn_q.weight",
  "layers/attn/k/kernel": "blk.{}.attn_k.weight",
  "layers/attn/v/kernel": "blk.{}.attn_v.weight",
  "layers/attn/o/kernel": "blk.{}.attn_output.weight",
  "layers/mlp_norm/scale": "blk.{}.ffn_norm.weight",
  "layers/mlp/gate/kernel": "blk.{}.ffn_gate.weight",
  "layers/mlp/up/kernel": "blk.{}.ffn_up.weight",
  "layers/mlp/down/kernel": "blk.{}.ffn_down.weight",
  "norm/scale": "output_norm.weight",
  "head/kernel": "output.weight",
}
# llama.cpp rotates neighbouring channels, so its converter interleaves the two
# halves of each head in the rows of these.
GGUF_INTERLEAVED = {
  "layers/attn/q/kernel": "heads",
  "layers/attn/k/kernel": "kv_heads",
}

AXES = {
  "embed/embedding": ("vocab", "width"),
  "layers/attn_norm/scale": ("layers", "width"),
  "layers/attn/q/kernel": ("layers", "width", "heads"),
  "layers/attn/k/kernel": ("layers", "width", "kv_heads"),
  "layers/attn/v/kernel": ("layers", "width", "kv_heads"),
  "layers/attn/o/kernel": ("layers", "heads", "width"),
  "layers/mlp_norm/scale": ("layers", "width"),
  "layers/mlp/gate/kernel": ("layers", "width", "ff"),
  "layers/mlp/up/kernel": ("layers", "width", "ff"),
  "layers/mlp/down/kernel": ("layers", "ff", "width"),
  "norm/scale": ("width",),
  "head/kernel": ("width", "vocab"),
}


class Attention(nn.Module):
  config: base.Config

  @nn.compact
  def __call__(self, x, angles, mask, at, kv):
    c = self.config
    B, T, _ = x.shape
    linear = lambda name, n: base.Linear(n * c.head_width, c.dtype, name=name)
    q = linear("q", c.heads)(x).reshape(B, T, c.heads, c.head_width)
    k = linear("k", c.kv_heads)(x).reshape(B, T, c.kv_heads, c.head_width)
    v = linear("v", c.kv_heads)(x).reshape(B, T, c.kv_heads, c.head_width)
    q, k = base.rope(q, *angles), base.rope(k, *angles)
    seen, kv = base.update_cache(kv, at, k, v)
    y = base.attention(q, *seen, mask).reshape(B, T, c.heads * c.head_width)
    return base.Linear(c.width, c.dtype, name="o")(y), kv


class MLP(nn.Module):
  """(silu(x W_gate) * x W_up) W_down, Shazeer 2020, arXiv:2002.05202."""

  config: base.Config

  @nn.compact
  def __call__(self, x):
    c = self.config
    gate = base.Linear(c.ff_width, c.dtype, name="gate")(x)
    up = base.Linear(c.ff_width, c.dtype, name="up")(x)
    return base.Linear(c.width, c.dtype, name="down")(jax.nn.silu(gate) * up)


class Block(nn.Module):
  config: base.Config

  @nn.compact
  def __call__(self, x, angles, mask, at, kv):
    norm = lambda name: base.RMSNorm(self.config.norm_eps, name=name)
    attn = Attention(self.config, name="attn")
    y, kv = attn(norm("attn_norm")(x), angles, mask, at, kv)
    x = x + y
    return x + MLP(self.config, name="mlp")(norm("mlp_norm")(x)), kv


def make(variant: str | base.Config, **changes) -> base.Policy:
  """A Policy of a variant by name, or of a Config; `changes` replace fields."""
  if isinstance(variant, str):
    names.check("variant of llama", variant, VARIANTS)
    variant = VARIANTS[variant]
  config = dataclasses.replace(variant, **changes)
  return base.decoder(Block, config, AXES)
