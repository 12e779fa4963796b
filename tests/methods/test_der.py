"""DER and DER++: what is kept, and what is learned of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import NEW, OBJ, OLD, P, gradient, rows, sample

from jax_cl import memory
from jax_cl.methods import _logits, clear, der, derpp

KEY = jax.random.key(0)


def grads(method, mem, new=NEW, p=P):
  return method.grads(OBJ, (), p, new, mem, 1, KEY)


def kept(old, shift):
  """Stored logits: today's, moved by `shift` f32[b, 1, 2]."""
  return {"z": OBJ.out(P, old) + jnp.asarray(shift, jnp.float32)}


def test_the_square_by_hand():
  # One row x = (2, 0): z = (1, -1), stored (0, -1): (1 + 0) / 2 options = .5;
  # its gradient is x (z - z_stored)' = ((2, 0), (0, 0)).
  old = rows([[2, 0]], [0])
  mem = sample(old, kept(old, [[[-1.0, 0.0]]]))
  g, aux = grads(der.make(batch_size=1, alpha=3.0), mem, new=old)
  np.testing.assert_allclose(aux["distillation"], 0.5)
  want = gradient(old) + 3 * np.array([[2.0, 0], [0, 0]])
  np.testing.assert_allclose(g["w"], want, rtol=1e-6)


def test_options_that_were_not_allowed_do_not_count():
  old = rows([[2, 0]], [0])
  extra = {"z": jnp.array([[[0.0, -1e9]]])}
  value = _logits.distance(OBJ, P, old, extra)
  np.testing.assert_allclose(value, 1.0)  # (1 - 0)^2 over one option


@pytest.mark.parametrize("make", [der.make, derpp.make])
def test_at_the_stored_answer_and_at_strength_0_it_is_sequential(make):
  same = sample(OLD, kept(OLD, np.zeros((2, 1, 2))))
  other = sample(OLD, kept(OLD, np.ones((2, 1, 2))))
  off = {"alpha": 0.0} if make is der.make else {"alpha": 0.0, "beta": 0.0}
  twice = lambda mem: memory.join(mem, mem)
  g, _ = grads(make(batch_size=2, **off), twice(other))
  assert (g["w"] == gradient(NEW)).all()
  on = {"alpha": 2.0} if make is der.make else {"alpha": 2.0, "beta": 0.0}
  g, aux = grads(make(batch_size=2, **on), twice(same))
  assert (g["w"] == gradient(NEW)).all() and aux["distillation"] == 0


def test_derpp_adds_the_labels_of_an_independent_draw():
  first = sample(OLD, kept(OLD, np.zeros((2, 1, 2))))  # nothing to distil
  labels = NEW._replace(reward=jnp.array([1.0, 0.0, 1.0, 1.0]))
  other = jax.tree.map(lambda x: x[:2], labels)  # of which one was right
  both = memory.join(first, sample(other, kept(other, np.zeros((2, 1, 2)))))
  g, _ = grads(derpp.make(batch_size=2, alpha=1.0, beta=0.5), both)
  right = jax.tree.map(lambda x: x[:1], NEW)
  want = gradient(NEW) + 0.5 * gradient(right)
  np.testing.assert_allclose(g["w"], want, rtol=1e-6)


def test_the_two_draws_of_derpp_differ():
  item = memory.Items(NEW, jnp.ones(4, bool), {"z": OBJ.out(P, NEW)})
  buffer = memory.init(item, np.eye(2, dtype=bool), 64)
  for step in range(8):
    buffer = memory.add(buffer, item, jnp.int32(step))
  mem = derpp.make(batch_size=8).draw((), buffer, jnp.int32(1), KEY)
  assert mem.slot.shape == (2, 8)
  assert mem.slot[0].tolist() != mem.slot[1].tolist()


@pytest.mark.parametrize("pair", [False, True])
def test_of_many_options_the_largest_are_kept(pair):
  def out(p, batch, ids=None):
    z = jnp.stack([batch.obs["x"][:, :1] * v for v in (1.0, 3.0, 2.0)], -1)
    if ids is not None:
      return jnp.take_along_axis(z * p["scale"], ids, -1)
    return tuple(jax.lax.top_k(z, 2)) if pair else z * p["scale"]

  obj = OBJ._replace(out=out)
  extra = _logits.keep(obj, {"scale": 1.0}, OLD, top_k=2)
  assert extra["ids"].tolist() == [[[1, 2]], [[0, 1]]]  # x = 2 and x = 0
  assert extra["z"][0].tolist() == [[6, 4]]
  z = _logits.at(obj, {"scale": -1.0}, OLD, extra)
  assert z[0].tolist() == [[-6, -4]]
  assert _logits.keep(OBJ, P, OLD, top_k=2).keys() == {"z"}


def test_rows_are_stored_with_the_answer_of_now():
  items = der.make(batch_size=4).store(OBJ, (), P, NEW, KEY)
  np.testing.assert_array_equal(items.extra["z"], OBJ.out(P, NEW))
  assert der.make(batch_size=4).demos == "last"


def test_clear_is_corrected_replay_and_a_pull_to_the_stored_policy():
  shifted = kept(OLD, [[[1.0, 0.0]], [[0.0, 0.0]]])
  mem = sample(OLD, shifted)
  method = clear.make(batch_size=4, ratio=0.5, cloning=2.0, clip=1.0)
  g, aux = grads(method, mem)
  # x = (2, 0): z = (1, -1), pi = (.8808, .1192); stored (2, -1) gives
  # mu = (.9526, .0474), and d KL / d z = pi - mu. The other row has pi = mu.
  pi, mu = 1 / (1 + np.exp(-2.0)), 1 / (1 + np.exp(-3.0))
  kl = mu * np.log(mu / pi) + (1 - mu) * np.log((1 - mu) / (1 - pi))
  np.testing.assert_allclose(aux["kl_stored"], kl / 2, rtol=1e-4)
  pull = np.array([[2 * (pi - mu), -2 * (pi - mu)], [0, 0]]) / 2
  old = OLD._replace(adv=jnp.array([3.0, -1.0]) * 2 * (1 - pi))
  task = (4 * gradient(NEW) + 2 * gradient(old)) / 6
  np.testing.assert_allclose(g["w"], task + 2 * pull, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", [der.make, derpp.make, clear.make])
def test_refused(make):
  with pytest.raises(ValueError, match="top_k 0"):
    make(batch_size=4, top_k=0)
