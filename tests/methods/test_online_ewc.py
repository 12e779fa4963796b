import jax
import jax.numpy as jnp
import numpy as np
import pytest
from softmax import linear, rows

from jax_cl.losses import fisher, policy
from jax_cl.methods import online_ewc


def closed_form(p, x):
  """F_ij = mean phi_i^2 pi_j (1 - pi_j), a softmax-linear policy's Fisher."""
  pi = jax.nn.softmax(x @ p["w"])
  return np.mean(x[:, :, None] ** 2 * (pi * (1 - pi))[:, None, :], axis=0)


def test_exact_fisher_equals_its_closed_form():
  obj, p = linear()
  x = jax.random.normal(jax.random.key(1), (5, 3))
  F = fisher.exact(obj, p, rows(x), jax.random.key(2))
  np.testing.assert_allclose(F["w"], closed_form(p, x), rtol=1e-5)


def test_sampled_fisher_converges_to_the_exact_one():
  obj, p = linear()
  x = jax.random.normal(jax.random.key(1), (3, 3))
  many = rows(jnp.tile(x, (4000, 1)))
  F = jax.jit(lambda k: fisher.sampled(obj, p, many, k))(jax.random.key(3))
  exact = closed_form(p, x)
  np.testing.assert_allclose(F["w"], exact, rtol=0.15, atol=0.01)
  one = fisher.sampled(obj, p, rows(x), jax.random.key(3))
  assert np.abs(one["w"] - exact).max() > np.abs(F["w"] - exact).max()


def test_empirical_fisher_is_the_squared_score_of_what_was_done():
  obj, p = linear(1, 2)
  p = {"w": jnp.zeros((1, 2))}
  # pi = (.5, .5), phi = 2, action 0: d log pi_0 / dw = 2 (1 - .5, -.5)
  F = fisher.empirical(obj, p, rows([[2.0]]), jax.random.key(0))
  np.testing.assert_allclose(F["w"], [[1.0, 1.0]])


def test_padding_rows_do_not_count():
  obj, p = linear()
  x = jax.random.normal(jax.random.key(1), (4, 3))
  padded = rows(x, weight=[1.0, 1.0, 0.0, 0.0])
  for estimate in (fisher.exact, fisher.empirical):
    F = estimate(obj, p, padded, jax.random.key(2))
    G = estimate(obj, p, rows(x[:2]), jax.random.key(2))
    np.testing.assert_allclose(F["w"], G["w"], rtol=1e-6)


def test_positions_of_a_row_add_up():
  """Two decisions of one row: sum_t (d log pi_t)^2, the cross terms gone."""
  out = lambda p, batch: jnp.einsum("btf,fv->btv", batch.obs["x"], p["w"])
  obj = policy.objective(out)
  p = {"w": jnp.array([[0.3, -0.2]])}
  batch = rows([[0.0]])
  two = batch._replace(
    obs={"x": jnp.array([[[1.0], [2.0]]])},
    action=jnp.zeros((1, 2), jnp.int32),
    mask=jnp.ones((1, 2)),
    logp_old=jnp.zeros((1, 2)),
  )
  pi = jax.nn.softmax(jnp.array([[0.3, -0.2], [0.6, -0.4]]))
  want = sum(f**2 * pi[t] * (1 - pi[t]) for t, f in enumerate([1.0, 2.0]))
  F = fisher.exact(obj, p, two, jax.random.key(0))
  np.testing.assert_allclose(F["w"][0], want, rtol=1e-5)
  keys = jax.random.split(jax.random.key(1), 4000)
  many = jax.vmap(lambda k: fisher.sampled(obj, p, two, k)["w"])(keys)
  np.testing.assert_allclose(many.mean(0)[0], want, rtol=0.1)


def test_penalty_by_hand():
  # .5 * (2 * (3 - 1)^2 + 1 * (0 - 2)^2) = .5 * (8 + 4) = 6
  F, anchor = {"a": jnp.array([2.0, 1.0])}, {"a": jnp.array([1.0, 2.0])}
  p = {"a": jnp.array([3.0, 0.0])}
  assert online_ewc.ewc_penalty(F, anchor, p) == 6


