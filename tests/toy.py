"""Two features, two actions, a linear softmax policy: worked out by hand."""

import jax
import jax.numpy as jnp

from jax_cl import memory
from jax_cl.losses import policy
from jax_cl.types import Batch


def rows(x, action, adv=1.0, reward=1.0, weight=1.0, logp_old=0.0):
  n = len(x)
  full = lambda v: jnp.broadcast_to(jnp.asarray(v, jnp.float32), (n,))
  return Batch(
    obs={"x": jnp.asarray(x, jnp.float32)},
    action=jnp.asarray(action, jnp.int32)[:, None],
    mask=jnp.ones((n, 1)),
    logp_old=full(logp_old)[:, None],
    adv=full(adv),
    weight=full(weight),
    domain=jnp.zeros(n, jnp.int32),
    task=jnp.zeros(n, jnp.int32),
    reward=full(reward),
  )


OBJ = policy.objective(lambda p, batch: (batch.obs["x"] @ p["w"])[:, None, :])
P = {"w": jnp.array([[0.5, -0.5], [0.0, 1.0]])}
NEW = rows([[1, 0], [0, 1], [1, 1], [1, -1]], [0, 1, 1, 0])
OLD = rows([[2, 0], [0, 2]], [1, 0], adv=[3.0, -1.0], logp_old=jnp.log(0.5))


def sample(old, extra=()):
  lead = jax.tree.map(lambda x: x[None], old)
  slot = jnp.zeros((1, len(old.weight)), jnp.int32)
  return memory.Sample(lead, jax.tree.map(lambda x: x[None], extra), slot, slot)


def gradient(batch, p=P):
  """Of the weighted mean loss, in w."""
  return jax.grad(lambda p: OBJ.loss(p, batch, None)[0])(p)["w"]
