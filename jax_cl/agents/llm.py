"""The LLM as a learner: rows of tokens, trained by GRPO, cloning, or both.

A row is one conversation: `obs` holds `tokens`, `positions` and `segments`
(int32[B, T]; segment 0 is padding), `action` the next tokens, `mask` 1 where
the policy sampled them. A row whose `logp_old` is `types.CLONED` was sampled by
nobody: its tokens' likelihood is learned, weighted by the advantage. The two
kinds meet in one batch by their rows,

  L = (n_pg L_pg + n_bc L_bc) / (n_pg + n_bc) + kl KL(pi, base) - bonus H(pi),

n being sums of row weights, L_pg one of `losses.grpo` and L_bc the mean over
tokens of -A log pi.

Everything is summed over micro-batches of `micro` rows, each rematerialised,
and divided once, so that gradients depend on neither their number nor on
padding. With `buckets` rows are put together by length, and a micro-batch is
cut to the shortest bucket that holds it. Logits exist for `chunk` positions of
a micro-batch at a time, and for sampled tokens alone. With `shared` the tokens
that rows begin with in common are computed once (`policies.alike`). What is
trained is a sub-tree (`trains`): methods never see the rest. With adapters the
base model is the tree without them, so the KL reference costs no memory; when
the whole tree is trained, a copy is kept only if `kl` > 0.

With constrained decoding `obs["support"]` (uint32[B, S, ceil(V/32)], packed)
says what the first S sampled tokens of a row were drawn from; all figures that
are of the recorded tokens are then of the softmax over it. `out` is not: it
gives the model's own logits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_cl import generate, tree
from jax_cl.losses import fisher, grpo, policy
from jax_cl.policies import alike, lora
from jax_cl.policies.base import Policy
from jax_cl.types import CLONED, Agent, Batch, Objective

PyTree = Any
Sums = dict[str, grpo.Sums]


def make(
  *,
  model: Policy,
  length: int,
  load: Callable[[Any, Any], PyTree] | None = None,
  trains: str = ".*",
  loss: str = "grpo",
  loss_args: Mapping[str, Any] | None = None,
  frozen_dtype: str = "float32",
  kl: float = 0.0,
  kl_estimator: str = "k3",
  entropy_bonus: float = 0.0,
  temperature: float = 1.0,
  geometric: Sequence[float] = (),
  micro: int = 0,
  buckets: Sequence[int] = (),
  chunk: int = 256,
  shared: int = 0,
  prompts: int = 1,
  top_k: int = 0,
  supports: int = 0,
) -> Agent:
  """An agent of one model.

  Args:
    model: the policy; its config may ask for adapters.
    length: T, tokens of a row.
    load: (key, layout) -> params: pretrained ones; None: new ones.
    trains: regex of the paths that learn, `.*lora_[ab]` for adapters alone.
    loss, loss_args: a name of `losses.grpo.LOSSES` and its options.
    frozen_dtype: of weights that do not learn; those that do are float32.
    kl, kl_estimator: strength of the pull to the base model, and k2 or k3.
    entropy_bonus: weight of the policy's entropy, nats.
    temperature: of sampling; log-probabilities are those of the tempered
      softmax, which is what acted.
    geometric: (low, high): only conversations whose geometric mean of pi / mu
      lies between them are learned from (`grpo.geometric_mask`); the share
      that is left out is logged as `masked`. (): all.
    micro: rows of a micro-batch, 0: the whole batch at once.
    buckets: lengths below `length`, rising, that micro-batches are cut to.
    chunk: positions whose logits exist at a time.
    shared: tokens that rows begin with, none of them sampled, which are those
      of one prompt or of few; computed once for all rows of a micro-batch.
    prompts: how many prompts a micro-batch may have. The loss is NaN where
      there are more, or where a shared token was sampled.
    top_k: `Objective.out` gives so many logits and their ids, the largest of
      each position (f32[B, T, K], int32[B, T, K]); 0: all, f32[B, T, V].
    supports: S, how many sampled tokens of a row come with their support; 0:
      decoding is not constrained.
  """
  if not temperature > 0:
    raise ValueError(f"agent.temperature is {temperature}; it must be > 0")
  if kl < 0 or micro < 0 or chunk < 1 or top_k < 0:
    raise ValueError(
      f"agent needs kl >= 0, micro >= 0, chunk >= 1, top_k >= 0; got kl {kl}, "
      f"micro {micro}, chunk {chunk}, top_k {top_k}"
    )
  if geometric and not (len(geometric) == 2 and geometric[0] <= geometric[1]):
    raise ValueError(f"agent.geometric is {geometric}; give () or (low, high)")
  if list(buckets) != sorted({*buckets}) or not all(
    0 < n < length for n in buckets
  ):
    raise ValueError(
      f"agent.buckets {tuple(buckets)} must rise and lie below {length} tokens"
    )
  pg = grpo.loss(loss, dict(loss_args or {}))
  estimator = grpo.penalty(kl_estimator)

  if shared and not 0 < shared < min([length, *buckets]):
    raise ValueError(
      f"agent.shared is {shared}; it must be positive and below the "
      f"{min([length, *buckets])} tokens of the shortest row"
    )
  if prompts < 1:
    raise ValueError(f"agent.prompts is {prompts}; it must be 1 or more")

  def init(key):
    return apart(jax.jit(model.init)(key))

  def read(key, layout):
    assert load
    return apart(load(key, layout))

  def apart(params):
    """(what is trained, what is not)."""
    keep = tree.select(params, trains)
    if not any(jax.tree.leaves(keep)):
      raise ValueError(
        f"agent.trains is {trains!r}, which matches none of "
        f"{tree.paths(params)[:4]}, ...: adapters need model.lora_rank > 0"
      )
    p, rest = tree.split(params, keep)
    frozen = {"rest": rest, "base": None}
    if kl and not _all_adapters(p):
      frozen["base"] = _without_adapters(params)
    cast = lambda x: x.astype(frozen_dtype, copy=False)
    return p, jax.tree.map(cast, frozen)

  def reference(params, frozen):
    """The weights before any training: those that are here, where adapters
    alone learn."""
    base = frozen["base"]
    return _without_adapters(params) if base is None else base

  def objective(frozen) -> Objective:
    whole = lambda p: tree.join(p, frozen["rest"])

    def tokens(params, batch: Batch):
      """(log pi of the actions, entropy, was it the mode): f32[B, T] each, at
      sampled tokens; what stands elsewhere means nothing."""
      sampled_BT = batch.mask != 0
      x = hidden(params, batch.obs)
      if shared:
        early = jnp.any(sampled_BT[:, :shared])
        x = jnp.where(early, jnp.nan, x)

      def read(x, of):
        action, support = of
        logits = model.unembed(params, x) / temperature
        return _read(_within(logits, support), action)

      action, support, sampled = jax.tree.map(
        lambda y: y[:, shared:], (batch.action, _support(batch), sampled_BT)
      )
      out = _where_sampled(read, chunk, x, (action, support), sampled)
      return jax.tree.map(lambda y: jnp.pad(y, ((0, 0), (shared, 0))), out)

    def hidden(params, obs):
      """Of all tokens but the first `shared`."""
      if shared:
        return alike.hidden(model, params, obs, shared, prompts)
      x, _ = model.hidden(
        params, obs["tokens"], obs["positions"], obs["segments"]
      )
      return x

    def logp(p, batch):
      return tokens(whole(p), batch)[0]

    def rows(p, batch):
      return -batch.adv * grpo.row_mean(logp(p, batch), batch.mask)

    def out(p, batch, ids=None):
      params, obs = whole(p), batch.obs
      x, _ = model.hidden(
        params, obs["tokens"], obs["positions"], obs["segments"]
      )
      logits = lambda x: model.unembed(params, x) / temperature
      if ids is not None:
        at = lambda x, i: jnp.take_along_axis(logits(x), i, axis=-1)
        return _in_chunks(at, chunk, x, ids)
      if top_k:
        best = lambda x, _: tuple(jax.lax.top_k(logits(x), top_k))
        return _in_chunks(best, chunk, x, batch.action)
      return logits(x)

    def sums(p, batch: Batch) -> Sums:
      """All terms of the loss and all figures, as (sum, count)."""
      logp_BT, entropy_BT, hit_BT = tokens(whole(p), batch)
      cloned_B = jnp.any((batch.logp_old > 0) & (batch.mask > 0), axis=1)
      new = batch._replace(weight=batch.weight * ~cloned_B)
      old = batch._replace(weight=batch.weight * cloned_B)
      nothing = jnp.zeros(())
      out = grpo.statistics(logp_BT, new)
      if geometric:
        near_B = grpo.geometric_mask(
          logp_BT, new.logp_old, new.mask, *geometric
        )
        rows, new = new.weight, new._replace(weight=new.weight * near_B)
        out["masked"] = (jnp.sum(rows * ~near_B), jnp.sum(rows))
      out |= {
        "pg": pg(logp_BT, new),
        "bc": grpo.by_token(-batch.adv[:, None] * logp_BT, old),
        "pg_rows": (jnp.sum(new.weight), nothing),
        "bc_rows": (jnp.sum(old.weight), nothing),
        "entropy": grpo.by_token(entropy_BT, batch),
        "logp": grpo.by_token(logp_BT, batch),
        "accuracy": grpo.by_token(hit_BT, batch),
      }
      if kl:
        base = reference(whole(p), frozen)
        ref_BT = jax.lax.stop_gradient(tokens(base, batch)[0])
        out["kl_base"] = grpo.by_token(grpo.k1(logp_BT, ref_BT), new)
        out["kl_loss"] = grpo.by_token(estimator(logp_BT, ref_BT), new)
      return out

    def loss_(p, batch, key):
      del key  # no dropout here
      part = _bucketed(lambda b: sums(p, b), buckets)
      total = _accumulate(part, batch, micro, by_length=bool(buckets))
      n_pg, n_bc = total.pop("pg_rows")[0], total.pop("bc_rows")[0]
      means = {k: s / jnp.maximum(n, 1e-8) for k, (s, n) in total.items()}
      square = jnp.maximum(means.pop("ratio_square"), 1e-8)
      means["ess"] = means["ratio"] ** 2 / square
      value = n_pg * means.pop("pg") + n_bc * means.pop("bc")
      value /= jnp.maximum(n_pg + n_bc, 1e-8)
      if kl:
        value += kl * means.pop("kl_loss")
      value -= entropy_bonus * means["entropy"]
      return value, means

    # Rows of the Fisher information are the policy's own samples.
    own = lambda p, batch, key: fisher.empirical(obj, p, batch, key)
    obj = Objective(loss=loss_, rows=rows, logp=logp, out=out, fisher=own)
    return obj

  def act(p, frozen, obs, key, greedy):
    raise NotImplementedError("an LLM acts through jax_cl.engine")

  row = ((length,), np.int32)
  spec: dict[str, Any] = {"tokens": row, "positions": row, "segments": row}
  if supports:
    spec["support"] = (supports, generate.words(model.config.vocab)), np.uint32
  return Agent(
    init=init,
    objective=objective,
    act=act,
    obs_spec=spec,
    load=read if load else None,
  )


def rows(
  conversations: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
  length: int,
) -> dict[str, Any]:
  """obs, action, mask and logp_old of conversations (ids, mask, logp).

  The three arrays of a conversation have one length n <= length + 1; the first
  token is read, never predicted. Raises ValueError where they differ or a
  sampled token has no log-probability: never a silent 0.
  """
  B, T = len(conversations), length
  ids, mask = np.zeros((B, T + 1), np.int32), np.zeros((B, T + 1), np.float32)
  logp, real = np.zeros((B, T + 1), np.float32), np.zeros((B, T + 1), bool)
  for b, (i, m, l) in enumerate(conversations):
    n = len(i)
    if not n == len(m) == len(l) or n > T + 1:
      raise ValueError(
        f"conversation {b} has {n} ids, {len(m)} mask entries and {len(l)} "
        f"log-probabilities; all must be one number, at most {T + 1}"
      )
    if not np.isfinite(np.asarray(l)[np.asarray(m) > 0]).all():
      raise ValueError(f"conversation {b}: a sampled token has no logprob")
    ids[b, :n], mask[b, :n], logp[b, :n], real[b, :n] = i, m, l, True
  positions = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))
  return {
    "obs": {
      "tokens": ids[:, :-1],
      "positions": np.where(real[:, :-1], positions, 0).astype(np.int32),
      "segments": real[:, :-1].astype(np.int32),
    },
    "action": ids[:, 1:],
    "mask": mask[:, 1:] * real[:, 1:],
    "logp_old": np.where(mask[:, 1:] > 0, logp[:, 1:], 0.0).astype(np.float32),
  }


def with_supports(
  rows: dict[str, Any], supports: Sequence[Sequence[Any]], shape
) -> dict[str, Any]:
  """`rows`, with what each conversation's sampled tokens were drawn from.

  `supports` has a packed one for each of a conversation's sampled tokens, or
  none at all: all tokens. `shape` is (S, words). Those sampled after S others
  are not learned from where there are supports: theirs is not kept.
  """
  packed = np.full((len(rows["mask"]), *shape), 2**32 - 1, np.uint32)
  mask = rows["mask"].copy()
  for b, found in enumerate(supports):
    n = min(len(found), shape[0])
    if n:
      packed[b, :n] = found[:n]
      mask[b] *= np.cumsum(mask[b] > 0) <= shape[0]
  obs = {**rows["obs"], "support": packed}
  return {**rows, "obs": obs, "mask": mask}


def cloned(
  ids: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """A demonstration as a conversation of `rows`."""
  return ids, mask, np.full(len(ids), CLONED, np.float32)


# ---------------------------------------------------------------------- inside


def _read(logits_BTV, action_BT):
  hit_BT = jnp.argmax(logits_BTV, axis=-1) == action_BT
  logp_BT, entropy_BT = policy.log_prob_and_entropy(logits_BTV, action_BT)
  return logp_BT, entropy_BT, hit_BT.astype(jnp.float32)


def _support(batch: Batch):
  """uint32[B, T, W]: what each token was drawn from; None: from all."""
  packed_BSW = batch.obs.get("support")
  if packed_BSW is None:
    return None
  place_BT = jnp.cumsum(batch.mask != 0, axis=1) - 1
  at = jnp.clip(place_BT, 0, packed_BSW.shape[1] - 1)
  found_BTW = jnp.take_along_axis(packed_BSW, at[..., None], axis=1)
  known_BT = (batch.mask != 0) & (at == place_BT)
  return jnp.where(known_BT[..., None], found_BTW, jnp.uint32(2**32 - 1))


def _within(logits_BTV, support_BTW):
  if support_BTW is None:
    return logits_BTV
  allowed = generate.allowed(support_BTW, logits_BTV.shape[-1])
  return jnp.where(allowed, logits_BTV, -1e9)


def _in_chunks(f, size: int, x_BTD, of):
  """f(x, of) for `size` positions at a time; leaves lead with B, T."""
  B, T = x_BTD.shape[:2]
  if T <= size:
    return f(x_BTD, of)
  n = -(-T // size)
  cut = lambda a: jnp.moveaxis(
    jnp.pad(a, ((0, 0), (0, n * size - T), *((0, 0),) * (a.ndim - 2))).reshape(
      B, n, size, *a.shape[2:]
    ),
    1,
    0,
  )
  # Checkpointed: only x is kept for the way back, not the logits.
  body = jax.checkpoint(lambda xa: f(*xa))
  parts = jax.lax.map(body, jax.tree.map(cut, (x_BTD, of)))
  glue = lambda y: jnp.moveaxis(y, 0, 1).reshape(B, n * size, *y.shape[3:])
  return jax.tree.map(lambda y: glue(y)[:, :T], parts)


def _where_sampled(f, size: int, x_BTD, of, sampled_BT):
  """f(x, of) at sampled positions, `size` at a time; `of` leads with B, T.

  Sampled ones are moved to the front, so that logits are made for them and not
  for what others said: chunks without any are skipped, and are 0.
  """
  if sampled_BT.shape[1] <= size:
    return f(x_BTD, of)
  front_BT = jnp.argsort(~sampled_BT, axis=1, stable=True)
  back_BT = jnp.argsort(front_BT, axis=1)
  take = lambda y, i: jnp.take_along_axis(
    y, i.reshape(*i.shape, *(1,) * (y.ndim - 2)), axis=1
  )

  def some(x, of):
    of, sampled = of
    out = jax.eval_shape(f, x, of)
    none = lambda: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), out)
    return jax.lax.cond(jnp.any(sampled), lambda: f(x, of), none)

  to_front = lambda y: take(y, front_BT)
  of = jax.tree.map(to_front, (of, sampled_BT))
  parts = _in_chunks(some, size, to_front(x_BTD), of)
  return jax.tree.map(lambda y: take(y, back_BT), parts)


def _accumulate(
  f: Callable[[Batch], Sums], batch: Batch, micro: int, by_length: bool
) -> Sums:
  """Sum of f over micro-batches; what is missing is filled with weight 0.

  Each takes every n-th row, so that where rows lie on several devices all of
  them have a share of each micro-batch; or, by length, the next longest ones.
  """
  B = batch.weight.shape[0]
  if not micro or micro >= B:
    return f(batch)
  n = -(-B // micro)
  fill = lambda x: jnp.pad(x, ((0, n * micro - B), *((0, 0),) * (x.ndim - 1)))
  batch = jax.tree.map(fill, batch)
  if by_length:
    order = jnp.argsort(_lengths(batch)).reshape(n, micro)
    parts = jax.tree.map(lambda x: x[order], batch)
  else:
    cut = lambda x: x.reshape(micro, n, *x.shape[1:])
    parts = jax.tree.map(lambda x: jnp.moveaxis(cut(x), 1, 0), batch)
  first = jax.eval_shape(f, jax.tree.map(lambda x: x[0], parts))
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), first)
  body = jax.checkpoint(lambda part: f(part))
  add = lambda total, part: (jax.tree.map(jnp.add, total, body(part)), None)
  return jax.lax.scan(add, zeros, parts)[0]


def _bucketed(
  f: Callable[[Batch], Sums], buckets: Sequence[int]
) -> Callable[[Batch], Sums]:
  """f of a batch cut to the shortest bucket that holds its longest row.

  One program for each bucket; without rows nothing is computed.
  """
  if not buckets:
    return f

  def short(batch: Batch, n: int) -> Batch:
    cut = lambda x: x[:, :n]
    rows = {k: cut(getattr(batch, k)) for k in ("action", "mask", "logp_old")}
    return batch._replace(obs=jax.tree.map(cut, batch.obs), **rows)

  def g(batch: Batch) -> Sums:
    zeros = lambda s: jnp.zeros(s.shape, s.dtype)
    none = lambda b: jax.tree.map(zeros, jax.eval_shape(f, b))
    sizes = [n for n in buckets if n < batch.mask.shape[1]]
    cuts = [lambda b, n=n: f(short(b, n)) for n in sizes]
    longest = jnp.max(_lengths(batch))
    place = jnp.searchsorted(jnp.asarray([0, *sizes]), longest)
    return jax.lax.switch(place, [none, *cuts, f], batch)

  return g


def _lengths(batch: Batch):
  """Tokens of each row, int32[B]; rows that do not count have none."""
  used_B = jnp.sum(batch.obs["segments"] > 0, axis=1)
  return jnp.where(batch.weight > 0, used_B, 0)


def _all_adapters(p: PyTree) -> bool:
  return all(re.fullmatch(lora.LEAVES, path) for path in tree.paths(p))


def _without_adapters(params: PyTree) -> PyTree:
  if not isinstance(params, dict):
    return params
  return {
    k: _without_adapters(v)
    for k, v in params.items()
    if k not in ("lora_a", "lora_b")
  }