def grads(method, cl, p, obj):
  batch = rows([[1.0, 0.0, 0.0]])
  g, aux = method.grads(obj, cl, p, batch, None, 0, jax.random.key(0))
  return g["w"] - aux["task_grads"]["w"], aux


def test_gradient_pulls_to_the_anchor_by_importance():
  obj, p = linear()
  method = online_ewc.make(lr=1e-3, lam=3.0, growth="linear")
  gap = jnp.arange(12.0).reshape(3, 4)
  cl = {
    "fisher": {"w": jnp.full((3, 4), 0.5)},
    "anchor": {"w": p["w"] - gap},
    "stages": jnp.float32(2),
  }
  pull, aux = grads(method, cl, p, obj)
  np.testing.assert_allclose(pull, 3.0 * 2 * 0.5 * gap, rtol=1e-4, atol=1e-4)
  assert aux["penalty"] == pytest.approx(
    float(3.0 * 2 * 0.5 * 0.5 * jnp.sum(gap**2)), rel=1e-5
  )


def test_cap_keeps_one_step_from_overshooting():
  """With lr * lambda * F <= 1, one SGD step lands on the anchor at most."""
  obj, p = linear()
  method = online_ewc.make(lr=0.1, lam=1e6, growth="constant")
  cl = {
    "fisher": {"w": jnp.ones((3, 4))},
    "anchor": {"w": p["w"] - 1.0},
    "stages": jnp.float32(1),
  }
  pull, _ = grads(method, cl, p, obj)
  np.testing.assert_allclose(0.1 * pull, 1.0, rtol=1e-5)


def test_end_decays_and_moves_the_anchor():
  obj, p = linear()
  x = jax.random.normal(jax.random.key(1), (6, 3))
  method = online_ewc.make(lr=0.1, gamma=0.5, fisher="exact", samples=5)
  cl = method.init(p, 3, jax.random.key(0))
  batches = jax.tree.map(
    lambda a: a.reshape(2, 3, *a.shape[1:]),
    rows(x, weight=[1.0, 1.0, 0.0, 1.0, 1.0, 1.0]),
  )
  first, same_p = method.end(obj, cl, p, batches, 0, jax.random.key(0))
  used = x[jnp.array([0, 1, 3, 4, 5])]  # those that have weight
  np.testing.assert_allclose(
    first["fisher"]["w"], closed_form(p, used), rtol=1e-5
  )
  second, _ = method.end(obj, first, p, batches, 1, jax.random.key(0))
  np.testing.assert_allclose(
    second["fisher"]["w"], 1.5 * closed_form(p, used), rtol=1e-5
  )
  assert same_p is p and second["stages"] == 2


def test_fewer_samples_are_rows_by_lot_that_have_weight():
  obj, p = linear()
  x = jax.random.normal(jax.random.key(1), (6, 3))
  method = online_ewc.make(lr=0.1, fisher="exact", samples=1)
  cl = method.init(p, 3, jax.random.key(0))
  weight = [1.0, 1.0, 0.0, 1.0, 1.0, 1.0]
  batches = jax.tree.map(
    lambda a: a.reshape(2, 3, *a.shape[1:]), rows(x, weight=weight)
  )
  each = [np.asarray(closed_form(p, x[i : i + 1])) for i in range(6)]
  found = set()
  for seed in range(12):
    new, _ = method.end(obj, cl, p, batches, 0, jax.random.key(seed))
    F = np.asarray(new["fisher"]["w"])
    found.add(next(i for i in range(6) if np.allclose(F, each[i], rtol=1e-4)))
  assert 2 not in found and len(found) > 2


@pytest.mark.parametrize(
  "growth, want", [("constant", 1), ("linear", 4), ("adaptive", 2)]
)
def test_growth_after_four_stages(growth, want):
  assert online_ewc.GROWTH[growth](jnp.float32(4)) == want
  assert online_ewc.GROWTH[growth](jnp.float32(0)) == 0


def test_unknown_names_and_values():
  with pytest.raises(ValueError, match="did you mean 'exact'"):
    online_ewc.make(lr=0.1, fisher="exakt")
  with pytest.raises(ValueError, match="unknown growth 'log'"):
    online_ewc.make(lr=0.1, growth="log")
  with pytest.raises(ValueError, match="lam -1"):
    online_ewc.make(lr=0.1, lam=-1.0)
