"""Every family of `jax_cl/policies` goes through the same checks."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from peers import padded, quick_jit, random, relative, transformers_model

from jax_cl import policies, tree
from jax_cl.policies import base, hub, lora, rope, slots

# Sizes that all differ, so that no axis passes for another.
SMALL = {
  "layers": 2,
  "width": 32,
  "heads": 4,
  "kv_heads": 2,
  "head_width": 16,
  "ff_width": 48,
  "vocab": 99,
  "context": 64,
  "rope_theta": 1000.0,
}
# What a family can do beyond its first variant; `tiny` is the plain form.
TWISTS = {
  "llama": {
    "tied": False,
    "rope_scaling": rope.Scaling("llama3", 8.0, 16),
    "qkv_bias": True,
    "o_bias": True,
    "mlp_bias": True,
  },
  "qwen2": {"window": 5, "window_layers": (1,)},
  "qwen3": {
    "tied": False,
    "rope_scaling": rope.Scaling("yarn", 4.0, 16, gain=1.2),
    "qkv_bias": True,
    "o_bias": True,
  },
}
FAMILIES = policies.families()
every_family = pytest.mark.parametrize("name", FAMILIES)
VARIANTS = [(f, v) for f in FAMILIES for v in policies.family(f).VARIANTS]
ROWS = [[5, 9, 2, 71, 33], [8, 8, 1], [40, 41, 42, 43, 44, 45, 46]]


def small(name, **changes):
  family = policies.family(name)
  sizes = {**SMALL, **TWISTS.get(name, {}), **changes}
  return family.make(next(iter(family.VARIANTS)), **sizes)


@functools.cache
def made(name):
  """(policy, params, jitted hidden), shared by a family's tests."""
  policy = small(name)
  shapes = jax.eval_shape(policy.init, jax.random.key(0))
  return policy, random(shapes), quick_jit(policy.hidden)


@functools.cache
def states(name):
  """ROWS through the model, right-padded: f32[3, 8, D]."""
  policy, params, hidden = made(name)
  return hidden(params, *padded(ROWS, 8))[0]


def cross_entropy(policy, params, tokens_BT):
  """(mean nats of the next token, logits)."""
  at = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
  x, _ = policy.hidden(params, tokens_BT, at, jnp.ones_like(tokens_BT))
  logits = policy.unembed(params, x)
  logp = jax.nn.log_softmax(logits[:, :-1])
  nats = -jnp.take_along_axis(logp, tokens_BT[:, 1:, None], axis=-1)
  return nats.mean(), logits


@every_family
def test_logits_loss_and_gradients_equal_transformers(name):
  policy, params, _ = made(name)
  tokens = np.random.default_rng(3).integers(99, size=(2, 24), dtype=np.int32)
  model = transformers_model(policy.config, params)
  torch = pytest.importorskip("torch")
  ids = torch.tensor(tokens, dtype=torch.long)
  theirs = model(ids, labels=ids)
  theirs.loss.backward()
  f = functools.partial(cross_entropy, policy)
  grad = quick_jit(jax.value_and_grad(f, has_aux=True))
  (loss, logits), g = grad(params, jnp.asarray(tokens))
  assert relative(logits, theirs.logits.detach().numpy()) < 1e-4
  assert float(loss) == pytest.approx(theirs.loss.item(), rel=1e-4)
  named = dict(model.named_parameters())
  weight_map = policies.family(name).WEIGHT_MAP
  for name, ours in hub.to_hub(g, weight_map).items():
    assert relative(ours, named[name].grad.numpy()) < 1e-4, name


@every_family
def test_packed_rows_equal_padded_rows(name):
  _, params, hidden = made(name)
  tokens = np.concatenate([*ROWS, [0]]).astype(np.int32)[None]
  positions = np.concatenate([*(np.arange(len(r)) for r in ROWS), [0]])[None]
  segments = np.repeat([1, 2, 3, 0], [5, 3, 7, 1])[None]
  packed, _ = hidden(params, tokens, positions.astype(np.int32), segments)
  rows = [states(name)[i, : len(row)] for i, row in enumerate(ROWS)]
  np.testing.assert_allclose(packed[0, :-1], jnp.concatenate(rows), atol=2e-5)


