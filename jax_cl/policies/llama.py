"""Llama: RMSNorm, RoPE, grouped-query attention, SwiGLU.

Touvron et al. 2023, arXiv:2302.13971 and 2307.09288; Llama 3 (Dubey et al.
2024, arXiv:2407.21783) stretches RoPE; SmolLM2 (Allal et al. 2025,
arXiv:2502.02737) has this form. `Block` also serves the families that differ
from it by a switch of `base.Config`: biases (qwen2), QK-norm (qwen3).
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax

from jax_cl import sharding
from jax_cl.policies import base, rope

_llama = functools.partial(base.Config, family="llama")
_smollm2 = functools.partial(_llama, head_width=64, vocab=49152, context=8192)
_llama3 = functools.partial(
  _llama,
  kv_heads=8,
  vocab=128256,
  context=131072,
  rope_theta=500000.0,
)

VARIANTS = {
  "smollm2-135m": _smollm2(
    layers=30,
    width=576,
    heads=9,
    kv_heads=3,
    ff_width=1536,
    rope_theta=100000.0,
  ),
  "smollm2-360m": _smollm2(
    layers=32,
    width=960,
    heads=15,
    kv_heads=5,
    ff_width=2560,
    rope_theta=100000.0,
  ),
  "smollm2-1.7b": _smollm2(
    layers=24,
    width=2048,
    heads=32,
    kv_heads=32,
    ff_width=8192,
    rope_theta=130000.0,
  ),
  "llama-3.2-1b": _llama3(
    layers=16,
    width=2048,
    heads=32,
    head_width=64,
    ff_width=8192,
    rope_scaling=rope.Scaling("llama3", 32.0, 8192),
  ),
  "llama-3.2-3b": _llama3(
    layers=28,
    width=3072,
    heads=24,
    head_width=128,
    ff_width=8192,
    rope_scaling=rope.Scaling("llama3", 32.0, 8192),
  ),
  "llama-3.1-8b": _llama3(
    layers=32,
    width=4096,
    heads=32,
    head_width=128,
    ff_width=14336,
    tied=False,
    rope_scaling=rope.Scaling("llama3", 8.0, 8192),
  ),
  "tiny": _llama(  # for tests: every size differs from every other
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
# transpose of what both hold; a bias stands beside it.
WEIGHT_MAP = base.with_biases(
  {
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
)
GGUF_MAP = base.with_biases(
  {
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
)
# llama.cpp rotates neighbouring channels, so its converter interleaves the two
# halves of each head in the rows of these.
GGUF_INTERLEAVED = base.with_biases(
  {"layers/attn/q/kernel": "heads", "layers/attn/k/kernel": "kv_heads"}
)

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
  def __call__(self, x, view, kv, slides):
    c = self.config
    B, T, _ = x.shape

    def heads(name, n):
      y = linear(c, n * c.head_width, c.qkv_bias, name)(x)
      return y.reshape(B, T, n, c.head_width)

    q, k, v = (
      heads("q", c.heads),
      heads("k", c.kv_heads),
      heads("v", c.kv_heads),
    )
    if c.qk_norm:
      q = base.RMSNorm(c.norm_eps, name="q_norm")(q)
      k = base.RMSNorm(c.norm_eps, name="k_norm")(k)
    q, k = rope.rotate(q, *view.angles), rope.rotate(k, *view.angles)
    y, kv = base.attend(q, k, v, view, kv, slides, c.attention_block)
    y = y.reshape(B, T, c.heads * c.head_width)
    return linear(c, c.width, c.o_bias, "o")(y), kv


@jax.custom_vjp
def swiglu(gate, up):
  """silu(gate) * up, of which gate and up alone are kept for the way back:
  autodiff keeps four arrays of that size."""
  return jax.nn.silu(gate) * up


def _swiglu_bwd(kept, dy):
  gate, up = kept
  s = jax.nn.sigmoid(gate)
  return dy * up * s * (1 + gate * (1 - s)), dy * gate * s


swiglu.defvjp(lambda gate, up: (swiglu(gate, up), (gate, up)), _swiglu_bwd)


class MLP(nn.Module):
  """(silu(x W_gate) * x W_up) W_down, Shazeer 2020, arXiv:2002.05202."""

  config: base.Config

  @nn.compact
  def __call__(self, x):
    c = self.config
    gate = linear(c, c.ff_width, c.mlp_bias, "gate")(x)
    up = linear(c, c.ff_width, c.mlp_bias, "up")(x)
    return linear(c, c.width, c.mlp_bias, "down")(swiglu(gate, up))


class Block(nn.Module):
  config: base.Config

  @nn.compact
  def __call__(self, x, view, kv, slides):
    norm = lambda name: base.RMSNorm(self.config.norm_eps, name=name)
    attn = Attention(self.config, name="attn")
    x = sharding.rows(x)
    y, kv = attn(norm("attn_norm")(x), view, kv, slides)
    x = x + y
    return x + MLP(self.config, name="mlp")(norm("mlp_norm")(x)), kv


def linear(c: base.Config, n: int, bias: bool, name: str) -> base.Linear:
  return base.Linear(n, c.dtype, bias, c.lora_scale, name=name)


def make(variant: str | base.Config, **changes) -> base.Policy:
  """A Policy of a variant by name, or of a Config; `changes` replace fields."""
  config = base.configure("llama", VARIANTS, variant, changes)
  return base.decoder(Block, config, AXES)
