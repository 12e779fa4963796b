"""Our Llama is transformers' Llama, packed, padded, cached or cut short."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_cl import tree
from jax_cl.policies import base, hub, llama, rope, weights

ROWS = [[5, 9, 2, 71, 33], [8, 8, 1], [40, 41, 42, 43, 44, 45, 46]]


def padded(rows, width):
  """tokens, positions, segments: int32[rows, width], right-padded."""
  tokens, positions, segments = np.zeros((3, len(rows), width), np.int32)
  for i, row in enumerate(rows):
    tokens[i, : len(row)] = row
    positions[i, : len(row)] = np.arange(len(row))
    segments[i, : len(row)] = 1
  return jnp.asarray(tokens), jnp.asarray(positions), jnp.asarray(segments)


def one(policy, params, row, **kwargs):
  hidden = jax.jit(functools.partial(policy.hidden, **kwargs))
  return hidden(params, *padded([row], len(row)))[0][0]


@pytest.fixture(scope="module")
def tiny():
  policy = llama.make("tiny")
  return policy, jax.jit(policy.init)(jax.random.key(0))


def relative(a, b):
  return np.max(np.abs(a - b)) / np.max(np.abs(b))


def transformers_llama(policy, params):
  """transformers' own model with the same weights, float32 on CPU."""
  transformers = pytest.importorskip("transformers")
  torch = pytest.importorskip("torch")
  c = policy.config
  model = transformers.LlamaForCausalLM(
    transformers.LlamaConfig(
      vocab_size=c.vocab,
      hidden_size=c.width,
      intermediate_size=c.ff_width,
      num_hidden_layers=c.layers,
      num_attention_heads=c.heads,
      num_key_value_heads=c.kv_heads,
      head_dim=c.head_width,
      max_position_embeddings=c.context,
      rms_norm_eps=c.norm_eps,
      rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
      tie_word_embeddings=c.tied,
    )
  )
  state = hub.to_hub(params, llama.WEIGHT_MAP)
  state = {k: torch.tensor(np.array(v)) for k, v in state.items()}
  if c.tied:
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
  model.load_state_dict(state, strict=True)

  def run(tokens):
    with torch.no_grad():
      out = model.eval()(
        torch.tensor(np.asarray(tokens)), output_hidden_states=True
      )
    return out.logits.numpy(), [h.numpy() for h in out.hidden_states]

  return run


@pytest.mark.parametrize("tied", [True, False])
def test_logits_equal_transformers(tied):
  policy = llama.make("tiny", tied=tied)
  params = jax.jit(policy.init)(jax.random.key(1))
  noise = lambda x: x + 0.1 * jax.random.normal(jax.random.key(2), x.shape)
  params = jax.tree.map(noise, params)  # norms that are not all ones
  tokens = np.asarray(jax.random.randint(jax.random.key(3), (2, 50), 0, 99))
  logits, layers = transformers_llama(policy, params)(tokens)
  positions = np.broadcast_to(np.arange(50), (2, 50))
  args = params, tokens, positions, np.ones_like(tokens)
  x, _ = jax.jit(policy.hidden)(*args)
  assert relative(jax.jit(policy.unembed)(params, x), logits) < 1e-4
  x, _ = jax.jit(functools.partial(policy.hidden, layers=2))(*args)
  assert relative(x, layers[2]) < 1e-4


@pytest.fixture(scope="module")
def smollm2():
  try:
    return weights.load("smollm2-135m")
  except weights.NotFetched as e:
    pytest.skip(f"no network and no copy of the weights: {e}")


def test_real_logits_equal_transformers(smollm2):
  policy, params = smollm2
  text = "<|im_start|>user\nCancel order #W2378156, please.<|im_end|>\n"
  ids = weights.tokenizer("smollm2-135m").encode(text).ids
  tokens, positions, segments = padded([ids], len(ids))
  x, _ = jax.jit(policy.hidden)(params, tokens, positions, segments)
  logits, _ = transformers_llama(policy, params)(tokens)
  assert relative(jax.jit(policy.unembed)(params, x), logits) < 1e-4


def test_real_model_speaks(smollm2):
  # A model with rows in the wrong order still has plausible shapes and norms.
  policy, params = smollm2
  tokenizer = weights.tokenizer("smollm2-135m")
  ids = tokenizer.encode(
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
    "<|im_start|>assistant\nThe capital of France is"
  ).ids
  x = one(policy, params, ids)
  best = int(jnp.argmax(policy.unembed(params, x[None, -1:])))
  assert tokenizer.decode([best]) == " Paris"


def test_padding_changes_nothing(tiny):
  policy, params = tiny
  x, _ = jax.jit(policy.hidden)(params, *padded(ROWS, 12))
  for i, row in enumerate(ROWS):
    np.testing.assert_allclose(
      x[i, : len(row)], one(policy, params, row), atol=1e-5
    )


