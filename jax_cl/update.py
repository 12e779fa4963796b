"""The device side of a run: pure functions of `TrainState`, each jitted once.

  start -> (update, remember)* -> end -> keep -> observe, a stage at a time

Keys are `fold_in(state.key, step)`, never chained, so that a step's randomness
depends on the seed and the step alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_cl import memory, sharding
from jax_cl.losses import grpo
from jax_cl.methods.base import Method
from jax_cl.types import Agent, Array, Batch, Objective, TrainState

PyTree = Any
# Streams of keys below one step, so that no two uses share one.
_DRAW, _GRADS, _STORE, _START, _END, _PHASE = range(6)


class Steps(NamedTuple):
  """Jitted functions of one run. `state` is donated where it is returned."""

  init: Callable  # (key) -> (state, frozen); may read files
  shapes: Callable  # () -> the same, abstract: reads and makes nothing
  start: Callable  # (state, stage) -> state
  update: Callable  # (state, frozen, batch) -> (state, metrics)
  remember: Callable | None  # (state, frozen, batch) -> state
  phases: tuple  # ((fraction, (state) -> state), ...)
  end: Callable  # (state, frozen, batches) -> state
  observe: Callable  # (state, val_row f32[domains]) -> state
  view: Callable  # (state, stage=None) -> params that act; default: today's
  keep: Callable | None = None  # (state, frozen, batches) -> state
  moved: Callable | None = None  # (state, frozen) -> f32[n_stages], nats


class Kept(NamedTuple):
  """Rows of stages that have ended, by which later change is measured."""

  rows: Batch  # leaves [n_stages, n, ...]; weight 0 where there is none
  logp: Array  # float32[n_stages, n, T], under the policy at its stage's end


def make(
  agent: Agent,
  method: Method,
  optimiser: optax.GradientTransformation,
  trains: np.ndarray,
  batch: PyTree,
  reset_optimiser: bool = True,
  layout: sharding.Layout = sharding.Layout(),
  keeps: int = 0,
) -> Steps:
  """`trains` is bool[n_stages, domains]; `batch` any batch of the run's shape.

  `reset_optimiser` forgets moments (and restarts schedules) at every stage.
  `layout` says where the state lives when there are several devices. `keeps`
  rows of each stage are kept, for `moved`; 0: neither costs anything.
  """
  settle = functools.partial(sharding.constrain, where=layout)

  def jit(f, **options):
    """`f` jitted; its results lie where the layout says."""

    @functools.wraps(f)
    def placed(*args):
      with sharding.inside(layout):
        return settle(f(*args))

    return jax.jit(placed, **options)

  def init(key):
    k_agent, k_method, k_run = jax.random.split(key, 3)
    params, frozen = weights(agent, k_agent, layout)
    return jit(fresh)(params, frozen, k_method, k_run), frozen

  def shapes():
    def new(key):
      params, frozen = agent.init(key)
      return fresh(params, frozen, key, key), frozen

    return sharding.describe(jax.eval_shape(new, jax.random.key(0)), layout)

  def fresh(params, frozen, k_method, k_run):
    # Copied, so that no two leaves share memory: the state is donated.
    params = jax.tree.map(jnp.copy, params)
    k_extend = jax.random.fold_in(k_method, 1)
    params = method.extend(params, len(trains), k_extend)
    cl, buffer = method.init(params, len(trains), k_method), ()
    if method.capacity:
      obj = seen(agent.objective(frozen), cl, jnp.int32(0))
      store = lambda b: method.store(obj, cl, params, b, k_run)
      buffer = memory.init(
        jax.eval_shape(store, batch), trains, method.capacity
      )
    return TrainState(
      params=params,
      opt=optimiser.init(params),
      cl=cl,
      buffer=buffer,
      key=k_run,
      step=jnp.int32(0),
      stage=jnp.int32(0),
      kept=_nothing_kept(batch, len(trains), keeps) if keeps else (),
    )

  def objective(state: TrainState, frozen) -> Objective:
    return seen(agent.objective(frozen), state.cl, state.stage)

  def seen(obj: Objective, cl, stage) -> Objective:
    """The learner's, of the weights that act: view(p), not p."""
    see = lambda f: lambda p, *a: f(method.view(cl, p, stage), *a)
    return Objective(*(see(f) for f in obj))

  def start(state: TrainState, stage):
    stage = jnp.asarray(stage, jnp.int32)
    cl, p = method.start(state.cl, state.params, stage, _key(state, _START))
    opt = optimiser.init(p) if reset_optimiser else state.opt
    return state._replace(cl=cl, params=p, opt=opt, stage=stage)

  def update(state: TrainState, frozen, batch: Batch):
    obj, p, stage = objective(state, frozen), state.params, state.stage
    mem = method.draw(state.cl, state.buffer, stage, _key(state, _DRAW))
    g, aux = method.grads(
      obj, state.cl, p, batch, mem, stage, _key(state, _GRADS)
    )
    u, opt = optimiser.update(g, state.opt, p)
    u = method.update(state.cl, p, u, stage)
    # Of no rows nothing is learned: moments of earlier steps would move on.
    some = jnp.any(batch.weight > 0)
    u = jax.tree.map(lambda x: jnp.where(some, x, 0), u)
    p_t = optax.apply_updates(p, u)
    cl = method.step(state.cl, p, p_t, g, aux, stage)
    buffer = method.touch(state.buffer, mem, aux)
    arrays = {k: v for k, v in aux.items() if k != "task_grads"}
    scalars = {k: v for k, v in arrays.items() if jnp.ndim(v) == 0}
    metrics = {
      **scalars,
      "grad_norm": optax.tree.norm(g),
      "update_norm": optax.tree.norm(u),
    }
    new = state._replace(
      params=p_t, opt=opt, cl=cl, buffer=buffer, step=state.step + 1
    )
    return new, metrics

  def remember(state: TrainState, frozen, batch: Batch):
    obj = objective(state, frozen)
    k_store, k_add = jax.random.split(_key(state, _STORE))
    items = method.store(obj, state.cl, state.params, batch, k_store)
    buffer = method.add(state.buffer, items, state.step, k_add)
    return state._replace(buffer=buffer)

  def end(state: TrainState, frozen, batches: Batch):
    cl, p = method.end(
      objective(state, frozen), state.cl, state.params, batches, state.stage,
      _key(state, _END),
    )  # fmt: skip
    return state._replace(cl=cl, params=p)

  def keep(state: TrainState, frozen, batches: Batch):
    """Takes rows with weight of a stage that ends, far apart: neighbours may
    be answers to one prompt."""
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batches)
    order = jnp.argsort(flat.weight <= 0, stable=True)
    n = jnp.maximum(jnp.sum(flat.weight > 0), keeps)
    take = order[jnp.arange(keeps) * n // keeps]
    rows = jax.tree.map(lambda x: x[take], flat)
    new = Kept(rows, objective(state, frozen).logp(state.params, rows))
    put = lambda old, x: old.at[state.stage].set(x)
    return state._replace(kept=jax.tree.map(put, state.kept, new))

  def moved(state: TrainState, frozen):
    """KL(policy at a stage's end, policy now) a token or decision, by stage.

    The mean of `grpo.k3` over what the former did in the rows kept: unbiased,
    never negative; 0 for stages that have not ended. A method that is told the
    stage at test time acts as it would be evaluated.
    """
    obj = agent.objective(frozen)

    def one(stage_and_kept):
      stage, kept = stage_and_kept
      at = stage if "stage_at_test" in method.needs else state.stage
      logp = seen(obj, state.cl, at).logp(state.params, kept.rows)
      total, count = grpo.by_token(grpo.k3(kept.logp, logp), kept.rows)
      return total / jnp.maximum(count, 1e-8)

    # Of stages without rows nothing is computed.
    some = lambda xs: jax.lax.cond(
      jnp.any(xs[1].rows.weight > 0), one, lambda xs: jnp.float32(0), xs
    )
    stages = jnp.arange(len(trains), dtype=jnp.int32)
    return jax.lax.map(some, (stages, state.kept))

  def observe(state: TrainState, val_row):
    cl = method.observe(state.cl, val_row, state.stage)
    return state._replace(cl=cl)

  def phase(f):
    def at(state: TrainState):
      cl, p = f(state.cl, state.params, state.stage, _key(state, _PHASE))
      return state._replace(cl=cl, params=p)

    return jit(at, donate_argnums=0)

  # Not donated: it may hand out the state's own arrays.
  at = jit(lambda s, stage: method.view(s.cl, s.params, stage))

  def view(state: TrainState, stage: int | None = None):
    return at(state, state.stage if stage is None else jnp.int32(stage))

  return Steps(
    init=init,
    shapes=shapes,
    start=jit(start, donate_argnums=0),
    update=jit(update, donate_argnums=0),
    remember=jit(remember, donate_argnums=0) if method.capacity else None,
    phases=tuple((x, phase(f)) for x, f in method.phases),
    end=jit(end, donate_argnums=0),
    observe=jit(observe, donate_argnums=0),
    view=view,
    keep=jit(keep, donate_argnums=0) if keeps else None,
    moved=jit(moved) if keeps else None,
  )


def weights(agent: Agent, key, layout: sharding.Layout) -> tuple[Any, Any]:
  """(trainable, frozen), read where the agent has files to read, in place."""
  made = agent.load(key, layout) if agent.load else agent.init(key)
  return sharding.place_by_rules(made, layout)


def phase_step(fraction: float, steps: int) -> int:
  """After which step of a stage a phase comes: even a short stage has one."""
  return max(1, int(fraction * steps))


def loud(steps: Steps) -> Steps:
  """`steps` whose ValueErrors are RuntimeErrors.

  `init` may refuse what it is given, as everything before it may. Afterwards a
  ValueError is a bug in a method or an agent, and must not pass for a mistake
  in the config.
  """

  def wrap(f):
    @functools.wraps(f)
    def call(*args, **kwargs):
      try:
        return f(*args, **kwargs)
      except ValueError as e:
        raise RuntimeError(f"a method or an agent failed in a step: {e}") from e

    return call

  return steps._replace(
    start=wrap(steps.start),
    update=wrap(steps.update),
    remember=steps.remember and wrap(steps.remember),
    phases=tuple((x, wrap(f)) for x, f in steps.phases),
    end=wrap(steps.end),
    observe=wrap(steps.observe),
    view=wrap(steps.view),
    keep=steps.keep and wrap(steps.keep),
    moved=steps.moved and wrap(steps.moved),
  )


def state_bytes(state: TrainState) -> dict[str, int]:
  """Bytes of each part; `state` may be abstract."""
  return {
    name: sum(
      int(np.prod(x.shape)) * x.dtype.itemsize
      for x in jax.tree.leaves(getattr(state, name))
    )
    for name in ("params", "opt", "cl", "buffer", "kept")
  }


def _nothing_kept(batch: Batch, stages: int, rows: int) -> Kept:
  zeros = lambda x: jnp.zeros((stages, rows, *x.shape[1:]), x.dtype)
  logp = jnp.zeros((stages, rows, *batch.mask.shape[1:]), jnp.float32)
  return Kept(jax.tree.map(zeros, batch), logp)


def _key(state: TrainState, use: int):
  return jax.random.fold_in(jax.random.fold_in(state.key, state.step), use)
