"""Published sizes, counted without making a single parameter."""

import dataclasses

import jax
import pytest

from jax_cl import policies, tree
from jax_cl.policies import weights

# Totals that the hub shows for the safetensors (tied heads counted once).
PUBLISHED = {
  "smollm2-135m": 134_515_008,
  "smollm2-360m": 361_821_120,
  "smollm2-1.7b": 1_711_376_384,
  "llama-3.2-1b": 1_235_814_400,
  "llama-3.2-3b": 3_212_749_824,
  "llama-3.1-8b": 8_030_261_248,
  "qwen2.5-0.5b": 494_032_768,
  "qwen2.5-1.5b": 1_543_714_304,
  "qwen2.5-3b": 3_085_938_688,
  "qwen2.5-7b": 7_615_616_512,
  "qwen3-0.6b": 596_049_920,
  "qwen3-1.7b": 1_720_574_976,
  "qwen3-4b": 4_022_468_096,
  "qwen3-8b": 8_190_735_360,
}
VARIANTS = {
  v: f for f in policies.families() for v in policies.family(f).VARIANTS
}


def size(name, **changes):
  policy = policies.family(VARIANTS[name]).make(name, **changes)
  return tree.size(jax.eval_shape(policy.init, jax.random.key(0)))


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_many_as_published(name):
  assert size(name) == PUBLISHED[name]


def test_no_published_size_is_left_out():
  assert set(VARIANTS) - {"tiny"} == set(PUBLISHED)


def test_adapters_of_qwen_7b_by_hand():
  # Rank 16 on q and v: 28 layers x 16 x (3584 + 3584 + 3584 + 512) numbers.
  changes = {"lora_rank": 16, "lora_targets": "layers/attn/(q|v)"}
  added = size("qwen2.5-7b", **changes) - size("qwen2.5-7b")
  assert added == 28 * 16 * (3584 + 3584 + 3584 + 512)


@pytest.mark.parametrize(
  "name, variant",
  [
    ("Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b"),
    ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m"),
    ("qwen3-8b", "qwen3-8b"),
  ],
)
def test_a_new_model_has_a_published_one_s_sizes(name, variant, monkeypatch):
  refuse = lambda *a: pytest.fail("a file was asked for")
  monkeypatch.setattr(weights, "find", refuse)
  new = f"new:{name}"
  policy = weights.policy(new, dtype="bfloat16")
  known = policies.family(VARIANTS[variant]).VARIANTS[variant]
  assert policy.config == dataclasses.replace(known, dtype="bfloat16")
  assert weights.is_new(new) and not weights.is_new(name)
  # Texts become ids that it has.
  assert weights.tokenizer(new).get_vocab_size() <= policy.config.vocab


def test_sizes_nobody_published_are_refused():
  with pytest.raises(ValueError, match="did you mean 'qwen2.5-7b'"):
    weights.policy("new:Qwen/Qwen2.5-7-Instruct")
