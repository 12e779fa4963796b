"""A softmax-linear policy, of which everything is known in closed form."""

import jax
import jax.numpy as jnp

from jax_cl.losses import policy
from jax_cl.types import Batch


def linear(features=3, classes=4):
  """(objective, params): logits = phi W."""
  out = lambda p, batch: (batch.obs["x"] @ p["w"])[:, None, :]
  w = jax.random.normal(jax.random.key(0), (features, classes))
  return policy.objective(out), {"w": w}


def rows(x, action=None, weight=None):
  """Decisions on the features `x`, of one position each."""
  n = len(x)
  return Batch(
    obs={"x": jnp.asarray(x)},
    action=jnp.zeros((n, 1), jnp.int32) if action is None else action,
    mask=jnp.ones((n, 1)),
    logp_old=jnp.zeros((n, 1)),
    adv=jnp.ones(n),
    weight=jnp.ones(n) if weight is None else jnp.asarray(weight),
    domain=jnp.zeros(n, jnp.int32),
    task=jnp.zeros(n, jnp.int32),
    reward=jnp.ones(n),
  )
