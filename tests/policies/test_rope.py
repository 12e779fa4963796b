"""Angles by hand, and every scaling beside transformers' own frequencies."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from jax_cl.policies import hub, rope

WIDTH, THETA = 32, 10000.0


def frequencies(scaling):
  """The angles of position 1 (they are below pi), and the gain."""
  cos, sin = rope.angles(jnp.ones((1, 1), int), WIDTH, THETA, scaling)
  return np.arctan2(sin, cos).ravel(), float(jnp.hypot(cos, sin).max())


def test_plain_angles_by_hand():
  # width 4, theta 100: frequencies 1 and 100^(-1/2) = .1.
  cos, sin = rope.angles(jnp.asarray([[0, 3]]), 4, 100.0)
  np.testing.assert_allclose(cos[0, 1, 0], [math.cos(3), math.cos(0.3)], 1e-6)
  np.testing.assert_allclose(sin[0, 1, 0], [math.sin(3), math.sin(0.3)], 1e-6)
  np.testing.assert_array_equal(sin[0, 0, 0], [0, 0])


def test_rotation_by_hand():
  # A quarter turn takes channel i to channel i + C/2, and that to minus it.
  x = jnp.asarray([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
  y = rope.rotate(x, jnp.zeros((1, 1, 1, 2)), jnp.ones((1, 1, 1, 2)))
  np.testing.assert_array_equal(y.ravel(), [-3, -4, 1, 2])


def test_only_the_distance_counts():
  rng = np.random.default_rng(0)
  q, k = rng.normal(size=(2, 1, 1, 1, WIDTH)).astype(np.float32)
  scaling = rope.Scaling("yarn", 4.0, 64, gain=1.1)

  def score(m, n):
    at = lambda i: rope.angles(jnp.asarray([[i]]), WIDTH, THETA, scaling)
    return float((rope.rotate(q, *at(m)) * rope.rotate(k, *at(n))).sum())

  assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-4)
  assert abs(score(9, 4) - score(9, 5)) > 1e-3


@pytest.mark.parametrize(
  "keys",
  [
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
     "high_freq_factor": 4.0, "original_max_position_embeddings": 128},
    {"rope_type": "yarn", "factor": 4.0},
    {"rope_type": "yarn", "factor": 8.0, "beta_fast": 16, "beta_slow": 2,
     "original_max_position_embeddings": 128, "attention_factor": 0.9},
    {"rope_type": "yarn", "factor": 8.0, "mscale": 0.7, "mscale_all_dim": 0.5,
     "original_max_position_embeddings": 64, "truncate": False},
  ],
)  # fmt: skip
def test_scaled_frequencies_equal_transformers(keys):
  pytest.importorskip("torch")
  from transformers import LlamaConfig
  from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

  theirs = LlamaConfig(
    hidden_size=64,
    num_attention_heads=2,
    max_position_embeddings=512,
    rope_theta=THETA,
    rope_scaling=dict(keys),
  )
  want, gain = ROPE_INIT_FUNCTIONS[keys["rope_type"]](theirs, "cpu")
  # As transformers saves it, and as older versions did.
  old = {"rope_theta": THETA, "rope_scaling": keys}
  for c in (
    theirs.to_dict(),
    theirs.to_dict() | {"rope_parameters": None} | old,
  ):
    scaling = hub.from_json(c, "here").rope_scaling
    got, got_gain = frequencies(scaling)
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-5)
    assert got_gain == pytest.approx(gain, rel=1e-6)


def test_dynamic_scaling_is_plain_within_the_context():
  pytest.importorskip("torch")
  from transformers import LlamaConfig
  from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

  keys = {"rope_type": "dynamic", "factor": 4.0}
  theirs = LlamaConfig(
    hidden_size=64, num_attention_heads=2, rope_scaling=dict(keys)
  )
  want, gain = ROPE_INIT_FUNCTIONS["dynamic"](theirs, "cpu", seq_len=2048)
  assert hub.from_json(theirs.to_dict(), "here").rope_scaling is None
  np.testing.assert_allclose(frequencies(None)[0], want.numpy(), rtol=1e-5)
  assert gain == 1
