"""The LLM learner: chunks, micro-batches and padding change nothing; adapters
alone learn; cloned and sampled rows meet by their numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_cl import generate, tree
from jax_cl.agents import llm
from jax_cl.losses import grpo
from jax_cl.policies import llama
from jax_cl.types import CLONED, Batch

T = 12
MODEL = llama.make("tiny", layers=1)


def agent(**options):
  options = {"model": MODEL, "length": T} | options
  return llm.make(**options)


def batch(seed=0, lengths=(13, 9, 5, 13), cloned=(), adv=(1, -1, 2, -0.5)):
  """Conversations of random ids; the first three tokens are the prompt's."""
  rng = np.random.default_rng(seed)
  talks = []
  for b, n in enumerate(lengths):
    ids = rng.integers(1, 99, n).astype(np.int32)
    mask = (np.arange(n) >= 3).astype(np.float32)
    one = (ids, mask, np.full(n, -4.5, np.float32))
    talks.append(llm.cloned(ids, mask) if b in cloned else one)
  n = len(talks)
  return Batch(
    **llm.rows(talks, T),
    adv=np.array(adv, np.float32),
    weight=np.ones(n, np.float32),
    domain=np.zeros(n, np.int32),
    task=np.arange(n, dtype=np.int32),
    reward=np.ones(n, np.float32),
  )


@pytest.fixture(scope="module")
def params():
  return jax.jit(MODEL.init)(jax.random.key(0))


def objective(params, **options):
  rest = jax.tree.map(lambda _: None, params)
  return agent(**options).objective({"rest": rest, "base": params})


def value_and_grad(options, params, rows):
  obj = objective(params, **options)
  f = jax.value_and_grad(obj.loss, has_aux=True)
  return jax.jit(f)(params, rows, jax.random.key(1))


def close(a, b, rtol=2e-5):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, rtol=rtol, atol=2e-6)


def test_rows_are_shifted_by_one():
  one = llm.rows([(np.array([7, 8, 9]), np.array([0, 1, 1]), [0, -1, -2])], 4)
  assert one["obs"]["tokens"].tolist() == [[7, 8, 9, 0]]
  assert one["action"].tolist() == [[8, 9, 0, 0]]
  assert one["mask"].tolist() == [[1, 1, 0, 0]]
  assert one["logp_old"].tolist() == [[-1, -2, 0, 0]]
  assert one["obs"]["segments"].tolist() == [[1, 1, 1, 0]]


@pytest.mark.parametrize(
  "talk, words",
  [
    (([1, 2], [0, 1], [0]), "all must be one number"),
    (([1] * 6, [1] * 6, [0] * 6), "at most 5"),
    (([1, 2], [0, 1], [0, np.nan]), "no logprob"),
  ],
)
def test_a_row_that_does_not_add_up_is_refused(talk, words):
  with pytest.raises(ValueError, match=words):
    llm.rows([tuple(np.array(x) for x in talk)], 4)


@pytest.mark.slow
def test_chunks_micro_batches_and_padding_change_nothing(params):
  options = {"kl": 0.1, "entropy_bonus": 0.01}
  rows = batch(cloned=(2,))
  whole = value_and_grad(options, params, rows)
  assert 0 < whole[0][1]["accuracy"] + 1  # there are figures
  # Rows have 12, 8, 4 and 12 tokens: buckets cut some, and hold all.
  buckets = {"micro": 2, "buckets": (4, 9)}
  for how in ({"chunk": 5}, {"micro": 3, "chunk": 4}, buckets):
    close(value_and_grad(options | how, params, rows), whole)
  padded = jax.tree.map(
    lambda x: np.concatenate([x, np.zeros((2, *x.shape[1:]), x.dtype)]), rows
  )
  close(value_and_grad(options, params, padded), whole)


def test_a_batch_without_rows_is_not_computed_and_is_zero(params):
  rows = batch()
  none = rows._replace(weight=np.zeros_like(rows.weight))
  for how in ({}, {"micro": 2, "buckets": (4, 9)}):
    (loss, _), g = value_and_grad(how, params, none)
    assert loss == 0 and not any(x.any() for x in jax.tree.leaves(g))


def test_conversations_of_too_far_a_sampler_are_left_out(params):
  rows = batch()
  logp = np.asarray(objective(params).logp(params, rows))
  old = np.where(rows.mask > 0, logp, 0)
  old[1] -= np.log(1.5) * rows.mask[1]  # pi is 1.5 times its mu everywhere
  rows = rows._replace(logp_old=old)
  bounds = {"geometric": (0.8, 1.25)}
  (loss, aux), g = value_and_grad(bounds, params, rows)
  weight = np.array([1, 0, 1, 1], np.float32)
  (rest, _), kept = value_and_grad({}, params, rows._replace(weight=weight))
  assert aux["masked"] == 0.25
  np.testing.assert_allclose(loss, rest, rtol=1e-5)
  close(g, kept)


def test_bad_buckets_and_bounds_are_refused():
  for buckets in ((8, 4), (4, 4), (12,), (0, 4)):
    with pytest.raises(ValueError, match="must rise and lie below 12"):
      agent(buckets=buckets)
  with pytest.raises(ValueError, match="geometric is .0.9,"):
    agent(geometric=(0.9,))


