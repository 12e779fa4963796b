"""How far trainer and sampler are apart before anything is learned."""

import jax

from jax_cl.bench import agreement
from jax_cl.policies import llama

SIZES = agreement.Sizes(conversations=3, prefix=40, turns=2, read=9, sampled=12)


def test_bfloat16_stays_within_a_loose_bound():
  """A random model of one layer; float32's bound is in test_engine."""
  policy = llama.make("tiny", layers=1, context=128, dtype="bfloat16")
  params = jax.jit(policy.init)(jax.random.key(0))
  row = agreement.gaps(policy, params, SIZES)
  assert row["tokens"] == 3 * 2 * 12
  assert 1e-5 < row["mean"] <= row["max"] < 0.1
  assert 0 < row["kl"] < 1e-3 and row["clipped"] == 0
