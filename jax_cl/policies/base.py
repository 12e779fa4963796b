"""What the model families share: the contract, and a decoder's plumbing.

A family's file holds its `Block`, its published sizes and its weights' names;
`decoder(Block, config)` makes a `Policy` of it. A token sees the tokens of its
own segment whose position is not after its own; that one rule serves causal
rows, packed rows, padding (segment 0) and the decode cache. f32 means f32 on
every device: precision is asked for, since GPUs and TPUs round by default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes of a dense decoder. Hashable, so it may be a static argument."""

  layers: int
  width: int
  heads: int  # of queries
  kv_heads: int
  head_width: int
  ff_width: int
  vocab: int
  context: int  # positions the weights were trained for
  rope_theta: float = 10000.0
  norm_eps: float = 1e-5
  tied: bool = True  # the head is the embedding, transposed
  dtype: str = "float32"  # of activations and caches; "bfloat16" to compute so


class Cache(NamedTuple):
  """Keys and values of earlier tokens, S slots a row.

  Rows fill from slot 0. `length` counts a row's tokens; padding (segment 0) at
  the end of a written chunk is overwritten by the next. Callers see to it that
  length + T <= S: what does not fit is dropped.
  """

  k: Array  # dtype[L, B, S, K, C], rotated
  v: Array  # dtype[L, B, S, K, C]
  positions: Array  # int32[B, S]
  segments: Array  # int32[B, S], 0 where nothing is
  length: Array  # int32[B]


class Policy(NamedTuple):
  """Pure functions over a params tree; paths read `layers/attn/q/kernel`.

  `hidden` gives the residual stream after the last layer, or after `layers=k`
  of them: the others are neither read nor computed, and a tree cut to k layers
  gives the same. `unembed` applies the last norm and the head, so that losses
  call it in chunks, and on an early layer it is the logit lens.
  """

  config: Config
  init: Callable[..., PyTree]  # (key) -> params, float32
  init_cache: Callable[..., Cache]  # (rows, slots, layers=None) -> Cache
  axes: Callable[[], PyTree]  # () -> tuples of logical names, like params
  hidden: Callable[..., tuple[Array, Cache | None]]
  # (params, tokens_BT, positions_BT, segments_BT, cache=None, *, layers=None)
  unembed: Callable[..., Array]  # (params, x_BTD) -> f32[B, T, V]


class Linear(nn.Module):
  """x @ kernel (+ bias), kernel [in, out]. Hub files hold its transpose."""

  features: int
  dtype: str
  use_bias: bool = False

  @nn.compact
  def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
    init = nn.initializers.lecun_normal()
    shape = (x.shape[-1], self.features)
    kernel = self.param("kernel", init, shape, jnp.float32)
    y = jnp.matmul(x, kernel.astype(self.dtype), precision=_exact(self.dtype))
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, shape[1:], jnp.float32)
      y += jnp.broadcast_to(bias.astype(self.dtype), y.shape)
    return y


class RMSNorm(nn.Module):
  """scale * x / rms(x), Zhang & Sennrich 2019, arXiv:1910.07467."""

  eps: float

  @nn.compact
  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
    # float32: squares of a bfloat16 stream lose the small channels beside the
    # few huge ones. The gain is applied after the cast, as transformers does.
    y = rms(x.astype(jnp.float32), self.eps).astype(x.dtype)
    return y * jnp.broadcast_to(scale.astype(x.dtype), y.shape)


def rms(x: Float[Array, "*B D"], eps: float = 1e-5) -> Float[Array, "*B D"]:
  """x / sqrt(mean(x^2) + eps): a norm without its gain."""
  return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps)


def rope_angles(
  positions_BT: Int[Array, "B T"], width: int, theta: float
) -> tuple[Float[Array, "B T 1 c"], Float[Array, "B T 1 c"]]:
  """cos and sin of position * theta^(-2i / width), i < c = width / 2.

  float32 whatever the compute dtype: bfloat16 rounds position 257 to 256.
  """
  i = jnp.arange(0, width, 2, dtype=jnp.float32)
  angle = jnp.einsum(
    "bt,c->btc", positions_BT.astype(jnp.float32), 1.0 / theta ** (i / width)
  )
  return jnp.cos(angle)[:, :, None], jnp.sin(angle)[:, :, None]


