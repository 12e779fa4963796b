"""Methods that read outputs, on an agent that gives its largest logits alone.

`Objective.out(p, batch)` is then (logits [B, T, K], ids [B, T, K]), and takes
the ids of the options that are asked for. With K = V such an agent must teach a
method what one does that gives all logits.
"""

import importlib
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import softmax

from jax_cl import build, memory
from jax_cl.losses import fisher

KEY = jax.random.key(0)
ROWS = softmax.rows(
  jax.random.normal(jax.random.key(1), (24, 3))
)  # a full memory
TRAINS = np.eye(2, dtype=bool)
V = 4


def largest(k):
  """`softmax.linear` whose `out` gives k logits, as an LLM's with `top_k`."""
  obj, p = softmax.linear(classes=V)

  def out(p, batch, ids=None):
    z = obj.out(p, batch)
    if ids is not None:
      return jnp.take_along_axis(z, ids, axis=-1)
    return tuple(jax.lax.top_k(z, k))

  return obj._replace(out=out), p


def make(name, **options):
  parts = {"batch_size": 24, "lr": 0.1, "n_domains": 2, "trains": TRAINS}
  make_ = importlib.import_module(f"jax_cl.methods.{name}").make
  asked = inspect.signature(make_).parameters
  given = {k: v for k, v in parts.items() if k in asked}
  return make_(**given, **options)


def reading():
  """Names of the methods that ask for outputs."""
  names = build.known("methods")
  return [n for n in names if "outputs" in make(n).needs]


def second_stage(method, obj, p):
  """Gradient in stage 1, of weights that moved since stage 0 ended."""
  cl, buffer = method.init(p, 2, KEY), ()
  if method.capacity:
    items = method.store(obj, cl, p, ROWS, KEY)
    buffer = memory.init(items, TRAINS, method.capacity)
    buffer = method.add(buffer, items, jnp.int32(0), KEY)
  batches = jax.tree.map(lambda x: x[None], ROWS)
  cl, p = method.end(obj, cl, p, batches, jnp.int32(0), KEY)
  cl, p = method.start(cl, p, jnp.int32(1), KEY)
  mem = method.draw(cl, buffer, jnp.int32(1), KEY)
  moved = {"w": p["w"] + jnp.arange(float(V))[None, :]}
  new = ROWS._replace(domain=jnp.ones_like(ROWS.domain))
  g, aux = method.grads(obj, cl, moved, new, mem, jnp.int32(1), KEY)
  return np.asarray(g["w"] - aux["task_grads"]["w"])


@pytest.mark.parametrize("name", reading())
def test_a_method_learns_from_pairs_what_it_learns_from_all(name):
  want = second_stage(make(name), *softmax.linear(classes=V))
  got = second_stage(make(name), *largest(V))
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  few = second_stage(make(name), *largest(2))
  assert np.isfinite(few).all() and np.any(few)
  assert np.abs(few - want).max() > 1e-3


def test_those_that_read_outputs_say_so():
  known = {"lwf", "kl_previous", "mas", "der", "derpp", "clear"}
  assert known <= set(reading())


def test_sampled_actions_are_among_the_largest():
  """With K = 1 the action is the mode: the score of no other has a part."""
  obj, p = largest(1)
  best = jnp.argmax(ROWS.obs["x"] @ p["w"], axis=-1)
  mode = ROWS._replace(action=best[:, None])
  want = fisher.empirical(obj, p, mode, KEY)
  got = fisher.sampled(obj, p, ROWS, KEY)
  np.testing.assert_allclose(got["w"], want["w"], rtol=1e-5)


def test_the_exact_fisher_information_wants_all_logits():
  obj, p = largest(2)
  with pytest.raises(ValueError, match="'sampled', or set agent.top_k to 0"):
    fisher.exact(obj, p, ROWS, KEY)
