"""A small model for CPUs and tests: Llama's block, and a tokenizer of its own.

There are no weights to fetch: `make("tiny").init(key)`, then learn. The
tokenizer is a byte-level BPE whose merges were learned from train-split text
(`tools/tiny_tokenizer.py`) in `chat`'s compact form, so conversations of the
domains are short in it. Its merges cross blanks (Liu et al. 2025, SuperBPE,
arXiv:2503.13423): what is always said in the same words is one token, a tool's
name or a fact like `Airplane Mode: ON`. Digits come in pairs from the left, so
that an id can be copied from few tokens, all of them common.
"""

from __future__ import annotations

import functools
import pathlib

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from jax_cl.policies import base, llama

# ids 0 to 15; the first is padding. Names are those of ChatML and Hermes.
SPECIAL = (
  "<|endoftext|>",
  "<|im_start|>",
  "<|im_end|>",
  "<tool_call>",
  "</tool_call>",
  "<tool_response>",
  "</tool_response>",
  "<think>",
  "</think>",
  *(f"<|reserved_{i}|>" for i in range(7)),
)
VOCAB = 4096
MERGES = pathlib.Path(__file__).with_name("tiny_merges.txt")

VARIANTS = {
  "tiny": base.Config(
    family="llama",  # the form that hub files of it have
    layers=4,
    width=256,
    heads=8,
    kv_heads=4,
    head_width=32,
    ff_width=768,
    vocab=VOCAB,
    context=8192,
  ),
}

WEIGHT_MAP = llama.WEIGHT_MAP
GGUF_MAP = llama.GGUF_MAP
GGUF_INTERLEAVED = llama.GGUF_INTERLEAVED
AXES = llama.AXES


def make(variant: str | base.Config = "tiny", **changes) -> base.Policy:
  """A Policy of a variant by name, or of a Config; `changes` replace fields."""
  config = base.configure("tiny", VARIANTS, variant, changes)
  return base.decoder(llama.Block, config, AXES)


# What no merge crosses: words with single blanks between them, two digits,
# marks, blanks. A blank or a line's end stands before its words.
_WORD = r'[^\s\d,"(){}\[\]]+'
PIECES = rf'[ \n]?{_WORD}(?: {_WORD})*|\d{{1,2}}|[ \n]?[,"(){{}}\[\]:]+|\s+'


def pre_tokenizer() -> pre_tokenizers.PreTokenizer:
  """`PIECES`, as bytes."""
  return pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(tokenizers.Regex(PIECES), "isolated"),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )


def alphabet() -> list[str]:
  """The 256 letters that stand for bytes, in order."""
  return sorted(pre_tokenizers.ByteLevel.alphabet())


@functools.cache
def _model() -> tuple[dict[str, int], list[tuple[str, str]]]:
  pairs = [line.split(" ") for line in MERGES.read_text().splitlines()]
  merges = [(a, b) for a, b in pairs]
  tokens = [*SPECIAL, *alphabet(), *(a + b for a, b in merges)]
  return {token: i for i, token in enumerate(tokens)}, merges


def tokenizer() -> tokenizers.Tokenizer:
  """Any text is tokens, and tokens are the text again.

  Control tokens in a text are recognised; set `encode_special_tokens = True`
  on the result where texts are data.
  """
  vocab, merges = _model()
  out = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
  out.pre_tokenizer = pre_tokenizer()
  out.decoder = decoders.ByteLevel()
  out.add_special_tokens(list(SPECIAL))
  return out
