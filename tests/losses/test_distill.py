import jax
import jax.numpy as jnp
import numpy as np

from jax_cl.losses import distill

OLD = jnp.array([[[1.0, -1.0, 0.5]]])
NEW = jnp.array([[[0.2, 0.3, -0.4]]])


def test_zero_at_the_teacher_in_value_and_gradient():
  f = lambda z: jnp.sum(distill.softened_kl(z, OLD, 2.0))
  shifted = OLD + 3.0  # the same policy
  np.testing.assert_allclose(f(shifted), 0.0, atol=1e-6)
  np.testing.assert_allclose(jax.grad(f)(shifted), 0.0, atol=1e-6)
  assert f(NEW) > 0.1


def test_two_options_by_hand():
  # pi_old = (.75, .25), pi_new = (.5, .5):
  # .75 log(.75 / .5) + .25 log(.25 / .5) = .1308
  old, new = jnp.array([[[jnp.log(3.0), 0.0]]]), jnp.zeros((1, 1, 2))
  np.testing.assert_allclose(distill.softened_kl(new, old), 0.1308, atol=1e-4)
  # At temperature 2 the same policies need doubled logits, and T^2 = 4.
  hot = distill.softened_kl(2 * new, 2 * old, 2.0)
  np.testing.assert_allclose(hot, 4 * 0.1308, atol=4e-4)


def test_gradient_is_the_difference_of_policies_times_t():
  for T in (1.0, 3.0):
    f = lambda z, T=T: jnp.sum(distill.softened_kl(z, OLD, T))
    want = T * (jax.nn.softmax(NEW / T) - jax.nn.softmax(OLD / T))
    np.testing.assert_allclose(jax.grad(f)(NEW), want, rtol=1e-5)


def test_a_high_temperature_compares_centred_logits():
  centred = lambda z: z - jnp.mean(z, axis=-1, keepdims=True)
  want = jnp.sum((centred(NEW) - centred(OLD)) ** 2) / (2 * 3)
  got = distill.softened_kl(NEW, OLD, 100.0)[0, 0]
  np.testing.assert_allclose(got, want, rtol=0.02)


def test_options_that_are_not_legal_do_not_count():
  mask = jnp.array([[[0.0, 0.0, -1e9]]])
  got = distill.softened_kl(NEW + mask, OLD + mask, 2.0)
  want = distill.softened_kl(NEW[..., :2], OLD[..., :2], 2.0)
  np.testing.assert_allclose(got, want, rtol=1e-6)
