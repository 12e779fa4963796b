"""Which rows begin alike; that nothing else changes: `agents/test_shared`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from peers import quick_jit, random

from jax_cl.policies import alike, llama

POLICY = llama.make("tiny", layers=1)
N, T = 5, 9
BEGINS = np.array([[7, 1, 2, 3, 4], [9, 1, 2, 3, 4]])


def rows(kinds, lengths):
  """obs of rows that begin with BEGINS[kind]; the rest is random."""
  rng = np.random.default_rng(0)
  lengths = np.array(lengths)[:, None]
  ids = rng.integers(1, 99, (len(kinds), T))
  ids[:, :N] = BEGINS[list(kinds)]
  segments = np.arange(T)[None] < lengths
  positions = np.broadcast_to(np.arange(T)[None], ids.shape)
  obs = {"tokens": ids, "positions": positions, "segments": segments}
  return {k: (v * segments).astype(np.int32) for k, v in obs.items()}


@pytest.fixture(scope="module")
def params():
  return random(jax.eval_shape(POLICY.init, jax.random.key(0)))


def test_rows_are_put_to_the_prompt_they_begin_with():
  begins = jnp.asarray([[5, 6], [1, 2], [5, 6], [1, 2], [3, 3]])
  real = jnp.asarray([True, True, True, True, False])
  found = alike.find(begins, real, 2)
  assert found.leaders.tolist() == [0, 1] and bool(found.fits)
  assert found.place[:4].tolist() == [0, 1, 0, 1]
  assert not alike.find(begins, real, 1).fits
  assert not alike.find(begins, jnp.ones(5, bool), 2).fits
  # Fewer than there might be: nobody is put to the one too many.
  assert alike.find(begins, real, 3).place.max() == 1


def test_one_prompt_too_many_is_no_number(params):
  jitted = quick_jit(lambda p, obs: alike.hidden(POLICY, p, obs, N, 1))
  f = lambda obs: np.asarray(jitted(params, obs))
  assert np.isnan(f(rows((0, 1, 0), (9, 9, 9)))).all()
  assert np.isfinite(f(rows((0, 0, 0), (9, 9, 9)))).all()
  # A row of padding begins as any.
  assert np.isfinite(f(rows((0, 1, 0), (9, 0, 9)))).all()