def rope(x: Float[Array, "B T H C"], cos, sin) -> Float[Array, "B T H C"]:
  """Rotates channel i against channel i + C/2 (the hub's order of channels).

  Su et al. 2021, arXiv:2104.09864, rotates neighbours; GGUF files keep that
  order, and `weights` sorts their rows.
  """
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(
    x.dtype
  )


def attention(
  q: Float[Array, "B T H C"],
  k: Float[Array, "B S K C"],
  v: Float[Array, "B S K C"],
  mask: Bool[Array, "B T S"],
) -> Float[Array, "B T H C"]:
  """Grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245)."""
  B, T, H, C = q.shape
  K = k.shape[2]
  exact = _exact(q.dtype)
  q = q.reshape(B, T, K, H // K, C)
  # float32 scores: a softmax over thousands of bfloat16 scores ties near ones.
  scores = jnp.einsum(
    "btkgc,bskc->bkgts", q, k, precision=exact, preferred_element_type="float32"
  ) * (C**-0.5)
  # Finite, so that a row of nothing but padding stays a number.
  scores = jnp.where(mask[:, None, None], scores, -1e30)
  p = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
  out = jnp.einsum("bkgts,bskc->btkgc", p, v, precision=exact)
  return out.reshape(B, T, H, C)


def decoder(
  block: Callable[[Config], nn.Module],
  config: Config,
  axes: dict[str, tuple[str, ...]],
) -> Policy:
  """A Policy of `config.layers` blocks between an embedding and a head.

  `block(config)(x_BTD, angles, mask_BTS, at_BT, kv) -> (x_BTD, kv)`: `kv` is
  the layer's part of a cache and `at` the chunk's slots in it, or both are
  None. `params["layers"]` is stacked on a leading axis and run under
  `nn.scan`; a tuple of trees (`unstack`) is run as a plain loop, which copies
  no weights. `axes`: path -> logical names, one a dimension.
  """
  check(config)
  dtype = jnp.dtype(config.dtype)

  def stack(n):
    return nn.scan(
      block,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=(nn.broadcast, nn.broadcast, nn.broadcast, 0),  # pyright: ignore
      length=n,
    )(config)

  def init(key):
    keys = jax.random.split(key, 4)
    token = jnp.zeros((1, 1), jnp.int32)
    x = jnp.zeros((1, 1, config.width), dtype)
    angles = rope_angles(token, config.head_width, config.rope_theta)
    mask = jnp.ones((1, 1, 1), bool)
    normal = nn.initializers.normal(config.width**-0.5)
    layers = stack(config.layers).init(keys[1], x, angles, mask, None, None)
    params = {
      "embed": {"embedding": normal(keys[0], (config.vocab, config.width))},
      "layers": layers["params"],
      "norm": RMSNorm(config.norm_eps).init(keys[2], x)["params"],
    }
    if not config.tied:
      head = Linear(config.vocab, config.dtype)
      params["head"] = head.init(keys[3], x)["params"]
    return params

  def init_cache(rows: int, slots: int, layers: int | None = None) -> Cache:
    n = config.layers if layers is None else layers
    kv = jnp.zeros((n, rows, slots, config.kv_heads, config.head_width), dtype)
    ids = jnp.zeros((rows, slots), jnp.int32)
    return Cache(kv, kv, ids, ids, jnp.zeros(rows, jnp.int32))

  def hidden(
    params: PyTree,
    tokens_BT: Int[Array, "B T"],
    positions_BT: Int[Array, "B T"],
    segments_BT: Int[Array, "B T"],
    cache: Cache | None = None,
    *,
    layers: int | None = None,
  ):
    held = _depth(params["layers"])
    n = held if layers is None else layers
    if not 0 < n <= held:
      raise ValueError(f"layers={n}: these parameters hold 1 to {held}")
    x = params["embed"]["embedding"][tokens_BT].astype(dtype)
    angles = rope_angles(positions_BT, config.head_width, config.rope_theta)
    if cache is None:
      at, kv = None, None
      positions_BS, segments_BS = positions_BT, segments_BT
    else:
      at = _slots(cache, tokens_BT.shape[1])
      kv = (cache.k[:n], cache.v[:n])
      positions_BS = _write(cache.positions, at, positions_BT)
      segments_BS = _write(cache.segments, at, segments_BT)
    mask = (segments_BT[:, :, None] == segments_BS[:, None]) & (
      positions_BT[:, :, None] >= positions_BS[:, None]
    )
    if isinstance(params["layers"], tuple):
      new = []
      for i, p in enumerate(params["layers"][:n]):
        here = None if kv is None else (kv[0][i], kv[1][i])
        x, out = block(config).apply({"params": p}, x, angles, mask, at, here)
        new.append(out)
      new = jax.tree.map(lambda *a: jnp.stack(a), *new)
    else:
      first = {"params": jax.tree.map(lambda a: a[:n], params["layers"])}
      run: Any = stack(n).apply
      x, new = run(first, x, angles, mask, at, kv)
    if cache is not None:
      length = cache.length + jnp.sum(segments_BT > 0, axis=1)
      k, v = new
      cache = Cache(k, v, positions_BS, segments_BS, length)
    return x, cache

  def unembed(
    params: PyTree, x: Float[Array, "B T D"]
  ) -> Float[Array, "B T V"]:
    norm: Any = RMSNorm(config.norm_eps).apply
    x = norm({"params": params["norm"]}, x)
    exact = _exact(x.dtype)
    if config.tied:
      equation, w = "btd,vd->btv", params["embed"]["embedding"]
    else:
      equation, w = "btd,dv->btv", params["head"]["kernel"]
    # float32 out: log-softmax over 49k bfloat16 logits is off by whole nats.
    return jnp.einsum(
      equation,
      x,
      w.astype(x.dtype),
      precision=exact,
      preferred_element_type=jnp.float32,
    )

  def axes_tree():
    shapes = jax.eval_shape(init, jax.random.key(0))
    names = lambda path, _: axes["/".join(k.key for k in path)]
    return jax.tree_util.tree_map_with_path(names, shapes)

  return Policy(config, init, init_cache, axes_tree, hidden, unembed)


def unstack(params: PyTree) -> PyTree:
  """The same tree with `layers` a tuple: no slice is copied at each layer."""
  layers = params["layers"]
  cut = lambda i: jax.tree.map(lambda a: a[i], layers)
  return {**params, "layers": tuple(cut(i) for i in range(_depth(layers)))}


def update_cache(kv, at, k, v):
  """One layer's (k, v) to attend to: the chunk's own, or the cache with it."""
  if kv is None:
    return (k, v), None
  kv = (_write(kv[0], at, k), _write(kv[1], at, v))
  return kv, kv


def check(config: Config) -> None:
  """Refuses sizes that cannot work, before anything is compiled."""
  if config.heads % config.kv_heads:
    raise ValueError(
      f"heads={config.heads} is not a multiple of kv_heads={config.kv_heads}"
    )
  if config.head_width % 2:
    raise ValueError(f"head_width={config.head_width} must be even for RoPE")
  if config.dtype not in ("float32", "bfloat16"):
    raise ValueError(f"dtype={config.dtype!r}: float32 or bfloat16")


def _exact(dtype):
  return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None


def _depth(layers: PyTree) -> int:
  if isinstance(layers, tuple):
    return len(layers)
  return jax.tree.leaves(layers)[0].shape[0]


def _slots(cache: Cache, T: int) -> Int[Array, "B T"]:
  """Where a chunk of T goes in each row; past the end is dropped."""
  B = cache.length.shape[0]
  return jnp.broadcast_to(cache.length[:, None], (B, T)) + jnp.broadcast_to(
    jnp.arange(T, dtype=jnp.int32)[None], (B, T)
  )


def _write(old: Array, at: Int[Array, "B T"], new: Array) -> Array:
  rows = jnp.broadcast_to(jnp.arange(at.shape[0])[:, None], at.shape)
  return old.at[rows, at].set(new, mode="drop")
