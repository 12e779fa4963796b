"""Qwen2 and Qwen2.5: Llama's block with biases on queries, keys and values.

Yang et al. 2024, arXiv:2407.10671 and 2412.15115. Where a config asks for it
(`use_sliding_window`), the layers from `max_window_layers` on see a window;
none of the sizes here does.
"""

from __future__ import annotations

import functools

from jax_cl.policies import base, llama

_qwen2 = functools.partial(
  base.Config,
  family="qwen2",
  context=32768,
  rope_theta=1e6,
  norm_eps=1e-6,
  qkv_bias=True,
)

VARIANTS = {
  "qwen2.5-0.5b": _qwen2(
    layers=24,
    width=896,
    heads=14,
    kv_heads=2,
    head_width=64,
    ff_width=4864,
    vocab=151936,
  ),
  "qwen2.5-1.5b": _qwen2(
    layers=28,
    width=1536,
    heads=12,
    kv_heads=2,
    head_width=128,
    ff_width=8960,
    vocab=151936,
  ),
  "qwen2.5-3b": _qwen2(
    layers=36,
    width=2048,
    heads=16,
    kv_heads=2,
    head_width=128,
    ff_width=11008,
    vocab=151936,
  ),
  "qwen2.5-7b": _qwen2(
    layers=28,
    width=3584,
    heads=28,
    kv_heads=4,
    head_width=128,
    ff_width=18944,
    vocab=152064,
    tied=False,
  ),
}

WEIGHT_MAP = llama.WEIGHT_MAP
GGUF_MAP = llama.GGUF_MAP
GGUF_INTERLEAVED: dict[str, str] = {}  # llama.cpp keeps the hub's order here
AXES = llama.AXES


def make(variant: str | base.Config, **changes) -> base.Policy:
  """A Policy of a variant by name, or of a Config; `changes` replace fields."""
  config = base.configure("qwen2", VARIANTS, variant, changes)
  return base.decoder(llama.Block, config, AXES)
