"""Adapters by hand; names, targets, and what the methods get to see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_cl import tree
from jax_cl.policies import base, llama, lora


def test_an_adapted_product_by_hand():
  # x = [1, 2], W = I, A = [[1], [1]], B = [[10, 20]], scale 1/2:
  # x W = [1, 2]; x A = 3; 3 B = [30, 60]; y = [1 + 15, 2 + 30].
  linear = base.Linear(2, "float32", scale=0.5)
  a, b = jnp.ones((2, 1)), jnp.asarray([[10.0, 20.0]])
  params = {"kernel": jnp.eye(2), "lora_a": a, "lora_b": b}
  x = jnp.asarray([[1.0, 2.0]])
  np.testing.assert_array_equal(linear.apply({"params": params}, x), [[16, 32]])
  alone = {"params": {"kernel": jnp.eye(2)}}
  np.testing.assert_array_equal(linear.apply(alone, x), x)
  merged = lora.merge({"m": params}, 0.5)["m"]
  assert list(merged) == ["kernel"]
  np.testing.assert_array_equal(x @ merged["kernel"], [[16, 32]])


def test_methods_see_the_adapters_alone():
  policy = llama.make("tiny", lora_rank=2, lora_targets="layers/attn/(q|v)")
  params = jax.eval_shape(policy.init, jax.random.key(0))
  mine, frozen = tree.split(params, tree.select(params, lora.LEAVES))
  shapes = {p: x.shape for p, x in zip(tree.paths(mine), jax.tree.leaves(mine))}
  assert shapes == {
    "layers/attn/q/lora_a": (3, 32, 2),
    "layers/attn/q/lora_b": (3, 2, 64),
    "layers/attn/v/lora_a": (3, 32, 2),
    "layers/attn/v/lora_b": (3, 2, 32),
  }
  plain = jax.eval_shape(llama.make("tiny").init, jax.random.key(0))
  assert tree.paths(frozen) == tree.paths(plain)


def test_a_begins_within_its_bound_and_b_at_zero():
  params = {"layers": {"m": {"kernel": jnp.zeros((3, 400, 7))}}}
  new = lora.add(params, jax.random.key(0), rank=50, targets="layers/m")
  a = new["layers"]["m"]["lora_a"]
  # Uniform in +-1/sqrt(400) = +-.05, so its variance is .05^2 / 3.
  assert 0.049 < jnp.abs(a).max() <= 0.05
  assert float(a.var()) == pytest.approx(0.05**2 / 3, rel=0.05)
  assert not jnp.array_equal(a[0], a[1])
  assert not new["layers"]["m"]["lora_b"].any()


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"lora_targets": "layers/q"}, "matches no module; .* layers/attn/q"),
    ({"lora_rank": -1}, "lora_rank=-1 must be positive"),
  ],
)
def test_bad_adapters_are_refused(changes, message):
  policy = llama.make("tiny", **{"lora_rank": 2, **changes})
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(policy.init, jax.random.key(0))
