"""Hand-worked numbers for every loss, and the identities of KL estimators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_cl.losses import grpo
from jax_cl.types import Batch

OPTIONS = {"dr_grpo": {"budget": 4}}
NAMES = sorted(grpo.LOSSES)


def batch(ratio, adv, mask, weight=None):
  """logp 0 now, so that the ratio is exp(-logp_old)."""
  ratio = np.asarray(ratio, np.float32)
  b = len(ratio)
  one = Batch(
    obs=(),
    action=np.zeros(ratio.shape, np.int32),
    mask=np.asarray(mask, np.float32),
    logp_old=-np.log(ratio),
    adv=np.asarray(adv, np.float32),
    weight=np.ones(b, np.float32)
    if weight is None
    else np.asarray(weight, np.float32),
    domain=np.zeros(b, np.int32),
    task=np.zeros(b, np.int32),
    reward=np.zeros(b, np.float32),
  )
  return jax.tree.map(jnp.asarray, one)


def value(name, one, **options):
  options = OPTIONS.get(name, {}) | options
  total, count = grpo.loss(name, options)(jnp.zeros(one.mask.shape), one)
  return float(total / count)


# Row 0: one token, ratio 1.5, advantage 2. Row 1: three tokens of ratio .5, 1,
# 1, advantage -1. Clipped to [.8, 1.2]: row 0 loses -2.4; row 1 .8, 1, 1.
TWO = batch(
  [[1.5, 9, 9], [0.5, 1, 1]], [2, -1], [[1, 0, 0], [1, 1, 1]]
)  # the nines are not the policy's tokens


def test_losses_by_hand():
  row_0, row_1 = -2.4, (0.8 + 1 + 1) / 3
  np.testing.assert_allclose(value("grpo", TWO), (row_0 + row_1) / 2, rtol=1e-6)
  np.testing.assert_allclose(
    value("bnpo", TWO), (-2.4 + 0.8 + 1 + 1) / 4, rtol=1e-6
  )
  # 1.28 is the upper bound of clip-higher.
  np.testing.assert_allclose(
    value("dapo", TWO), (-2.56 + 0.8 + 1 + 1) / 4, rtol=1e-6
  )
  # Two conversations of at most four tokens: 8 in the denominator.
  np.testing.assert_allclose(
    value("dr_grpo", TWO), (-2.4 + 0.8 + 1 + 1) / 8, rtol=1e-6
  )
  # Row 1's geometric mean ratio is .5^(1/3) = .7937, clipped at 1 - .1.
  np.testing.assert_allclose(
    value("gspo", TWO, low=0.1, high=0.2), (-2.4 + 0.9) / 2, rtol=1e-6
  )
  # logp is 0 everywhere, so cispo's value is 0; its gradient is told below.
  assert value("cispo", TWO) == 0


def test_cispo_keeps_the_gradient_of_what_others_clip():
  f = lambda name: jax.grad(lambda x: jnp.divide(*grpo.loss(name, {})(x, TWO)))(
    jnp.zeros((2, 3))
  )
  clipped, kept = f("bnpo"), f("cispo")
  assert clipped[0, 0] == 0  # ratio 1.5 > 1.2 at a positive advantage
  np.testing.assert_allclose(kept[0, 0], -2 * 1.5 / 4, rtol=1e-6)
  np.testing.assert_allclose(kept[1], np.array([0.5, 1, 1]) / 4, rtol=1e-6)
  bounded = jax.grad(
    lambda x: jnp.divide(*grpo.loss("cispo", {"high": 1.1})(x, TWO))
  )(jnp.zeros((2, 3)))
  np.testing.assert_allclose(bounded[0, 0], -2 * 1.1 / 4, rtol=1e-6)


def test_dual_clip_bounds_a_bad_answer():
  one = batch([[10.0]], [-1], [[1]])
  assert value("grpo", one) == pytest.approx(10)
  assert value("grpo", one, dual=3.0) == pytest.approx(3)
  good = batch([[0.1]], [1], [[1]])
  assert value("grpo", good, dual=3.0) == value("grpo", good)


def test_truncated_weights_take_the_place_of_the_ratio():
  """The clip sees a ratio of 1; what the sampler lags behind is a weight."""
  f = lambda x: jnp.divide(*grpo.grpo(x, TWO, truncate=1.2))
  loss, g = jax.value_and_grad(f)(jnp.zeros((2, 3)))
  # Row 0: -2 min(1.5, 1.2). Row 1: 1 times .5, 1 and 1, over three tokens.
  np.testing.assert_allclose(loss, (-2.4 + 2.5 / 3) / 2, rtol=1e-6)
  np.testing.assert_allclose(g[0], [-1.2, 0, 0], rtol=1e-6)
  np.testing.assert_allclose(g[1], np.array([0.5, 1, 1]) / 6, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_only_sampled_tokens_of_rows_that_count_carry_gradient(name):
  one = batch(
    np.full((3, 2), 1.05), [1, 2, 3], [[1, 0], [1, 1], [1, 1]], [1, 1, 0]
  )
  f = grpo.loss(name, OPTIONS.get(name, {}) | ({"low": 0.2, "high": 0.2}
    if name == "gspo" else {}))  # fmt: skip
  g = jax.grad(lambda x: jnp.divide(*f(x, one)))(jnp.zeros((3, 2)))
  assert (np.asarray(g) != 0).tolist() == [
    [True, False], [True, True], [False, False],
  ]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_parts_add_up_to_the_whole(name):
  """Accumulation, padding and devices: sums and counts add, then divide."""
  rng = np.random.default_rng(0)
  ratio = np.exp(rng.normal(size=(6, 5)) * 0.1)
  mask = np.arange(5)[None] < rng.integers(0, 6, 6)[:, None]
  whole = batch(ratio, rng.normal(size=6), mask, [1, 1, 0, 1, 0.5, 1])
  f = grpo.loss(name, OPTIONS.get(name, {}))
  logp = jnp.asarray(rng.normal(size=(6, 5)) * 0.01, jnp.float32)
  parts = [slice(0, 1), slice(1, 4), slice(4, 6)]
  part = lambda s: f(logp[s], jax.tree.map(lambda x: x[s], whole))
  sums = [part(s) for s in parts]
  total, count = f(logp, whole)
  np.testing.assert_allclose(sum(x for x, _ in sums), total, rtol=1e-5)
  np.testing.assert_allclose(sum(n for _, n in sums), count, rtol=1e-6)
  pad = lambda x: jnp.pad(x, [(0, 2), (0, 3)][: x.ndim])
  wide = jax.tree.map(pad, whole)
  more, same = f(jnp.pad(logp, ((0, 2), (0, 3)), constant_values=np.nan), wide)
  np.testing.assert_allclose(more, total, rtol=1e-6)
  np.testing.assert_allclose(same, count, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_on_policy_all_losses_are_reinforce(name):
  """At ratio 1 the gradient of a token is -A times its share."""
  one = batch(np.ones((2, 2)), [1, -2], np.ones((2, 2)))
  f = grpo.loss(name, OPTIONS.get(name, {}) | ({"budget": 2}
    if name == "dr_grpo" else {}))  # fmt: skip
  g = jax.grad(lambda x: jnp.divide(*f(x, one)))(jnp.zeros((2, 2)))
  np.testing.assert_allclose(g, [[-0.25] * 2, [0.5] * 2], rtol=1e-6)


def test_gradients_of_kl_estimators():
  """Expected over samples of pi, each against the exact KL's gradient."""
  logits, ref = jnp.array([0.5, -0.3, 1.0]), jnp.array([0.0, 0.7, 0.2])
  log_ref = jax.nn.log_softmax(ref)
  pi = jax.nn.softmax(logits)

  def expected(k):
    score = lambda z: k(jax.nn.log_softmax(z), log_ref)
    return pi @ jax.jacobian(score)(logits)

  kl = lambda p, q: jnp.sum(jnp.exp(p) * (p - q))
  reverse = jax.grad(lambda z: kl(jax.nn.log_softmax(z), log_ref))(logits)
  forward = jax.grad(lambda z: kl(log_ref, jax.nn.log_softmax(z)))(logits)
  np.testing.assert_allclose(expected(grpo.k1), 0, atol=1e-6)
  np.testing.assert_allclose(expected(grpo.k2), reverse, rtol=1e-5)
  np.testing.assert_allclose(expected(grpo.k3), forward, rtol=1e-5)
  logp = jax.nn.log_softmax(logits)
  exact = kl(logp, log_ref)
  np.testing.assert_allclose(pi @ grpo.k1(logp, log_ref), exact, rtol=1e-5)
  np.testing.assert_allclose(pi @ grpo.k3(logp, log_ref), exact, rtol=1e-5)
  assert (grpo.k2(logp, log_ref) >= 0).all()


