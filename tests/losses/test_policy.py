import jax
import jax.numpy as jnp
import numpy as np

from jax_cl.losses import policy
from jax_cl.types import Batch

OBJ = policy.objective(lambda p, batch: batch.obs + p)


def batch(logits, action, adv, weight=None, mask=None):
  logits = jnp.asarray(logits, jnp.float32)
  b, t, _ = logits.shape
  return Batch(
    obs=logits,
    action=jnp.asarray(action, jnp.int32),
    mask=jnp.ones((b, t)) if mask is None else jnp.asarray(mask, jnp.float32),
    logp_old=jnp.zeros((b, t)),
    adv=jnp.asarray(adv, jnp.float32),
    weight=jnp.ones(b) if weight is None else jnp.asarray(weight, jnp.float32),
    domain=jnp.zeros(b, jnp.int32),
    task=jnp.zeros(b, jnp.int32),
    reward=jnp.zeros(b),
  )


def test_loss_by_hand():
  # Row 0: pi = (.5, .5), adv 2: 2 ln 2. Row 1: pi(0) = .75, adv -1: ln .75.
  one = batch([[[0, 0]], [[np.log(3), 0]]], [[1], [0]], [2, -1])
  loss, aux = OBJ.loss(jnp.zeros((1, 1, 2)), one, None)
  np.testing.assert_allclose(
    loss, (2 * np.log(2) + np.log(0.75)) / 2, rtol=1e-6
  )
  assert aux["accuracy"] == 0.5  # of a tie the first option counts
  rows = OBJ.rows(jnp.zeros((1, 1, 2)), one)
  np.testing.assert_allclose(rows, [2 * np.log(2), np.log(0.75)], rtol=1e-6)


def test_padding_changes_nothing():
  one = batch([[[0.3, 0.1]]], [[1]], [2.0])
  more = batch(
    [[[0.3, 0.1], [9, 9]], [[5, 1], [1, 5]]], [[1, 0], [0, 0]], [2.0, 7.0],
    weight=[1, 0], mask=[[1, 0], [1, 1]],
  )  # fmt: skip
  p = jnp.zeros((1, 1, 2))
  f = jax.value_and_grad(lambda p, b: OBJ.loss(p, b, None)[0])
  for a, b in zip(f(p, one), f(p, more), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_illegal_options_have_no_probability_and_no_gradient():
  one = batch([[[0.5, -1e9, 0.0]]], [[0]], [1.0])
  g = jax.grad(lambda p: OBJ.loss(p, one, None)[0])(jnp.zeros((1, 1, 3)))
  assert g[0, 0, 1] == 0 and np.isfinite(g).all()
  h = policy.entropy(one.obs)
  pi = np.exp([0.5, 0]) / np.exp([0.5, 0]).sum()
  np.testing.assert_allclose(h, [[-(pi * np.log(pi)).sum()]], rtol=1e-6)


def test_entropy_bonus_flattens():
  obj = policy.objective(lambda p, batch: batch.obs + p, entropy_bonus=0.1)
  one = batch([[[1.0, 0.0]]], [[0]], [0.0])  # no advantage: entropy alone
  g = jax.grad(lambda p: obj.loss(p, one, None)[0])(jnp.zeros((1, 1, 2)))
  assert g[0, 0, 0] > 0 > g[0, 0, 1]


def test_kl_is_zero_at_the_target_alone():
  a = jnp.array([[[0.0, 1.0, -1e9]]])
  assert policy.kl(a, a) == 0
  b = jnp.array([[[1.0, 0.0, -1e9]]])
  p, q = jax.nn.softmax(a[0, 0, :2]), jax.nn.softmax(b[0, 0, :2])
  np.testing.assert_allclose(
    policy.kl(b, a)[0, 0], jnp.sum(p * jnp.log(p / q)), rtol=1e-6
  )


def test_log_prob_and_entropy_are_those_of_autodiff():
  """Values and gradients, masked options among them (-1e9)."""
  rng = np.random.default_rng(0)
  z = rng.normal(size=(2, 3, 7)).astype(np.float32) * 4
  z[:, :, 5] = -1e9
  action = rng.integers(0, 5, (2, 3)).astype(np.int32)
  g, h = rng.normal(size=(2, 2, 3)).astype(np.float32)

  def both(z):
    return policy.log_prob(z, action), policy.entropy(z)

  def total(f):
    def value(z):
      logp, entropy = f(z)
      return (g * logp).sum() + (h * entropy).sum()

    return value

  fused = lambda z: policy.log_prob_and_entropy(z, action)
  for ours, theirs in zip(fused(z), both(z), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
  ours, theirs = (jax.grad(total(f))(z) for f in (fused, both))
  assert float(np.abs(theirs).max()) > 0.1
  np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
