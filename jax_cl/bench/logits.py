"""Our logits beside transformers' on the same folder, both in float32.

Random token ids, so no tokenizer is needed. Whatever the folder's own dtype,
its weights are read as float32 on both sides, which is exact.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jax_cl.policies import weights


def run(
  model: str = "", rows: int = 2, tokens: int = 256, seed: int = 0
) -> Iterator[dict[str, Any]]:
  """One row {model, max_rel_diff, tokens}; max|a - b| / max|b|, b theirs."""
  if not model:
    raise ValueError("name a hub folder: --model=FOLDER")
  policy, params = weights.load(model)
  vocab, context = policy.config.vocab, policy.config.context
  T = min(tokens, context)
  rng = np.random.default_rng(seed)
  tokens_BT = rng.integers(vocab, size=(rows, T), dtype=np.int32)
  theirs = transformers_logits(weights.find(model), tokens_BT)
  ours = our_logits(policy, params, tokens_BT)
  yield {
    "model": str(model),
    "max_rel_diff": float(np.abs(ours - theirs).max() / np.abs(theirs).max()),
    "tokens": rows * T,
  }


def our_logits(policy, params, tokens_BT: np.ndarray) -> np.ndarray:
  """float32[B, T, V] of whole rows, without padding."""
  positions_BT = np.broadcast_to(np.arange(tokens_BT.shape[1]), tokens_BT.shape)

  @jax.jit
  def logits(params):
    x, _ = policy.hidden(
      params, tokens_BT, positions_BT, np.ones_like(tokens_BT)
    )
    return policy.unembed(params, x)

  return np.asarray(logits(params))


def transformers_logits(
  folder: pathlib.Path, tokens_BT: np.ndarray
) -> np.ndarray:
  """float32[B, T, V] by `AutoModelForCausalLM` of a folder, on the CPU."""
  try:
    import torch
    import transformers
  except ImportError as e:
    raise ValueError("torch is not installed: make setup EXTRAS=test") from e
  transformers.utils.logging.disable_progress_bar()
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32, local_files_only=True
  )
  with torch.no_grad():
    out = model.eval()(torch.tensor(tokens_BT, dtype=torch.long))
  return out.logits.numpy()
