"""Qwen3, dense: Llama's block with an RMSNorm on each head's queries and keys.

Yang et al. 2025, arXiv:2505.09388. Heads are 128 channels wide whatever the
width of the model, so `heads * head_width` may differ from `width`.
"""

from __future__ import annotations

import functools

from jax_cl.policies import base, llama

_qwen3 = functools.partial(
  base.Config,
  family="qwen3",
  kv_heads=8,
  head_width=128,
  vocab=151936,
  context=40960,
  rope_theta=1e6,
  norm_eps=1e-6,
  qk_norm=True,
)

VARIANTS = {
  "qwen3-0.6b": _qwen3(layers=28, width=1024, heads=16, ff_width=3072),
  "qwen3-1.7b": _qwen3(layers=28, width=2048, heads=16, ff_width=6144),
  "qwen3-4b": _qwen3(layers=36, width=2560, heads=32, ff_width=9728),
  "qwen3-8b": _qwen3(
    layers=36, width=4096, heads=32, ff_width=12288, tied=False
  ),
}

WEIGHT_MAP = llama.WEIGHT_MAP | {
  "layers/attn/q_norm/scale": "model.layers.{}.self_attn.q_norm.weight",
  "layers/attn/k_norm/scale": "model.layers.{}.self_attn.k_norm.weight",
}
GGUF_MAP = llama.GGUF_MAP | {
  "layers/attn/q_norm/scale": "blk.{}.attn_q_norm.weight",
  "layers/attn/k_norm/scale": "blk.{}.attn_k_norm.weight",
}
GGUF_INTERLEAVED: dict[str, str] = {}  # llama.cpp keeps the hub's order here
AXES = llama.AXES | {
  "layers/attn/q_norm/scale": ("layers", "head_width"),
  "layers/attn/k_norm/scale": ("layers", "head_width"),
}


def make(variant: str | base.Config, **changes) -> base.Policy:
  """A Policy of a variant by name, or of a Config; `changes` replace fields."""
  config = base.configure("qwen3", VARIANTS, variant, changes)
  return base.decoder(llama.Block, config, AXES)