def test_cloned_rows_and_sampled_rows_meet_by_their_numbers(params):
  both = batch(cloned=(2, 3))
  cut = lambda s: jax.tree.map(lambda x: x[s], both)
  (pg, _), g_pg = value_and_grad({}, params, cut(slice(0, 2)))
  (bc, _), g_bc = value_and_grad({}, params, cut(slice(2, 4)))
  (all_, _), g = value_and_grad({}, params, both)
  np.testing.assert_allclose(all_, (pg + bc) / 2, rtol=1e-5)
  close(g, jax.tree.map(lambda x, y: (x + y) / 2, g_pg, g_bc), rtol=1e-4)
  # Cloning is -A log pi a token, told here from the log-probabilities.
  obj = objective(params)
  one = cut(slice(2, 4))
  logp, n = obj.logp(params, one), one.mask.sum()
  hand = -(one.adv[:, None] * one.mask * logp).sum() / n
  np.testing.assert_allclose(bc, hand, rtol=1e-5)


def test_grpo_of_the_batch_is_the_loss(params):
  rows = batch()
  obj = objective(params)
  total, count = grpo.grpo(obj.logp(params, rows), rows)
  (loss, aux), _ = value_and_grad({}, params, rows)
  np.testing.assert_allclose(loss, total / count, rtol=1e-5)
  assert set(aux) >= {"entropy", "clip_fraction", "ratio", "kl_sampler"}
  ratio = np.exp(np.asarray(obj.logp(params, rows)) - rows.logp_old)
  w = ratio[rows.mask > 0]
  np.testing.assert_allclose(
    aux["ess"], w.sum() ** 2 / (w**2).sum() / w.size, rtol=1e-4
  )


def test_a_later_token_does_not_reach_an_earlier_loss(params):
  obj = objective(params)
  rows = batch(lengths=(13,), adv=(1,))
  changed = rows._replace(
    obs=rows.obs | {"tokens": rows.obs["tokens"].copy()},
  )
  changed.obs["tokens"][0, 8:] = 5
  a, b = obj.logp(params, rows), obj.logp(params, changed)
  np.testing.assert_array_equal(a[0, :8], b[0, :8])
  assert (a[0, 8:] != b[0, 8:]).any()


def test_the_largest_logits_and_the_logits_at_ids(params):
  rows = batch()
  all_ = jax.jit(objective(params).out)(params, rows)
  few = objective(params, top_k=3, chunk=5)
  logits, ids = jax.jit(few.out)(params, rows)
  hand = np.sort(all_, axis=-1)[..., :-4:-1]
  np.testing.assert_allclose(logits, hand, rtol=1e-5, atol=1e-6)
  again = jax.jit(few.out)(params, rows, ids)
  np.testing.assert_allclose(again, logits, rtol=1e-5, atol=1e-6)


def test_fisher_is_the_mean_squared_score_of_own_tokens(params):
  obj = objective(params)
  rows = batch(lengths=(5,), adv=(1,))
  rows = rows._replace(mask=np.eye(1, T, 3, dtype=np.float32))  # one token
  F = jax.jit(obj.fisher)(params, rows, jax.random.key(0))
  g = jax.jit(jax.grad(lambda p: obj.logp(p, rows)[0, 3]))(params)
  close(F, jax.tree.map(jnp.square, g))


def test_what_matches_nothing_is_refused():
  with pytest.raises(ValueError, match="matches none of"):
    agent(trains=".*lora_[ab]").init(jax.random.key(0))


def test_only_the_named_leaves_are_trained_and_the_base_is_kept():
  one = agent(trains=".*/(q|v)/kernel", kl=0.1)
  p, frozen = one.init(jax.random.key(0))
  assert set(tree.paths(p)) == {
    "layers/attn/q/kernel", "layers/attn/v/kernel",
  }  # fmt: skip
  obj, rows = one.objective(frozen), batch()
  f = jax.jit(jax.value_and_grad(obj.loss, has_aux=True))
  (_, aux), g = f(p, rows, jax.random.key(0))
  assert tree.paths(g) == tree.paths(p)
  np.testing.assert_allclose(aux["kl_base"], 0, atol=1e-6)  # nothing moved


def test_cloned_is_no_log_probability():
  assert CLONED > 0 and dataclasses.is_dataclass(MODEL.config)


def test_log_probabilities_are_of_what_was_drawn_from(params):
  """Renormalised over a support, by hand; all tokens where there is none."""
  rows = batch(lengths=(13, 9), adv=(1, -1))
  V = MODEL.config.vocab
  open_ = np.zeros((10, 32 * generate.words(V)), bool)  # ten sampled tokens
  said = rows.action[0][rows.mask[0] > 0]
  open_[np.arange(10), said] = True
  open_[:, 5:20] = True
  packed = np.packbits(open_, axis=1, bitorder="little").view(np.uint32)
  shape = (10, generate.words(V))
  with_ = llm.with_supports(
    {"obs": rows.obs, "mask": rows.mask}, [packed, ()], shape
  )
  out = np.asarray(objective(params).out(params, rows))
  for chunk in (256, 5):  # as a whole, and sampled tokens moved to the front
    obj = objective(params, chunk=chunk, supports=10)
    logp = np.asarray(obj.logp(params, rows._replace(**with_)))
    for n, t in enumerate(np.flatnonzero(rows.mask[0])):
      z = np.where(open_[n, :V], out[0, t], -np.inf)
      hand = out[0, t, said[n]] - np.log(np.exp(z).sum())
      np.testing.assert_allclose(logp[0, t], hand, rtol=1e-5)
    plain = objective(params, chunk=chunk).logp(params, rows)
    np.testing.assert_allclose(
      logp[1, rows.mask[1] > 0], plain[1, rows.mask[1] > 0], rtol=1e-5
    )
  # Of more sampled tokens than supports are kept the first ones are learned.
  few = llm.with_supports(
    {"obs": rows.obs, "mask": rows.mask}, [packed, ()], (4, shape[1])
  )
  assert few["mask"].sum(1).tolist() == [4, 6]
  assert few["obs"]["support"].shape == (2, 4, shape[1])
