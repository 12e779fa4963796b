import jax
import jax.numpy as jnp
import numpy as np
import pytest
import softmax

from jax_cl import memory
from jax_cl.methods import kl_previous

KEY = jax.random.key(0)
NEW = softmax.rows([[1.0, 0.0, 0.0]])
OLD = softmax.rows([[0.0, 2.0, 0.0], [0.0, 1.0, 1.0]])


def pull(teacher, p, weight=1.0, lam=3.0):
  """Slope that the stored rows add; the rest of a Sample is not read."""
  obj, _ = softmax.linear()
  stored = OLD._replace(weight=OLD.weight * weight)
  stored = jax.tree.map(lambda x: x[None], stored)
  sample = memory.Sample(
    rows=stored,
    extra=(),
    **{k: None for k in memory.Sample._fields if k not in ("rows", "extra")},
  )
  method = kl_previous.make(batch_size=2, lam=lam)
  cl = {"teacher": teacher}
  g, aux = method.grads(obj, cl, p, NEW, sample, jnp.int32(1), KEY)
  return g["w"] - aux["task_grads"]["w"], aux["kl_previous"]


def test_zero_at_the_teacher():
  _, p = softmax.linear()
  slope, value = pull(p, p)
  np.testing.assert_allclose(slope, 0.0, atol=1e-6)
  np.testing.assert_allclose(value, 0.0, atol=1e-6)


def test_it_is_the_kl_on_stored_rows():
  _, p = softmax.linear()
  teacher = {"w": p["w"][:, ::-1]}
  x = OLD.obs["x"]
  pi = lambda w: jax.nn.softmax(x @ w)
  a, b = pi(teacher["w"]), pi(p["w"])
  slope, value = pull(teacher, p)
  want = jnp.mean(jnp.sum(a * jnp.log(a / b), axis=1))
  np.testing.assert_allclose(value, want, rtol=1e-5)
  want = 3.0 * x.T @ (b - a) / 2
  np.testing.assert_allclose(slope, want, rtol=1e-4, atol=1e-6)
  assert not np.any(slope[0])  # the new row's feature is not touched


def test_an_empty_memory_adds_nothing():
  _, p = softmax.linear()
  slope, value = pull({"w": -p["w"]}, p, weight=0.0)
  assert value == 0 and not np.any(slope)


def test_wrong_values():
  with pytest.raises(ValueError, match="ratio >= 0.5 .*ratio 0.1"):
    kl_previous.make(batch_size=2, ratio=0.1)