def decoded(name, params, cache, rows, start=0):
  """Rows in ragged chunks: what is padding in one, the next overwrites."""
  hidden = made(name)[2]
  got = [[] for _ in rows]
  done = jnp.full((len(rows), 1), start, jnp.int32)
  for a, b in [(0, 2), (2, 3), (3, 9)]:
    chunk = [row[a:b] for row in rows]
    tokens, positions, segments = padded(chunk, 4)
    x, cache = hidden(params, tokens, positions + done, segments, cache)
    done += segments.sum(1, keepdims=True)
    for i, row in enumerate(chunk):
      got[i].append(x[i, : len(row)])
  np.testing.assert_array_equal(cache.length, [len(r) for r in rows])
  return [jnp.concatenate(x) for x in got]


@every_family
def test_decode_equals_prefill_at_every_position(name):
  policy, params, _ = made(name)
  got = decoded(name, params, policy.init_cache(len(ROWS), 10), ROWS)
  for i, row in enumerate(ROWS):
    np.testing.assert_allclose(got[i], states(name)[i, : len(row)], atol=2e-5)


@every_family
def test_slots_behind_a_shared_prefix_equal_whole_rows(name):
  policy, params, hidden = made(name)
  apart, common = base.unstack(params), [3, 1, 4, 1, 5, 9]
  cache = slots.init(policy.config, 1, 8)
  _, cache = hidden(apart, *padded([common], 6), cache)
  cache = slots.init(policy.config, len(ROWS), 10, slots.prefix_of(cache))
  got = decoded(name, apart, cache, ROWS, start=len(common))
  whole, _ = hidden(params, *padded([common + row for row in ROWS], 16))
  for i, row in enumerate(ROWS):
    np.testing.assert_allclose(
      got[i], whole[i, len(common) : len(common) + len(row)], atol=2e-5
    )


@every_family
def test_adapters_begin_at_nothing_and_merge_into_the_kernels(name):
  policy = small(name, lora_rank=3, lora_alpha=5.0)
  params, hidden = made(name)[1:]
  params = lora.add(params, jax.random.key(1), rank=3, targets="layers/.*")
  fresh, _ = quick_jit(policy.hidden)(params, *padded(ROWS, 8))
  np.testing.assert_array_equal(fresh, states(name))
  mine, rest = tree.split(params, tree.select(params, lora.LEAVES))
  assert len(jax.tree.leaves(mine)) == 14
  params = tree.join(random(mine), rest)
  adapted, _ = quick_jit(policy.hidden)(params, *padded(ROWS, 8))
  merged = lora.merge(params, 5.0 / 3)
  inside = jnp.asarray(padded(ROWS, 8)[2] > 0)[..., None]
  expected, _ = hidden(merged, *padded(ROWS, 8))
  assert relative(adapted * inside, expected * inside) < 1e-5
  assert relative(adapted * inside, states(name) * inside) > 0.01


@pytest.mark.parametrize("name, variant", VARIANTS)
def test_every_size_names_its_axes_and_its_weights(name, variant):
  family = policies.family(name)
  policy = family.make(variant, lora_rank=2)
  shapes = jax.eval_shape(policy.init, jax.random.key(0))
  jax.tree.map(
    lambda s, a: [*zip(s.shape, a, strict=True)], shapes, policy.axes()
  )
  for path in tree.paths(shapes):
    if not re.fullmatch(lora.LEAVES, path):
      assert path in family.WEIGHT_MAP and path in family.GGUF_MAP
  for leaf in jax.tree.leaves(shapes):
    assert leaf.dtype == jnp.float32


@every_family
def test_unknown_names_and_impossible_sizes_are_refused(name):
  family = policies.family(name)
  known = next(iter(family.VARIANTS))
  for changes, message in [
    ({"kv_heads": 3, "heads": 4}, "heads=4 is not a multiple of kv_heads=3"),
    ({"head_width": 5}, "must be even"),
    ({"dtype": "int8"}, "float32 or bfloat16"),
    ({"remat": "ful"}, "did you mean 'full'"),
    ({"lora_rnak": 2}, "did you mean 'lora_rank'"),
    ({"window_layers": (0,)}, "window=0"),
  ]:
    with pytest.raises(ValueError, match=message):
      family.make(known, **changes)
  with pytest.raises(ValueError, match=f"did you mean '{known}'"):
    family.make(known + "x")


def test_every_family_is_found():
  assert {"llama", "qwen2", "qwen3", "tiny"} <= set(FAMILIES)
  assert set(TWISTS) <= set(FAMILIES) and set(hub.FAMILIES) <= set(FAMILIES)
  with pytest.raises(ValueError, match="unknown model family.*'qwen2'"):
    policies.family("qwen22")
