"""Importance of LoRA factors, in the space of their product."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import softmax

from jax_cl.losses import fisher, policy
from jax_cl.methods import _adapters, mas, online_ewc

SCALE = 2.0  # alpha / r of the layer, which methods do not know
BASE = jax.random.normal(jax.random.key(9), (3, 4))
Q = jnp.array([[2.0, 1.0], [0.0, 0.5]])  # another gauge of the same product
X = jax.random.normal(jax.random.key(1), (5, 3))


def factors():
  a, b = jax.random.split(jax.random.key(3))
  return {
    "layer": {
      "kernel": None,  # frozen: a hole in the trainable tree
      "lora_a": jax.random.normal(a, (3, 2)),
      "lora_b": jax.random.normal(b, (2, 4)),
    },
    "bias": jnp.zeros(4),
  }


def turned(p):
  layer = p["layer"]
  other = {
    "lora_a": layer["lora_a"] @ Q,
    "lora_b": jnp.linalg.inv(Q) @ layer["lora_b"],
  }
  return {**p, "layer": {**layer, **other}}


def objective():
  def out(p, batch):
    x, layer = batch.obs["x"], p["layer"]
    z = x @ BASE + SCALE * (x @ layer["lora_a"]) @ layer["lora_b"]
    return (z + p["bias"][None])[:, None, :]

  return policy.objective(out)


def test_a_shift_moves_the_product_by_itself():
  p = factors()
  delta = jax.tree.map(
    lambda x: 0.1 * jnp.arange(x.size, dtype=x.dtype).reshape(x.shape),
    _adapters.product(p),
  )
  moved = _adapters.product(_adapters.shift(p, delta))
  want = p["layer"]["lora_a"] @ p["layer"]["lora_b"]
  want += delta["layer"]["lora_ab"]
  np.testing.assert_allclose(moved["layer"]["lora_ab"], want, rtol=1e-5)
  np.testing.assert_allclose(moved["bias"], delta["bias"])


def test_stacked_layers_are_products_each():
  one = factors()["layer"]
  stack = lambda x: jnp.stack([x, 2 * x])
  p = {"layer": {k: stack(one[k]) for k in ("lora_a", "lora_b")}}
  zero = jax.tree.map(jnp.zeros_like, _adapters.product(p))
  both = _adapters.product(_adapters.shift(p, zero))["layer"]["lora_ab"]
  want = one["lora_a"] @ one["lora_b"]
  np.testing.assert_allclose(both, jnp.stack([want, 4 * want]), rtol=1e-5)


def test_the_gradient_of_a_shift_is_that_of_the_whole_kernel():
  """d/d delta = SCALE d/dW, W the kernel that no method sees."""
  obj, p, batch = objective(), factors(), softmax.rows(X)
  at, zero = _adapters.at(obj, p)
  got = jax.grad(lambda d: at.loss(d, batch, None)[0])(zero)

  def of_kernel(w):
    out = lambda _, b: (b.obs["x"] @ (w + BASE))[:, None, :]
    return policy.objective(out).loss(None, batch, None)[0]

  delta = SCALE * p["layer"]["lora_a"] @ p["layer"]["lora_b"]
  want = SCALE * jax.grad(of_kernel)(delta)
  np.testing.assert_allclose(got["layer"]["lora_ab"], want, rtol=1e-4)


@pytest.mark.parametrize("form, same", [("product", True), ("factors", False)])
def test_only_the_product_does_not_depend_on_the_gauge(form, same):
  """EWC's and MAS's penalty after one stage, at a policy told in two ways."""
  obj, batch = objective(), softmax.rows(X)
  batches = jax.tree.map(lambda x: x[None], batch)
  key = jax.random.key(0)
  for method in (
    online_ewc.make(lr=0.0, fisher="exact", samples=5, lora=form),
    mas.make(lr=0.0, lam=1.0, samples=5, lora=form),
  ):
    values = []
    for turn in (lambda p: p, turned):
      p = turn(factors())
      cl, _ = method.end(obj, method.init(p, 2, key), p, batches, 0, key)
      moved = factors()
      moved["layer"]["lora_a"] = moved["layer"]["lora_a"] + 0.3
      term = method.grads.term
      values.append(float(term(obj, cl, turn(moved), batch, 1, key)))
    assert values[0] > 1e-3
    assert (abs(values[0] / values[1] - 1) < 1e-3) == same


def test_a_tree_without_factors_is_its_own_weight_space():
  obj, p = softmax.linear()
  same, here = _adapters.at(obj, p)
  assert same is obj and here is p
  F = fisher.exact(same, here, softmax.rows(X), None)
  assert jax.tree.structure(F) == jax.tree.structure(p)


def test_an_unknown_form_names_the_known():
  with pytest.raises(ValueError, match="unknown lora 'prodct'.*'product'"):
    online_ewc.make(lr=0.1, lora="prodct")
