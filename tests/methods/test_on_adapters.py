"""The same files on an LLM's adapters: a real decoder of three layers."""

import functools

import jax
import numpy as np
import pytest

from jax_cl import tree
from jax_cl.bench import methods
from jax_cl.methods import _deltas
from jax_cl.policies import lora

# Those that touch the tree's structure, and one that reads its factors.
NAMES = [
  "lora", "olora", "packnet", "progressive", "isolation", "reptile",
  "online_ewc",
]  # fmt: skip


@functools.cache
def shape():
  return methods._llm_lora("tiny", size=20, length=4, rank=6)


@pytest.mark.slow  # ten seconds a method, nearly all of it compiling
@pytest.mark.parametrize("name", NAMES)
def test_a_method_trains_the_adapters_of_an_llm(name):
  loop = methods._Loop(shape(), name, {})
  before = jax.tree.map(np.array, loop.state.params)
  loop.seconds()
  after = loop.state.params
  assert not isinstance(after, _deltas.Adapted)  # it has adapters already
  assert tree.all_finite(after)
  acts = loop.steps.view(loop.state)
  assert all(jax.tree.leaves(tree.select(acts, lora.LEAVES)))
  pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
  assert any(np.any(a != b) for a, b in pairs)
