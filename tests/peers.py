"""transformers' own models with our weights, and rows of tokens for both."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_cl import policies
from jax_cl.policies import hub

# Compiles in half the time, for models whose running takes none.
quick_jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


def transformers_model(config, params):
  """`AutoModelForCausalLM` of the same config and weights, float32 on CPU."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  keys = hub.to_json(config)
  made = transformers.AutoConfig.for_model(**keys)
  model = transformers.AutoModelForCausalLM.from_config(made)
  weight_map = policies.family(config.family).WEIGHT_MAP
  state = hub.to_hub(params, weight_map)
  state = {k: torch.tensor(np.array(v)) for k, v in state.items()}
  if config.tied:
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
  model.load_state_dict(state, strict=True)
  return model.eval()


def random(shapes, seed=0):
  """Leaves far from where they begin: norms not ones, biases not zeros."""
  rng = np.random.default_rng(seed)
  leaf = lambda s: rng.normal(0.1, 0.25, s.shape).astype(np.float32)
  return jax.tree.map(leaf, shapes)


def padded(rows, width):
  """tokens, positions, segments: int32[rows, width], right-padded."""
  tokens, positions, segments = np.zeros((3, len(rows), width), np.int32)
  for i, row in enumerate(rows):
    tokens[i, : len(row)] = row
    positions[i, : len(row)] = np.arange(len(row))
    segments[i, : len(row)] = 1
  return jnp.asarray(tokens), jnp.asarray(positions), jnp.asarray(segments)


def relative(a, b):
  """max |a - b| / max |b|."""
  return np.max(np.abs(np.asarray(a) - b)) / np.max(np.abs(b))
