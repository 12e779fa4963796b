"""What the model families share: the contract, and a decoder's plumbing.

A family's file holds its `Block`, its published sizes and its weights' names;
`decoder(Block, config)` makes a `Policy` of it. A token sees the tokens of its
own segment whose position is not after its own; that one rule serves causal
rows, packed rows, padding (segment 0) and the decode cache. f32 means f32 on
every device: precision is asked for, since GPUs and TPUs round by default.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from jax_cl import names, sharding, tree
from jax_cl.policies import lora, rope, slots

PyTree = Any

# What a layer keeps for its backward pass: its input alone, or the results of
# its matrix products as well (attention scores are computed again).
REMAT = {
  "full": jax.checkpoint_policies.nothing_saveable,
  "dots": jax.checkpoint_policies.save_only_these_names("dot"),  # of `Linear`
}


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes of a dense decoder. Hashable, so it may be a static argument."""

  family: str  # module of this folder that knows the weights' names
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
  rope_scaling: rope.Scaling | None = None
  qkv_bias: bool = False
  o_bias: bool = False
  mlp_bias: bool = False
  qk_norm: bool = False  # RMSNorm of each head's queries and keys
  window: int = 0  # newest positions that `window_layers` see, own included
  window_layers: tuple[int, ...] = ()
  dtype: str = "float32"  # of activations and caches; "bfloat16" to compute so
  remat: str = ""  # "", or a name of REMAT
  attention_block: int = 0  # queries whose scores exist at a time; 0: all
  lora_rank: int = 0  # 0: `init` makes no adapters
  lora_alpha: float = 16.0
  lora_targets: str = "layers/.*"  # regex over modules: `layers/attn/(q|v)`

  @property
  def lora_scale(self) -> float:
    return self.lora_alpha / max(self.lora_rank, 1)


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


class Ahead(NamedTuple):
  """Prompts that rows stand behind: read, never written (see `alike`)."""

  k: Array  # dtype[L, U, P, K, C], rotated
  v: Array  # dtype[L, U, P, K, C]
  positions: Any = None  # int32[U, P]
  segments: Any = None  # int32[U, P], 0 where nothing is
  place: Any = None  # int32[B], of each row's prompt


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
  hidden: Callable[..., tuple[Array, Any]]  # Any: the cache's own type
  # (params, tokens_BT, positions_BT, segments_BT, cache=None, *, layers=None)
  unembed: Callable[..., Array]  # (params, x_BTD) -> f32[B, T, V]


class View(NamedTuple):
  """What the tokens of a chunk see, the same in every layer."""

  angles: tuple[Array, Array]  # f32[B, T, 1, C / 2], cos and sin
  mask: Array  # bool[B, T, S]
  near: Array | None  # bool[B, T, S], within the window; None without one
  at: Any  # int32[B, T], the chunk's slots in the cache, or `Ahead.place`


class Linear(nn.Module):
  """x @ kernel (+ bias) (+ scale (x @ lora_a) @ lora_b), kernel [in, out].

  Hub files hold the kernel's transpose. Adapters are applied where the tree
  has them, at the rank that they have (see `lora`).
  """

  features: int
  dtype: str
  use_bias: bool = False
  scale: float = 1.0  # alpha / r of the adapter

  @nn.compact
  def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
    init = nn.initializers.lecun_normal()
    shape = (x.shape[-1], self.features)
    kernel = self.param("kernel", init, shape, jnp.float32)
    y = self._matmul(x, kernel)
    if self.has_variable("params", "lora_a"):
      a = self.get_variable("params", "lora_a")
      b = self.get_variable("params", "lora_b")
      y += self.scale * self._matmul(self._matmul(x, a), b)
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, shape[1:], jnp.float32)
      y += jnp.broadcast_to(bias.astype(self.dtype), y.shape)
    return y

  def _matmul(self, x: Array, w: Array) -> Array:
    return checkpoint_name(_dot(x, w.astype(self.dtype)), "dot")


@jax.custom_vjp
def _dot(x: Float[Array, "*B I"], w: Float[Array, "I O"]):
  """x @ w, whose gradient of w is x^T dy or (dy^T x)^T, as autodiff's always
  is: XLA for a CPU works out the first factor in transposed order, copying it,
  and so that should be the narrower one."""
  return jnp.matmul(x, w, precision=_exact(x.dtype))


