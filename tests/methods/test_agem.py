import jax
import jax.numpy as jnp
import numpy as np
from toy import NEW, OBJ, OLD, P, gradient, sample

from jax_cl import tree
from jax_cl.methods import agem


def test_what_points_against_the_memory_is_taken_out():
  # g = (1, -2), ref = (1, 1): g.ref = -1, |ref|^2 = 2, so g + ref / 2.
  g = {"a": jnp.array([1.0]), "b": jnp.array([-2.0])}
  ref = {"a": jnp.array([1.0]), "b": jnp.array([1.0])}
  out, dot = agem.project(g, ref)
  assert (out["a"], out["b"], dot) == (1.5, -1.5, -1.0)
  assert tree.dot(out, ref) == 0.0


def test_what_agrees_with_the_memory_is_left():
  g = {"a": jnp.array([1.0, 2.0])}
  for ref in ([1.0, 1.0], [2.0, -1.0], [0.0, 0.0]):
    out, _ = agem.project(g, {"a": jnp.array(ref)})
    assert (out["a"] == g["a"]).all()


def test_the_reference_clones_what_is_stored():
  # The old rows want the other action wherever the new ones push.
  against = OLD._replace(action=1 - OLD.action)
  method = agem.make(batch_size=2)
  new = OLD._replace(adv=jnp.ones(2))
  key = jax.random.key(0)
  g, aux = method.grads(OBJ, (), P, new, sample(against), 1, key)
  ref = gradient(against._replace(adv=jnp.ones(2)))
  assert aux["projected"] == 1 and jnp.vdot(gradient(new), ref) < 0
  np.testing.assert_allclose(jnp.vdot(g["w"], ref), 0, atol=1e-6)


def test_an_empty_memory_changes_nothing():
  empty = sample(OLD._replace(weight=jnp.zeros(2)))
  method = agem.make(batch_size=4)
  g, aux = method.grads(OBJ, (), P, NEW, empty, 0, jax.random.key(0))
  assert (g["w"] == gradient(NEW)).all() and aux["projected"] == 0
