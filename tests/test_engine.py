"""Slots keep what they have read, and nothing else that is about to matter."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_cl import engine
from jax_cl.policies import llama

# One worker makes what these share.
pytestmark = pytest.mark.xdist_group("engine")

POLICY = llama.make("tiny", layers=2, context=600)
PARAMS = jax.jit(POLICY.init)(jax.random.key(0))
RNG = np.random.default_rng(0)
ids = lambda n: RNG.integers(0, 98, n).tolist()
RULES = ids(140)
STOP = 98
DRAW = engine.Sampling()


def make(slots=3, context=400, stops=(STOP,)):
  # Eight tokens a call and 48 a chunk: turns take several of both.
  return engine.make(
    POLICY, stops=stops, slots=slots, context=context, chunk=48, steps=8
  )


def talk(eng, plans, prefix=RULES, max_tokens=12):
  """{key: [Answer of each turn]}; a plan: key -> the ids said at each turn."""
  said = {k: list(v) for k, v in plans.items()}
  out = {k: [] for k in plans}
  for k in plans:
    eng.submit(
      k, prefix, said[k].pop(0), seed=k, sampling=DRAW, max_tokens=max_tokens
    )
  while eng.busy:
    for a in eng.step():
      out[a.key].append(a)
      if said[a.key]:
        eng.reply(a.key, said[a.key].pop(0), max_tokens)
      else:
        eng.close(a.key)
  return out


PLANS = {
  1: [ids(30), ids(7), ids(60)],
  2: [ids(3)],
  3: [ids(100), ids(1)],
  4: [ids(5), ids(5)],
  5: [ids(70)],
}


@jax.jit
def _logprobs(params, tokens):
  at = jnp.arange(tokens.shape[1])[None]
  x, _ = POLICY.hidden(params, tokens, at, jnp.ones_like(tokens))
  z = jax.nn.log_softmax(POLICY.unembed(params, x))
  return jnp.take_along_axis(z[0, :-1], tokens[0, 1:, None], axis=1)[:, 0]


def trained_on(params, said, answers, prefix=RULES):
  """What a trainer computes for the answers, teacher-forced over the row."""
  row, mask = list(prefix), [0] * len(prefix)
  for new, a in zip(said, answers):
    row += [*new, *a.ids]
    mask += [0] * len(new) + [1] * len(a.ids)
  tokens = np.zeros((1, 512), np.int32)
  tokens[0, : len(row)] = row
  logp = np.asarray(_logprobs(params, tokens))[: len(row) - 1]
  return logp[np.asarray(mask[1:]) > 0]


@pytest.fixture(scope="module")
def first():
  eng = make()
  eng.swap(PARAMS, 0)
  return eng, talk(eng, PLANS)


def test_trainer_and_sampler_agree_at_learning_rate_zero(first):
  _, answers = first
  for key, said in PLANS.items():
    assert len(answers[key]) == len(said)
    got = np.concatenate([a.logprobs for a in answers[key]])
    assert len(got) == sum(len(a.ids) for a in answers[key])
    want = trained_on(PARAMS, said, answers[key])
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_same_seed_same_tokens_whatever_else_runs(first):
  eng, answers = first
  compiled = eng.compiles
  for key in (1, 4):
    assert talk(eng, {key: PLANS[key]}) == {key: answers[key]}
  order = [5, 3, 1, 2, 4]
  assert talk(eng, {k: PLANS[k] for k in order}) == answers
  assert eng.compiles == compiled  # refills and other lengths compile nothing


def test_compiles_are_bounded(first):
  eng, _ = first
  # Fill and extend a prefix, take weights; extend and decode at each size of
  # the cache met (128 to 256).
  sizes = engine.sizes(400)
  assert sizes == (128, 256, 384, 512)
  assert eng.compiles <= 3 + 2 * len(sizes)


def test_a_swap_changes_samples_and_compiles_nothing(first):
  eng, answers = first
  compiled, checksum = eng.compiles, eng.checksum
  key, said = 1, PLANS[1]

  def loss(p):
    tokens = jnp.asarray([RULES])
    at = jnp.arange(len(RULES))[None]
    x, _ = POLICY.hidden(p, tokens, at, jnp.ones_like(tokens))
    return -jax.nn.log_softmax(POLICY.unembed(p, x))[..., 3].mean()

  step = lambda p, g: p - 0.1 * g
  moved = jax.tree.map(step, PARAMS, jax.jit(jax.grad(loss))(PARAMS))
  eng.swap(moved, 1)
  assert eng.compiles == compiled
  now = talk(eng, {key: said})[key]
  assert [a.ids for a in now] != [a.ids for a in answers[key]]
  assert {v for a in now for v in a.versions} == {1}
  got = np.concatenate([a.logprobs for a in now])
  np.testing.assert_allclose(got, trained_on(moved, said, now), atol=1e-5)
  assert eng.checksum != checksum
  eng.swap(PARAMS, 0)
  assert eng.checksum == checksum
  assert talk(eng, {key: said})[key] == answers[key]
  assert eng.compiles == compiled


def test_a_swap_flushes_conversations_under_way(first):
  eng, _ = first
  said = [ids(30), ids(7)]
  eng.swap(PARAMS, 0)
  eng.submit("a", RULES, said[0], seed=1, sampling=DRAW, max_tokens=12)
  answers = []
  while not answers:
    answers = eng.step()
  moved = jax.tree.map(lambda x: x * 1.05, PARAMS)
  eng.swap(moved, 1)
  eng.reply("a", said[1], 12)
  while len(answers) < 2:
    answers += eng.step()
  eng.close("a")
  # The second answer comes from the new weights' own reading of everything.
  want = trained_on(moved, said, answers)[-len(answers[1].ids) :]
  np.testing.assert_allclose(answers[1].logprobs, want, atol=1e-5)
  assert set(answers[0].versions) == {0} and set(answers[1].versions) == {1}
  eng.swap(PARAMS, 0)


def test_why_answers_end(first):
  eng, _ = first
  room = 400 - len(RULES)
  out = talk(eng, {1: [ids(room - 5)], 2: [ids(room)], 3: [ids(9)]})
  assert [a.reason for a in out[1]] == ["context"] and len(out[1][0].ids) <= 5
  assert [(a.reason, a.ids) for a in out[2]] == [("context", [])]
  cut = out[3][0]
  assert cut.reason == "length" and len(cut.ids) == 12
  every = make(stops=range(99))
  every.swap(PARAMS, 0)
  one = talk(every, {3: [ids(9)]})[3][0]
  assert one.reason == "stop" and len(one.ids) == 1


def test_prefixes_take_turns(first):
  eng, _ = first
  other = ids(20)
  eng.submit(1, RULES, [5, 6], seed=1, sampling=DRAW, max_tokens=4)
  eng.submit(2, other, [5, 6], seed=1, sampling=DRAW, max_tokens=4)
  (a,) = eng.step()
  assert a.key == 1 and eng.step() == []  # 1 holds its slot until it is closed
  eng.close(1)
  (b,) = eng.step()
  eng.close(2)
  for prefix, answer in ((RULES, a), (other, b)):
    want = trained_on(PARAMS, [[5, 6]], [answer], prefix)
    np.testing.assert_allclose(answer.logprobs, want, atol=1e-5)


def test_logits_that_are_not_finite_name_layer_and_step(first):
  eng, _ = first
  poison = lambda x: x.at[1].set(jnp.nan)
  layers = PARAMS["layers"]
  mlp = {**layers["mlp"], "down": jax.tree.map(poison, layers["mlp"]["down"])}
  eng.swap({**PARAMS, "layers": {**layers, "mlp": mlp}}, 7)
  eng.submit(1, [], ids(4), seed=1, sampling=DRAW, max_tokens=4)
  with pytest.raises(FloatingPointError) as e:
    eng.step()
  assert "step 0 of its answer (position 4, weights version 7" in str(e.value)
  assert str(e.value).endswith("first in layer 2 of 2")
  eng.close(1)
  eng.swap(PARAMS, 0)


def test_a_checksum_sees_every_bit_and_its_place():
  tree = {"a": jnp.arange(4.0), "b": jnp.ones(2, jnp.bfloat16)}
  sums = [
    tree,
    {**tree, "a": tree["a"].at[2].set(np.nextafter(np.float32(2), 3))},
    {**tree, "a": tree["a"][::-1]},
    {**tree, "a": -tree["a"]},
    {**tree, "b": tree["b"].at[1].set(2)},
  ]
  assert len({int(engine.checksum(t)) for t in sums}) == len(sums)


@pytest.mark.parametrize(
  "act,message",
  [
    (lambda e: make(context=601), "context=601, but the model was trained for"),
    (lambda e: make(slots=0), "slots=0: it must be 1 or more"),
    (lambda e: make().step(), "call swap"),
    (lambda e: e.reply("x", [1], 4), "no conversation 'x'"),
    (lambda e: e.close("x"), "no conversation 'x'"),
    (
      lambda e: e.submit(
        "x", [], [], seed=0, sampling=DRAW, max_tokens=4
      ),
      "without a token of its own",
    ),
    (
      lambda e: e.submit(
        "x", [], [1], seed=0, sampling=DRAW, max_tokens=0
      ),
      "max_tokens=0",
    ),
    (
      lambda e: e.submit(
        "x",
        [],
        [1],
        seed=0,
        sampling=engine.Sampling(top_p=0.0),
        max_tokens=4,
      ),
      "top_p in (0, 1]",
    ),
  ],
)  # fmt: skip
def test_mistakes_are_answered(act, message, first):
  with pytest.raises(ValueError) as e:
    act(first[0])
  assert message in str(e.value)


def test_a_key_is_one_conversation(first):
  eng, _ = first
  say = functools.partial(
    eng.submit, "k", [], [1], seed=0, sampling=DRAW, max_tokens=4
  )
  say()
  with pytest.raises(ValueError, match="'k' is under way"):
    say()
  with pytest.raises(ValueError, match="has not answered yet"):
    eng.reply("k", [1], 4)
  eng.close("k")
  assert not eng.busy