def _dot_bwd(kept, dy):
  x, w = kept
  product = functools.partial(jnp.einsum, precision=_exact(x.dtype))
  dx = product("...o,io->...i", dy, w)
  if x.shape[-1] < dy.shape[-1]:
    return dx, product("...i,...o->io", x, dy)
  return dx, product("...o,...i->oi", dy, x).T


_dot.defvjp(lambda x, w: (_dot(x, w), (x, w)), _dot_bwd)


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


def attention(
  q: Float[Array, "B T H C"],
  k: Float[Array, "B S K C"],
  v: Float[Array, "B S K C"],
  mask: Bool[Array, "B T S"],
  block: int = 0,
) -> Float[Array, "B T H C"]:
  """Grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245).

  Scores are float32[B, H, T, S], 9 GiB a row of 12k tokens and 16 heads, and
  are computed again on the way back. With `block` those of so many queries
  exist at a time.
  """
  T = q.shape[1]
  if not block or T <= block:
    return _attention(q, k, v, mask)
  n = -(-T // block)

  def cut(x):
    x = jnp.pad(x, ((0, 0), (0, n * block - T), *((0, 0),) * (x.ndim - 2)))
    return jnp.moveaxis(x.reshape(x.shape[0], n, block, *x.shape[2:]), 1, 0)

  some = jax.checkpoint(lambda part: _attention(part[0], k, v, part[1]))
  out = jnp.moveaxis(jax.lax.map(some, (cut(q), cut(mask))), 0, 1)
  return out.reshape(out.shape[0], n * block, *out.shape[3:])[:, :T]


def _attention(q, k, v, mask):
  """Heads before tokens, so that all products are plain batches of matrices."""
  B, T, H, C = q.shape
  K = k.shape[2]
  q = q.reshape(B, T, K, H // K, C).transpose(0, 2, 3, 1, 4)
  q = q.reshape(B, K, H // K * T, C)  # queries of one key head
  y = _by_head(q, k.swapaxes(1, 2), v.swapaxes(1, 2), mask)
  y = y.reshape(B, K, H // K, T, C).transpose(0, 3, 1, 2, 4)
  return y.reshape(B, T, H, C)


@jax.custom_vjp
def _by_head(q_BKMC, k_BKSC, v_BKSC, mask_BTS):
  """softmax(q k^T / sqrt(C)) v; M queries a key head, in T-long stretches.

  Scores are computed again on the way back: of [B, K, M, S] nothing is kept,
  as in FlashAttention (Dao et al. 2022, arXiv:2205.14135, alg. 4), here
  without its tiles. Autodiff keeps their softmax, for every layer.
  """
  return _by_head_fwd(q_BKMC, k_BKSC, v_BKSC, mask_BTS)[0]


def _by_head_fwd(q, k, v, mask):
  x = _scores(q, k, mask)
  m = x.max(-1, keepdims=True)
  p = jnp.exp(x - m)
  l = p.sum(-1, keepdims=True)
  y = _f32("bkms,bksc->bkmc", p.astype(v.dtype), v) / l
  y = y.astype(q.dtype)
  return y, (q, k, v, mask, y, m, l)


def _by_head_bwd(kept, dy):
  q, k, v, mask, y, m, l = kept
  p = jnp.exp(_scores(q, k, mask) - m) / l
  # sum_s p_s dp_s of each query, without its dp.
  mean = jnp.sum(dy.astype(jnp.float32) * y.astype(jnp.float32), -1)[..., None]
  dx = p * (_f32("bkmc,bksc->bkms", dy, v) - mean) * (q.shape[-1] ** -0.5)
  dx = _where(mask, dx, 0.0)  # a query that sees nothing has p > 0 all over
  dx, p = dx.astype(q.dtype), p.astype(q.dtype)
  dq = _f32("bkms,bksc->bkmc", dx, k)
  dk = _f32("bkms,bkmc->bksc", dx, q)
  dv = _f32("bkms,bkmc->bksc", p, dy)
  return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


_by_head.defvjp(_by_head_fwd, _by_head_bwd)


def _scores(q, k, mask):
  # float32: a softmax over thousands of bfloat16 scores ties near ones.
  x = _f32("bkmc,bksc->bkms", q, k) * (q.shape[-1] ** -0.5)
  # Finite, so that a row of nothing but padding stays a number.
  return _where(mask, x, -1e30)


def _where(mask_BTS, x_BKMS, rest: float):
  B, K, M, S = x_BKMS.shape
  T = mask_BTS.shape[1]
  x = x_BKMS.reshape(B, K, M // T, T, S)
  return jnp.where(mask_BTS[:, None, None], x, rest).reshape(B, K, M, S)


def _f32(equation, a, b):
  return jnp.einsum(
    equation,
    a,
    b,
    precision=_exact(a.dtype),
    preferred_element_type=jnp.float32,
  )


def attend(q, k, v, view: View, kv, slides, block: int = 0):
  """(y_BTHC, kv): a layer's attention over the chunk, or a cache with it.

  q, k and v are the chunk's own, rotated. `slides`: bool[], whether the layer
  sees its window alone; None where no layer does. `block`: see `attention`.
  """
  mask = view.mask if slides is None else view.mask & (view.near | ~slides)
  if isinstance(kv, slots.Layer):
    return slots.attend(q, k, v, mask, view.at, kv)
  if isinstance(kv, Ahead):
    k, v = _behind(kv.k, view.at, k), _behind(kv.v, view.at, v)
    return attention(q, k, v, mask, block), None
  if kv is not None:
    kv = k, v = _write(kv[0], view.at, k), _write(kv[1], view.at, v)
  return attention(q, k, v, mask, block), kv


def decoder(
  block: Callable[[Config], nn.Module],
  config: Config,
  axes: Mapping[str, tuple[str, ...]],
) -> Policy:
  """A Policy of `config.layers` blocks between an embedding and a head.

  `block(config)(x_BTD, view, kv, slides) -> (x_BTD, kv)`: `kv` is the layer's
  part of a cache, or None. `params["layers"]` is stacked on a leading axis and
  run under `nn.scan`; a tuple of trees (`unstack`) is run as a plain loop,
  which copies no weights. `axes`: path -> logical names, one a dimension;
  those of biases and adapters follow from their kernel's.
  """
  check(config)
  dtype = jnp.dtype(config.dtype)

  if config.remat:
    # Under scan nothing can be merged across steps, so nothing need be kept
    # apart (prevent_cse); the plain loop serves decoding, without gradients.
    block = nn.remat(block, policy=REMAT[config.remat], prevent_cse=False)  # pyright: ignore

  def stack(n):
    return nn.scan(
      block,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=(nn.broadcast, 0, 0),  # pyright: ignore
      length=n,
    )(config)

  def init(key):
    keys = jax.random.split(key, 5)
    x = jnp.zeros((1, 1, config.width), dtype)
    mask = jnp.ones((1, 1, 1), bool)
    view = View(_angles(config, jnp.zeros((1, 1), jnp.int32)), mask, None, None)
    normal = nn.initializers.normal(config.width**-0.5)
    layers = stack(config.layers).init(keys[1], x, view, None, None)
    params = {
      "embed": {"embedding": normal(keys[0], (config.vocab, config.width))},
      "layers": layers["params"],
      "norm": RMSNorm(config.norm_eps).init(keys[2], x)["params"],
    }
    if not config.tied:
      head = Linear(config.vocab, config.dtype)
      params["head"] = head.init(keys[3], x)["params"]
    if config.lora_rank:
      rank, targets = config.lora_rank, config.lora_targets
      params = lora.add(params, keys[4], rank=rank, targets=targets)
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
    cache: Cache | Ahead | slots.Slots | None = None,
    *,
    layers: int | None = None,
  ):
    held = _depth(params["layers"])
    n = held if layers is None else layers
    if not 0 < n <= held:
      raise ValueError(f"layers={n}: these parameters hold 1 to {held}")
    x = params["embed"]["embedding"][tokens_BT].astype(dtype)
    if cache is None:
      at, kv = None, None
      positions_BS, segments_BS = positions_BT, segments_BT
    elif isinstance(cache, slots.Slots):
      at = slots.places(cache, tokens_BT.shape[1])
      kv = slots.layers(cache, n)
      positions_BS, segments_BS = slots.keys(cache, positions_BT, segments_BT)
    elif isinstance(cache, Ahead):
      at, kv = cache.place, Ahead(cache.k[:n], cache.v[:n])
      positions_BS = _behind(cache.positions, at, positions_BT)
      segments_BS = _behind(cache.segments, at, segments_BT)
    else:
      at = _slots(cache, tokens_BT.shape[1])
      kv = (cache.k[:n], cache.v[:n])
      positions_BS = _write(cache.positions, at, positions_BT)
      segments_BS = _write(cache.segments, at, segments_BT)
    ago = positions_BT[:, :, None] - positions_BS[:, None]
    mask = (segments_BT[:, :, None] == segments_BS[:, None]) & (ago >= 0)
    near, slides = None, None
    if config.window_layers:
      near = ago < config.window
      slides = jnp.asarray([i in config.window_layers for i in range(n)])
    view = View(_angles(config, positions_BT), mask, near, at)
    if isinstance(params["layers"], tuple):
      new = []
      for i, p in enumerate(params["layers"][:n]):
        here = None if kv is None else slots.pick(kv, i)
        slide = None if slides is None else slides[i]
        x, out = block(config).apply({"params": p}, x, view, here, slide)
        new.append(out)
      if isinstance(cache, slots.Slots):
        new = slots.apart(new)
      else:
        new = jax.tree.map(lambda *a: jnp.stack(a), *new)
    else:
      first = {"params": jax.tree.map(lambda a: a[:n], params["layers"])}
      run: Any = stack(n).apply
      x, new = run(first, x, view, kv, slides)
    if isinstance(cache, slots.Slots):
      cache = slots.written(cache, new, jnp.sum(segments_BT > 0, axis=1))
    elif isinstance(cache, Cache):
      length = cache.length + jnp.sum(segments_BT > 0, axis=1)
      k, v = new  # pyright: ignore
      cache = Cache(k, v, positions_BS, segments_BS, length)
    return x, cache

  def unembed(
    params: PyTree, x: Float[Array, "B T D"]
  ) -> Float[Array, "B T V"]:
    norm: Any = RMSNorm(config.norm_eps).apply
    x = norm({"params": params["norm"]}, sharding.rows(x))
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
    return tree.map_with_path(lambda path, _: _axes_of(axes, path), shapes)

  return Policy(config, init, init_cache, axes_tree, hidden, unembed)


def configure(
  family: str,
  variants: Mapping[str, Config],
  variant: str | Config,
  changes: Mapping[str, Any],
) -> Config:
  """A variant by name, or a Config, with `changes` to its fields."""
  if isinstance(variant, str):
    names.check(f"variant of {family}", variant, variants)
    variant = variants[variant]
  fields = [f.name for f in dataclasses.fields(Config)]
  for name in changes:
    names.check("model option", name, fields)
  return dataclasses.replace(variant, **changes)


def with_biases(weight_map: Mapping[str, str]) -> dict[str, str]:
  """The map, with the layers' biases beside their kernels."""
  biases = {
    ours.replace("/kernel", "/bias"): theirs.replace(".weight", ".bias")
    for ours, theirs in weight_map.items()
    if ours.startswith("layers/") and ours.endswith("/kernel")
  }
  return {**weight_map, **biases}


def unstack(params: PyTree) -> PyTree:
  """The same tree with `layers` a tuple: no slice is copied at each layer."""
  layers = params["layers"]
  cut = lambda i: jax.tree.map(lambda a: a[i], layers)
  return {**params, "layers": tuple(cut(i) for i in range(_depth(layers)))}


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
  if config.remat:
    names.check("remat policy", config.remat, REMAT)
  if config.rope_scaling:
    names.check("RoPE scaling", config.rope_scaling.kind, rope.KINDS)
  if config.window_layers and config.window < 1:
    raise ValueError(f"window={config.window} of the layers with a window")


def _angles(config: Config, positions_BT):
  c = config
  return rope.angles(positions_BT, c.head_width, c.rope_theta, c.rope_scaling)


def _axes_of(axes: Mapping[str, tuple[str, ...]], path: str) -> tuple[str, ...]:
  if path in axes:
    return axes[path]
  module, _, leaf = path.rpartition("/")
  *lead, n_in, n_out = axes[f"{module}/kernel"]
  return {
    "bias": (*lead, n_out),
    "lora_a": (*lead, n_in, "rank"),
    "lora_b": (*lead, "rank", n_out),
  }[leaf]


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


def _behind(held: Array, place: Int[Array, " B"], new: Array) -> Array:
  """Each row's prompt and, after it, the row."""
  return jnp.concatenate([held[place], new], axis=1)