def test_k1_is_refused_as_a_loss():
  with pytest.raises(ValueError, match="k1 has a gradient of zero"):
    grpo.penalty("k1")
  assert grpo.penalty("k3") is grpo.k3


def test_off_policy_correction():
  logp = jnp.log(jnp.array([[4.0, 0.5, 7.0], [1.01, 0.99, 1.0]]))
  mask = jnp.array([[1.0, 1, 0], [1, 1, 1]])
  w = grpo.truncated_weights(logp, jnp.zeros((2, 3)), mask)
  np.testing.assert_allclose(w, [[2, 0.5, 1], [1.01, 0.99, 1]], rtol=1e-6)
  keep = grpo.geometric_mask(logp, jnp.zeros((2, 3)), mask)
  assert keep.tolist() == [False, True]  # sqrt(4 * .5) = 1.41


def test_statistics_by_hand():
  out = grpo.statistics(jnp.zeros((2, 3)), TWO)
  ratio, n = out["ratio"]
  assert (float(ratio), float(n)) == pytest.approx((1.5 + 0.5 + 2, 4))
  square, _ = out["ratio_square"]
  np.testing.assert_allclose(square, 2.25 + 0.25 + 2, rtol=1e-6)
  assert float(out["clip_fraction"][0]) == 2  # 1.5 up, .5 down
  assert float(out["weights_cut"][0]) == 0
  cut, n = grpo.statistics(jnp.zeros((2, 3)), TWO, most=1.2)["weights_cut"]
  assert (float(cut), float(n)) == (1, 4)
  np.testing.assert_allclose(
    out["kl_sampler"][0], -np.log(1.5) - np.log(0.5), rtol=1e-5
  )


def test_unknown_loss_names_the_nearest():
  with pytest.raises(ValueError, match="grpoo.*did you mean 'grpo'"):
    grpo.loss("grpoo", {})
