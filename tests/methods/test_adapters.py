"""Importance of LoRA factors, in the space of their product."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import softmax

from jax_cl.losses import fisher, policy
from jax_cl.methods import _adapters, _quadratic, ewc, mas, online_ewc

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


@pytest.mark.parametrize(
  "form, same",
  [("product", True), ("product_full", True), ("factors", False)],
)
def test_only_the_product_does_not_depend_on_the_gauge(form, same):
  """EWC's and MAS's penalty after one stage, at a policy told in two ways."""
  obj, batch = objective(), softmax.rows(X)
  batches = jax.tree.map(lambda x: x[None], batch)
  key = jax.random.key(0)
  for method in (
    online_ewc.make(lr=0.0, fisher="exact", samples=5, lora=form),
    ewc.make(lr=0.0, fisher="exact", samples=5, lora=form),
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


def importances(f):
  """f [3, 4] as an importance of the factors' product."""
  return {"layer": {"kernel": None, "lora_ab": f}, "bias": jnp.ones(4)}


def test_rank_one_importance_is_kept_whole_by_its_sums():
  u, v = jnp.array([1.0, 0.0, 3.0]), jnp.array([2.0, 1.0, 0.5, 4.0])
  full = importances(jnp.outer(u, v))
  packed = _adapters.marginals(full)
  p, then = turned(factors()), factors()
  then["layer"]["lora_a"] = then["layer"]["lora_a"] + 0.3
  then["bias"] = then["bias"] + 1.0
  want = _quadratic.pull(full, _adapters.product(then), _adapters.product(p))
  lazy = _adapters.factored
  got = jax.jit(_quadratic.pull)(packed, lazy(then), lazy(p))
  np.testing.assert_allclose(got, want, rtol=1e-5)
  assert _quadratic.pull(packed, lazy(p), lazy(p)) == 0
  assert _quadratic.report(packed, "F") == pytest.approx(
    {"F_trace": 4 * 7.5 + 4, "F_max": 12.0}
  )


def test_other_importance_keeps_its_sums_and_adds_up():
  f = jax.random.uniform(jax.random.key(5), (2, 3, 4))  # of two stages
  one, two = (_adapters.marginals(importances(x)) for x in f)
  both = jax.tree.map(jnp.add, one, two)["layer"]["lora_ab"]
  u, v = both.vectors
  np.testing.assert_allclose(jnp.outer(u, v).sum(1), f.sum((0, 2)), rtol=1e-5)
  np.testing.assert_allclose(jnp.outer(u, v).sum(0), f.sum((0, 1)), rtol=1e-5)


def test_what_no_stage_has_learned_pulls_nothing():
  p, then = factors(), turned(factors())
  for name, space in _adapters.SPACES.items():
    zeros = space.zeros(p)
    assert not any(x.any() for x in jax.tree.leaves(zeros)), name
    there = space.product(jax.tree.map(lambda x: x + 1, then))
    assert _quadratic.pull(zeros, there, space.product(p)) == 0


def test_the_cap_bounds_the_largest_entry_of_each_matrix():
  u, v = (
    jnp.array([[1.0, 2.0], [1.0, 0.1]]),
    jnp.array([[3.0, 1.0], [1.0, 1.0]]),
  )
  f = _quadratic.Outer(
    u * v.sum(-1, keepdims=True), v * u.sum(-1, keepdims=True)
  )
  np.testing.assert_allclose(f.max, [6.0, 1.0])
  capped = _quadratic.cap({"w": f}, lr=0.5, curvature=1.0)["w"]
  np.testing.assert_allclose(capped.max, [2.0, 1.0], rtol=1e-6)
  bank = ewc.capped({"w": f}, lr=0.5, lam=1.0)["w"]  # of two stages: 6 + 1 > 2
  np.testing.assert_allclose(bank.max, [12 / 7, 2 / 7], rtol=1e-6)


def test_a_tree_without_factors_is_its_own_weight_space():
  obj, p = softmax.linear()
  same, here = _adapters.at(obj, p)
  assert same is obj and here is p
  F = fisher.exact(same, here, softmax.rows(X), None)
  assert jax.tree.structure(F) == jax.tree.structure(p)


def test_an_unknown_form_names_the_known():
  with pytest.raises(ValueError, match="unknown lora 'prodct'.*'product'"):
    online_ewc.make(lr=0.1, lora="prodct")