def test_packed_rows_equal_rows_alone(tiny):
  policy, params = tiny
  tokens = np.concatenate([*ROWS, [0]]).astype(np.int32)[None]
  positions = np.concatenate([*(np.arange(len(r)) for r in ROWS), [0]])[None]
  segments = np.repeat([1, 2, 3, 0], [5, 3, 7, 1])[None]
  x, _ = jax.jit(policy.hidden)(params, tokens, positions, segments)
  alone = jnp.concatenate([one(policy, params, row) for row in ROWS])
  np.testing.assert_allclose(x[0, :-1], alone, atol=1e-5)


@pytest.mark.parametrize("stacked", [True, False])
def test_decode_equals_prefill_at_every_position(tiny, stacked):
  policy, params = tiny
  params = params if stacked else base.unstack(params)
  cache = policy.init_cache(len(ROWS), 10)
  # Ragged chunks: what is padding in one is overwritten by the next.
  chunks = [[row[a:b] for row in ROWS] for a, b in [(0, 2), (2, 3), (3, 9)]]
  got = [[] for _ in ROWS]
  done = jnp.zeros((len(ROWS), 1), jnp.int32)
  step = jax.jit(policy.hidden)
  for chunk in chunks:
    tokens, positions, segments = padded(chunk, 4)
    x, cache = step(params, tokens, positions + done, segments, cache)
    done += segments.sum(1, keepdims=True)
    for i, row in enumerate(chunk):
      got[i].append(x[i, : len(row)])
  np.testing.assert_array_equal(cache.length, [len(r) for r in ROWS])
  for i, row in enumerate(ROWS):
    np.testing.assert_allclose(
      jnp.concatenate(got[i]), one(policy, params, row), atol=1e-5
    )


def test_stopping_early_is_a_prefix(tiny):
  policy, params = tiny
  cut = {**params, "layers": jax.tree.map(lambda a: a[:2], params["layers"])}
  early = one(policy, params, ROWS[0], layers=2)
  np.testing.assert_array_equal(early, one(policy, cut, ROWS[0]))
  rest = {**params, "layers": jax.tree.map(lambda a: a[2:], params["layers"])}
  tokens, positions, segments = padded(ROWS[:1], 5)
  angles = rope.angles(positions, 16, 1000.0)
  mask = positions[:, :, None] >= positions[:, None]
  view = base.View(angles, mask, None, None)
  layer = jax.tree.map(lambda a: a[0], rest["layers"])
  late, _ = llama.Block(policy.config).apply(
    {"params": layer}, early[None], view, None, None
  )
  np.testing.assert_allclose(
    late[0], one(policy, params, ROWS[0]), atol=1e-5, rtol=1e-5
  )


def test_no_gradient_from_later_tokens(tiny):
  policy, params = tiny
  tokens, positions, segments = padded(ROWS[:1], 5)

  def f(table):
    # One table row a position, so that its gradient is the position's.
    p = {**params, "embed": {"embedding": table}}
    at = jnp.arange(5)[None]
    return policy.hidden(p, at, positions, segments)[0][0, 2].sum()

  g = jax.jit(jax.grad(f))(params["embed"]["embedding"][tokens[0]])
  assert (jnp.abs(g).sum(-1) > 0).tolist() == [True] * 3 + [False] * 2


def test_bfloat16_computes_near_float32(tiny):
  policy, params = tiny
  half = llama.make("tiny", dtype="bfloat16")
  x = one(half, params, ROWS[2])
  assert x.dtype == jnp.bfloat16
  logits = half.unembed(params, x[None])
  assert logits.dtype == jnp.float32
  exact = policy.unembed(params, one(policy, params, ROWS[2])[None])
  assert relative(logits, exact) < 0.05


@pytest.mark.parametrize("variant", llama.VARIANTS)
def test_axes_name_every_dimension(variant):
  policy = llama.make(variant)
  shapes = jax.eval_shape(policy.init, jax.random.key(0))
  jax.tree.map(
    lambda s, a: [*zip(s.shape, a, strict=True)], shapes, policy.axes()
  )
  if variant == "smollm2-135m":
    assert tree.size(shapes) == 134_515_008  # as published


@pytest.mark.parametrize(
  "call, message",
  [
    (lambda: llama.make("smollm"), "did you mean 'smollm2-360m'"),
    (lambda: llama.make("tiny", kv_heads=3), "not a multiple of kv_heads=3"),
    (lambda: llama.make("tiny", dtype="int8"), "float32 or bfloat16"),
  ],
)
def test_bad_configs_are_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_bad_depth_is_refused(tiny):
  policy, params = tiny
  with pytest.raises(
    ValueError, match="layers=4: these parameters hold 1 to 3"
  ):
    one(policy, params, ROWS[0], layers=4)
