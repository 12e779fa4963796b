import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_cl import optim


def step(tx, g, times=1):
  p = jnp.zeros_like(g)
  state = tx.init(p)
  for _ in range(times):
    u, state = tx.update(g, state, p)
    p = optax.apply_updates(p, u)
  return p


def test_sgd_by_hand():
  p = step(optim.make(name="sgd", lr=0.1), jnp.array([1.0, -2.0]))
  np.testing.assert_allclose(p, [-0.1, 0.2])


def test_clip_bounds_the_norm():
  p = step(optim.make(name="sgd", lr=1.0, clip=1.0), jnp.array([3.0, 4.0]))
  np.testing.assert_allclose(p, [-0.6, -0.8], rtol=1e-6)


def test_warmup_and_linear_fall():
  tx = optim.make(name="sgd", lr=1.0, schedule="linear", warmup=1, steps=5)
  # rates: .5 (warmup), then 1, 3/4, 2/4, 1/4
  for n, want in enumerate([0.5, 1.5, 2.25, 2.75, 3.0], 1):
    np.testing.assert_allclose(step(tx, jnp.ones(1), n), [-want], rtol=1e-6)


def test_cosine_ends_at_0():
  tx = optim.make(name="sgd", lr=1.0, schedule="cosine", steps=4)
  rates = 0.5 * (1 + np.cos(np.pi * np.arange(4) / 4))
  np.testing.assert_allclose(
    step(tx, jnp.ones(1), 9), [-rates.sum()], rtol=1e-5
  )


@pytest.mark.parametrize(
  "options, message",
  [
    ({"name": "sdg"}, "did you mean 'sgd'"),
    ({"schedule": "cosin"}, "did you mean 'cosine'"),
    ({"lr": -1.0}, "lr -1.0"),
    ({"weight_decay": 0.1}, "use optim.name = 'adamw'"),
  ],
)
def test_refused(options, message):
  with pytest.raises(ValueError, match=message):
    optim.make(**options)


def test_policy_gradient_steps_have_a_rate_of_their_own():
  tx = optim.make(name="sgd", lr=1.0, pg_lr=0.1, steps=4, clone_steps=2)
  for n, want in enumerate([1.0, 2.0, 2.1, 2.2], 1):
    np.testing.assert_allclose(step(tx, jnp.ones(1), n), [-want], rtol=1e-6)


def test_a_schedule_ends_where_the_policy_gradient_begins():
  options = {"schedule": "linear", "pg_lr": 0.1, "steps": 9, "clone_steps": 2}
  tx = optim.make(name="sgd", lr=1.0, **options)
  for n, want in enumerate([1.0, 1.5, 1.6, 1.7], 1):
    np.testing.assert_allclose(step(tx, jnp.ones(1), n), [-want], rtol=1e-6)
