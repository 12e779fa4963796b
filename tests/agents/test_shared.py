"""A prompt that rows share is computed once: loss and gradients stay."""

import jax
import numpy as np
import pytest
from peers import quick_jit

from jax_cl.agents import llm
from jax_cl.policies import llama
from jax_cl.types import Batch

T = 12
MODEL = llama.make("tiny", layers=1)
PROMPT = 5  # tokens; the last of them is read to draw the first one
SHARED = {"shared": PROMPT - 1, "prompts": 2}


def batch(kinds=(1, 2, 1), early=False):
  """Three answers, here to two prompts, and a row of padding in front."""
  rng = np.random.default_rng(0)
  talks = [(np.zeros(0, np.int32), np.zeros(0), np.zeros(0))]
  for n, kind in zip((13, 9, 11), kinds):
    ids = rng.integers(1, 99, n).astype(np.int32)
    ids[:PROMPT] = np.arange(PROMPT) + kind
    mask = np.arange(n) >= PROMPT - early
    talks.append((ids, mask, np.full(n, -4.5)))
  return Batch(
    **llm.rows(talks, T),
    adv=np.array([0, 1, -1, 2], np.float32),
    weight=np.array([0, 1, 1, 1], np.float32),
    domain=np.zeros(4, np.int32),
    task=np.zeros(4, np.int32),
    reward=np.ones(4, np.float32),
  )


@pytest.fixture(scope="module")
def params():
  return quick_jit(MODEL.init)(jax.random.key(0))


def update(params, **options):
  """rows -> ((loss, figures), gradient), compiled once."""
  rest = jax.tree.map(lambda _: None, params)
  agent = llm.make(model=MODEL, length=T, **options)
  obj = agent.objective({"rest": rest, "base": params})
  f = quick_jit(jax.value_and_grad(obj.loss, has_aux=True))
  return lambda rows: f(params, rows, jax.random.key(0))


def test_loss_figures_and_gradients_are_those_of_whole_rows(params):
  (a, figures), da = update(params)(batch())
  f = update(params, chunk=3, **SHARED)
  (b, same), db = f(batch())
  np.testing.assert_allclose(b, a, rtol=1e-5)
  for k, v in figures.items():
    np.testing.assert_allclose(same[k], v, rtol=1e-5, atol=1e-6, err_msg=k)
  for x, y in zip(jax.tree.leaves(da), jax.tree.leaves(db), strict=True):
    np.testing.assert_allclose(y, x, rtol=0, atol=1e-5 * np.abs(x).max())
  # What cannot be computed so is no number, rather than a wrong one.
  assert np.isnan(f(batch(kinds=(1, 2, 3)))[0][0])
  assert np.isnan(f(batch(early=True))[0][0])


@pytest.mark.parametrize(
  "options, words",
  [
    ({"shared": 12}, "shared is 12.*below the 12 tokens"),
    ({"shared": 4, "buckets": (4, 8)}, "below the 4 tokens"),
    ({"shared": 4, "prompts": 0}, "prompts is 0"),
  ],
)
def test_what_cannot_be_shared_is_refused(options, words):
  with pytest.raises(ValueError, match=words):
    llm.make(**{"model": MODEL, "length": T, **options})
