"""The decoder's plumbing, on a small Llama: depth, windows, remat, bfloat16."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from peers import padded, quick_jit, random, relative

from jax_cl.policies import base, llama, rope

ROWS = [[5, 9, 2, 71, 33], [8, 8, 1], [40, 41, 42, 43, 44, 45, 46]]


@pytest.fixture(scope="module")
def tiny():
  policy = llama.make("tiny")
  return policy, random(jax.eval_shape(policy.init, jax.random.key(0)))


def one(policy, params, row, **kwargs):
  hidden = quick_jit(functools.partial(policy.hidden, **kwargs))
  return hidden(params, *padded([row], len(row)))[0][0]


def test_stopping_early_is_a_prefix(tiny):
  policy, params = tiny
  cut = {**params, "layers": jax.tree.map(lambda a: a[:2], params["layers"])}
  early = one(policy, params, ROWS[0], layers=2)
  np.testing.assert_array_equal(early, one(policy, cut, ROWS[0]))
  rest = {**params, "layers": jax.tree.map(lambda a: a[2:], params["layers"])}
  tokens, positions, segments = padded(ROWS[:1], 5)
  angles = rope.angles(positions, 16, 1000.0)
  mask = positions[:, :, None] >= positions[:, None]
  view = base.View(angles, mask, None, None)
  layer = jax.tree.map(lambda a: a[0], rest["layers"])
  late, _ = llama.Block(policy.config).apply(
    {"params": layer}, early[None], view, None, None
  )
  np.testing.assert_allclose(
    late[0], one(policy, params, ROWS[0]), atol=1e-5, rtol=1e-5
  )


def test_bad_depth_is_refused(tiny):
  policy, params = tiny
  with pytest.raises(
    ValueError, match="layers=4: these parameters hold 1 to 3"
  ):
    one(policy, params, ROWS[0], layers=4)


def test_no_gradient_from_later_tokens(tiny):
  policy, params = tiny
  tokens, positions, segments = padded(ROWS[:1], 5)

  def f(table):
    # One table row a position, so that its gradient is the position's.
    p = {**params, "embed": {"embedding": table}}
    at = jnp.arange(5)[None]
    return policy.hidden(p, at, positions, segments)[0][0, 2].sum()

  g = quick_jit(jax.grad(f))(params["embed"]["embedding"][tokens[0]])
  assert (jnp.abs(g).sum(-1) > 0).tolist() == [True] * 3 + [False] * 2


def test_a_window_of_two_reaches_one_token_back_in_each_layer():
  # One layer sees itself and its predecessor, so two layers reach two back.
  policy = llama.make("tiny", layers=2, window=2, window_layers=(0, 1))
  params = random(jax.eval_shape(policy.init, jax.random.key(0)))
  _, positions, segments = padded(ROWS[:1], 5)

  def f(table):
    p = {**params, "embed": {"embedding": table}}
    at = jnp.arange(5)[None]
    return policy.hidden(p, at, positions, segments)[0][0, 4].sum()

  g = quick_jit(jax.grad(f))(params["embed"]["embedding"][: len(ROWS[0])])
  assert (jnp.abs(g).sum(-1) > 0).tolist() == [False] * 2 + [True] * 3


def test_bfloat16_computes_near_float32(tiny):
  policy, params = tiny
  half = llama.make("tiny", dtype="bfloat16")
  x = one(half, params, ROWS[2])
  assert x.dtype == jnp.bfloat16
  logits = half.unembed(params, x[None])
  assert logits.dtype == jnp.float32
  exact = policy.unembed(params, one(policy, params, ROWS[2])[None])
  assert relative(logits, exact) < 0.05


def test_blocks_of_queries_change_neither_values_nor_gradients():
  keys = jax.random.split(jax.random.key(0), 3)
  q = jax.random.normal(keys[0], (2, 7, 4, 8))
  k, v = (jax.random.normal(key, (2, 7, 2, 8)) for key in keys[1:])
  mask = jnp.broadcast_to(jnp.tril(jnp.ones((7, 7), bool)), (2, 7, 7))

  def value_and_gradients(block):
    f = lambda *qkv: jnp.sum(base.attention(*qkv, mask, block) ** 2)
    return quick_jit(jax.value_and_grad(f, argnums=(0, 1, 2)))(q, k, v)

  whole, blocks = value_and_gradients(0), value_and_gradients(3)
  for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(blocks)):
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


def test_remat_saves_less_and_changes_no_gradient(tiny):
  _, params = tiny
  batch = padded(ROWS, 8)

  def loss(params, remat):
    x, _ = llama.make("tiny", remat=remat).hidden(params, *batch)
    return jnp.sum(x**2)

  def saved(remat):
    f = functools.partial(loss, remat=remat)
    residuals = jax.eval_shape(lambda p: jax.vjp(f, p)[1], params)
    return sum(x.size for x in jax.tree.leaves(residuals))

  assert saved("full") < saved("dots") < saved("")
  grad = quick_jit(jax.grad(loss), static_argnames="remat")
  plain, full = grad(params, remat=""), grad(params, remat="full")
  for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(full)):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_attentions_own_way_back_is_autodiffs():
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  q, k, v, w = draw(2, 3, 4, 8), draw(2, 5, 2, 8), draw(2, 5, 2, 8), draw(8)
  mask = rng.random((2, 3, 5)) < 0.6
  mask[..., 0], mask[1, 2] = True, False  # one query sees nothing

  def plain(q, k, v):
    k, v = jnp.repeat(k, 2, axis=2), jnp.repeat(v, 2, axis=2)
    x = jnp.einsum("bthc,bshc->bhts", q, k, precision="highest") / 8**0.5
    p = jax.nn.softmax(jnp.where(mask[:, None], x, -1e30))
    return jnp.einsum("bhts,bshc->bthc", p, v, precision="highest")

  def ours(q, k, v):
    return base.attention(q, k, v, mask)

  def first_and_second(f):
    """Gradients, and gradients of their size: methods may take both."""
    loss = lambda *x: jnp.sum(jnp.sin(f(*x)) @ w)
    g = jax.grad(loss, argnums=(0, 1, 2))
    size = lambda *x: sum(jnp.sum(y**2) for y in g(*x))
    return jax.jit(lambda *x: (g(*x), jax.grad(size, argnums=(0, 1, 2))(*x)))

  for a, b in zip(
    jax.tree.leaves(first_and_second(ours)(q, k, v)),
    jax.tree.leaves(first_and_second(plain)(q, k, v)),
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_gradients_of_swiglu_are_those_of_autodiff():
  gate, up, dy = jax.random.normal(jax.random.key(0), (3, 2, 5)) * 3
  plain = lambda gate, up: jax.nn.silu(gate) * up
  ours, theirs = (jax.vjp(f, gate, up)[1](dy) for f in (llama.swiglu, plain))
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
