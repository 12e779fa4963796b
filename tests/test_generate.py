"""Slots compute what plain rows do, and sampling what its formulas say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from peers import quick_jit

from jax_cl import generate
from jax_cl.bench import generate as bench
from jax_cl.policies import base, llama, slots

POLICY = llama.make("tiny", layers=2, context=512)
STACKED = jax.jit(POLICY.init)(jax.random.key(0))
PARAMS = base.unstack(STACKED)
RNG = np.random.default_rng(0)
COMMON = RNG.integers(0, 99, 150)  # a prefix of two blocks
OWN = [RNG.integers(0, 99, n) for n in (5, 140, 70)]


def padded(rows, T):
  tokens = np.zeros((len(rows), T), np.int32)
  for i, row in enumerate(rows):
    tokens[i, : len(row)] = row
  return jnp.asarray(tokens), jnp.asarray([len(r) for r in rows], jnp.int32)


@jax.jit
def _logprobs(params, ids):
  """log p(ids[t + 1] | ids[:t + 1]) of a row on its own, without slots."""
  T = ids.shape[1]
  x, _ = POLICY.hidden(params, ids, jnp.arange(T)[None], jnp.ones_like(ids))
  z = jax.nn.log_softmax(POLICY.unembed(params, x))
  return jnp.take_along_axis(z[0, :-1], ids[0, 1:, None], axis=1)[:, 0]


def logprobs(row):
  ids = np.zeros((1, 320), np.int32)  # padding comes after all that counts
  ids[0, : len(row)] = row
  return np.asarray(_logprobs(STACKED, ids))[: len(row) - 1]


@pytest.fixture(scope="module")
def prefix():
  fill = jax.jit(functools.partial(generate.fill, POLICY))
  return slots.prefix_of(fill(PARAMS, *padded([COMMON], 256)))


def state(last, seeds, left=24, temperature=1.0):
  B = len(last)
  return generate.SamplingState(
    jnp.asarray(last, jnp.int32),
    jnp.broadcast_to(jnp.asarray(left, jnp.int32), B),
    jnp.asarray(seeds, jnp.uint32),
    jnp.full(B, temperature, jnp.float32),
    jnp.ones(B, jnp.float32),
    jnp.zeros(B, jnp.int32),
  )


@functools.partial(jax.jit, static_argnames="size")
def _go_on(cache, state, size):
  return generate.decode(
    POLICY,
    PARAMS,
    slots.grow(cache, size),
    state,
    stops=jnp.asarray([98]),
    steps=24,
    truncate=False,
  )


def read(rows, prefix, T=128):
  """The rows in slots, all but their last tokens, in chunks of T."""
  cache = slots.init(POLICY.config, len(rows), 256, prefix)
  extend = jax.jit(functools.partial(generate.extend, POLICY))
  for a in range(0, max(map(len, rows)), T):
    cache = extend(PARAMS, *padded([r[:-1][a : a + T] for r in rows], T), cache)
  return cache


@pytest.mark.parametrize("shared", [True, False])
def test_sampled_tokens_have_the_logprobs_of_plain_rows(shared, prefix):
  cache = read(OWN, prefix if shared else None)
  cache, after, drawn = _go_on(
    cache, state([r[-1] for r in OWN], [1, 2, 3], left=[24, 24, 9]), size=256
  )
  before = COMMON if shared else COMMON[:0]
  for i, own in enumerate(OWN):
    n = int(drawn.sampled[i].sum())
    assert n == 9 if i == 2 else n <= 24
    row = [*before, *own, *drawn.tokens[i, :n]]
    np.testing.assert_allclose(
      drawn.logprobs[i, :n], logprobs(row)[-n:], atol=1e-5
    )
    # All but the last token is in the cache.
    assert int(cache.length[i]) == len(own) - 1 + n
    assert int(after.token[i]) == row[-1]
  assert not np.asarray(drawn.sampled)[2, 9:].any()


def test_a_row_goes_on_where_it_stood(prefix):
  # Twice 24 tokens equal what one row of all tokens gives.
  cache, now, a = _go_on(read(OWN, prefix), state([1, 2, 3], [1, 2, 3]), 256)
  now = now._replace(left=jnp.full(3, 24, jnp.int32))
  _, _, b = _go_on(cache, now, size=256)
  row = [*COMMON, *OWN[0][:-1], 1, *a.tokens[0], *b.tokens[0]]
  assert bool(a.sampled[0].all()) and bool(b.sampled[0].all())
  np.testing.assert_allclose(b.logprobs[0], logprobs(row)[-24:], atol=1e-5)


def test_filling_is_extending_empty_slots(prefix):
  fill = jax.jit(functools.partial(generate.fill, POLICY))
  extend = jax.jit(functools.partial(generate.extend, POLICY))
  rows = padded(OWN, 256)
  filled = fill(PARAMS, *rows, prefix)
  read = extend(PARAMS, *rows, slots.init(POLICY.config, 3, 256, prefix))
  np.testing.assert_array_equal(filled.length, read.length)
  for a, b in zip(filled.k + filled.v, read.k + read.v, strict=True):
    for i, own in enumerate(OWN):
      np.testing.assert_allclose(
        a[i, :, : len(own)], b[i, :, : len(own)], atol=1e-5
      )


def test_bits_do_not_depend_on_the_caches_size_or_the_slot(prefix):
  last = [r[-1] for r in OWN]
  start = read(OWN, prefix)
  _, _, a = _go_on(start, state(last, [1, 2, 3]), size=256)
  _, _, b = _go_on(start, state(last, [1, 2, 3]), size=512)
  turned = read(OWN[::-1], prefix)
  _, _, c = _go_on(turned, state(last[::-1], [3, 2, 1]), size=256)
  for x, y, z in zip(a, b, c):
    np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(x, z[::-1])


def test_a_long_text_read_in_long_chunks_is_that_of_one_chunk():
  """Chunks of two blocks walk over the cache; its size changes no bit."""
  text = RNG.integers(0, 99, 700)
  long = llama.make("tiny", layers=2, context=1024)
  extend = jax.jit(functools.partial(generate.extend, long))

  def read(size):
    cache = slots.init(long.config, 2, size)
    for a in (0, 200, 400, 600):  # the second row is silent before the last
      rows = [text[a : a + 200], text[:0] if a < 600 else text[:9]]
      cache = extend(PARAMS, *padded(rows, 256), cache)
    return cache

  a, b = read(768), read(1024)
  fill = jax.jit(functools.partial(generate.fill, long))
  whole = fill(PARAMS, *padded([text, text[:9]], 768))
  assert a.length.tolist() == b.length.tolist() == [700, 9]
  for x, y, z in zip(a.k + a.v, b.k + b.v, whole.k + whole.v, strict=True):
    for i, n in enumerate((700, 9)):
      np.testing.assert_array_equal(x[i, :, :n], y[i, :, :n])
      np.testing.assert_allclose(x[i, :, :n], z[i, :, :n], atol=1e-5)


def test_gradients_through_a_shared_prompt_are_those_of_whole_rows():
  B, T, P = 2, 40, len(COMMON)
  own = jnp.asarray(np.stack([r[:T] for r in OWN[1:]]))
  whole = jnp.concatenate(
    [jnp.broadcast_to(COMMON[None].astype(np.int32), (B, P)), own], 1
  )
  row = lambda n, a=0: jnp.broadcast_to(jnp.arange(a, a + n)[None], (B, n))
  weight = jnp.sin(row(T))[..., None]

  def plain(params):
    x, _ = POLICY.hidden(params, whole, row(P + T), jnp.ones_like(whole))
    return (jnp.sin(x[:, P:]) * jnp.broadcast_to(weight, x[:, P:].shape)).sum()

  def shared(params):
    once = slots.Slots(None, None, jnp.zeros(1, jnp.int32))
    ids = jnp.asarray(COMMON, jnp.int32)[None]
    _, cache = POLICY.hidden(
      params, ids, jnp.arange(P)[None], jnp.ones_like(ids), once
    )
    after = slots.Slots(
      None, None, jnp.zeros(B, jnp.int32), slots.prefix_of(cache)
    )
    x, _ = POLICY.hidden(params, own, row(T, P), jnp.ones_like(own), after)
    return (jnp.sin(x) * jnp.broadcast_to(weight, x.shape)).sum()

  a, ga = quick_jit(jax.value_and_grad(plain))(STACKED)
  b, gb = quick_jit(jax.value_and_grad(shared))(STACKED)
  np.testing.assert_allclose(a, b, rtol=1e-5)
  for x, y in zip(jax.tree.leaves(ga), jax.tree.leaves(gb), strict=True):
    np.testing.assert_allclose(y, x, atol=2e-5 * float(jnp.abs(x).max()))


def test_merging_parts_is_softmax_over_all():
  # Scores log 1, log 2 | log 5 with values 1, 2, 3: (1 + 4 + 15) / 8.
  values = [np.array([1.0, 2.0]), np.array([3.0])]
  scores = [np.log([1.0, 2.0]), np.log([5.0])]
  parts = []
  for x, v in zip(scores, values):
    p = np.exp(x - x.max())
    parts.append([(p * v).sum(), x.max(), p.sum()])
  merged = slots.merge([jnp.asarray(x)[:, None] for x in zip(*parts)])
  np.testing.assert_allclose(merged, [2.5], rtol=1e-6)


# -------------------------------------------------------------------- sampling

P = np.array([0.5, 0.25, 0.125, 0.0625, 0.0625])


@pytest.mark.parametrize(
  "top_p,top_k,kept",
  [
    (1.0, 0, [1, 1, 1, 1, 1]),
    (0.5, 0, [1, 0, 0, 0, 0]),  # exactly the share of the first
    (0.51, 0, [1, 1, 0, 0, 0]),
    (1.0, 2, [1, 1, 0, 0, 0]),
    (1.0, 4, [1, 1, 1, 1, 1]),  # a tie with the last one kept
    (0.6, 2, [1, 0, 0, 0, 0]),  # shares count after top_k: 2/3 already holds
    (0.7, 2, [1, 1, 0, 0, 0]),
  ],
)
def test_truncation_by_hand(top_p, top_k, kept):
  order = np.array([3, 0, 4, 1, 2])  # unsorted
  z = jnp.log(jnp.asarray(P[order]))[None]
  got = generate.keep(z, jnp.asarray([top_p]), jnp.asarray([top_k]))
  np.testing.assert_array_equal(got[0], np.array(kept, bool)[order])


def draws(n, temperature=1.0, top_k=0):
  z = jnp.broadcast_to(jnp.log(jnp.asarray(P))[None], (n, 5))
  s = state(np.zeros(n), np.arange(n), temperature=temperature)
  s = s._replace(top_k=jnp.full(n, top_k, jnp.int32))
  sample = jax.jit(functools.partial(generate.sample, truncate=True))
  token, logp = sample(z, s, jnp.full(n, 7))
  return np.asarray(token), np.asarray(logp)


def test_draws_follow_the_distribution_that_they_report():
  n = 4000
  token, logp = draws(n, temperature=0.5, top_k=3)
  q = P[:3] ** 2 / (P[:3] ** 2).sum()  # after temperature and truncation
  np.testing.assert_allclose(logp, np.log(q)[token], rtol=1e-4)
  counts = np.bincount(token, minlength=5)
  assert counts[3:].sum() == 0
  chi2 = ((counts[:3] - n * q) ** 2 / (n * q)).sum()
  assert chi2 < 13.8  # 2 degrees of freedom, p = .001


def test_temperature_zero_takes_the_most_probable():
  token, logp = draws(3, temperature=0.0)
  assert token.tolist() == [0, 0, 0]
  np.testing.assert_allclose(logp, np.log(0.5), rtol=1e-6)


def test_a_draw_depends_on_seed_and_position_alone():
  z = jnp.zeros((2, 99))
  sample = jax.jit(functools.partial(generate.sample, truncate=False))
  at = lambda seeds, positions: sample(
    z, state([0, 0], seeds), jnp.asarray(positions)
  )[0].tolist()
  a, b = at([1, 2], [5, 9])
  assert at([2, 1], [9, 5]) == [b, a]
  assert at([1, 1], [5, 6])[0] == a and at([1, 1], [5, 6])[1] != a


# ------------------------------------------------------------------- benchmark


def test_the_benchmark_measures_both_sides(monkeypatch):
  pytest.importorskip("torch")
  pytest.importorskip("transformers")
  # In this process, at sizes that compile at once; the sides run apart else.
  monkeypatch.setattr(bench, "_apart", lambda f, shape, sizes: f(shape, sizes))
  monkeypatch.setitem(bench.SHAPES, "tiny", lambda: POLICY)
  sizes = {
    "rows": 2, "prompt": 16, "new": 4, "prefix": 130, "turns": 2, "read": 3,
    "sampled": 2, "conversations": 2, "repeats": 1,
  }  # fmt: skip
  whats = ("prefill", "decode")  # `multi_turn` costs a minute of compiling
  rows = list(bench.run(shapes=("tiny",), whats=whats, **sizes))
  assert [r["what"] for r in rows] == ["prefill", "decode"]
  for row in rows:
    assert row["ours"] > 0 and row["peer"] > 0
    assert row["ratio"] == row["ours"] / row["peer"]
  with pytest.raises(ValueError, match="did you mean 'decode'"):
    list(bench.run(whats=("decod",)))
