"""The tokenizer of `tiny`: fixed, whole, and learned from train text alone."""

import hashlib
import importlib.util
import pathlib

import jax
import numpy as np
import pytest

from jax_cl.policies import tiny, weights

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "tiny_tokenizer.py"


def test_ids_stay_what_they_are():
  # Checkpoints and cached rows hold ids: new merges need a new name.
  digest = hashlib.sha256(tiny.MERGES.read_bytes()).hexdigest()
  assert digest[:16] == "6d52a68f44447882"
  t = weights.tokenizer("tiny")
  assert t.get_vocab_size() == tiny.VOCAB == tiny.VARIANTS["tiny"].vocab
  assert [t.token_to_id(s) for s in tiny.SPECIAL] == list(range(16))
  call = '<tool_call>get_details_by_id{"id":"L1002"}<|im_end|>'
  assert t.encode(call).tokens == [
    *("<tool_call>", "get_details_by_id", '{"', "id", '":"'),
    *("L", "10", "02", '"}', "<|im_end|>"),
  ]


@pytest.mark.parametrize(
  "text",
  [
    "",
    "  two  spaces\n\n\ttabs  ",
    "Zürich → 東京 🛫 \u200d e\u0301 \x00\x04",
    '{"a": [1, 2.50, null]}</tool_call>',
    "1234567890 ¾ ٣",
    "<|im_start|><|nothing|>",
  ],
)
def test_any_text_comes_back(text):
  t = weights.tokenizer("tiny")
  ids = t.encode(text).ids
  assert t.decode(ids, skip_special_tokens=False) == text
  t.encode_special_tokens = True
  assert t.decode(t.encode(text).ids, skip_special_tokens=False) == text


def test_only_train_tasks_are_played():
  spec = importlib.util.spec_from_file_location("tiny_tokenizer", TOOL)
  assert spec and spec.loader
  tool = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(tool)
  domain = tool.stream.load("airline")
  for split in ("val", "test"):
    with pytest.raises(ValueError, match=f"is a {split} task"):
      tool.conversation(domain.splits[split][0])
  told = tool.said(tool.conversation(domain.splits["train"][0]))
  assert told[0].startswith("Hi!") and len(told) > 4
  assert not any(s in text for text in told for s in tiny.SPECIAL)


def test_new_weights_are_those_of_key_0():
  sizes = {"width": 32, "vocab": 99, "ff_width": 48}
  policy, params = weights.load(
    "tiny", layers=1, param_dtype="bfloat16", **sizes
  )
  assert policy.config == weights.config("tiny", **sizes)
  key = jax.random.split(jax.random.key(0), 5)[0]
  table = 32**-0.5 * jax.random.normal(key, (99, 32))
  np.testing.assert_array_equal(
    params["embed"]["embedding"], table.astype("bfloat16")
  )
  assert {x.shape[0] for x in jax.tree.leaves(params["layers"])} == {1}
