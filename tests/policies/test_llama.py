"""The real SmolLM2: its numbers are transformers', and it can speak."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from peers import padded, relative, transformers_model

from jax_cl.policies import weights


@pytest.fixture(scope="module")
def smollm2():
  try:
    return weights.load("smollm2-135m")
  except weights.NotFetched as e:
    pytest.skip(f"no network and no copy of the weights: {e}")


def test_real_logits_equal_transformers(smollm2):
  torch = pytest.importorskip("torch")
  policy, params = smollm2
  text = "<|im_start|>user\nCancel order #W2378156, please.<|im_end|>\n"
  ids = weights.tokenizer("smollm2-135m").encode(text).ids
  tokens, positions, segments = padded([ids], len(ids))
  x, _ = jax.jit(policy.hidden)(params, tokens, positions, segments)
  model = transformers_model(policy.config, params)
  logits = model(torch.tensor(np.array(tokens))).logits.detach().numpy()
  assert relative(jax.jit(policy.unembed)(params, x), logits) < 1e-4


def test_real_model_speaks(smollm2):
  # A model with rows in the wrong order still has plausible shapes and norms.
  policy, params = smollm2
  tokenizer = weights.tokenizer("smollm2-135m")
  ids = tokenizer.encode(
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
    "<|im_start|>assistant\nThe capital of France is"
  ).ids
  x, _ = jax.jit(policy.hidden)(params, *padded([ids], len(ids)))
  best = int(jnp.argmax(policy.unembed(params, x[:, -1:])))
  assert tokenizer.decode([best]) == " Paris"
