"""The contract of a continual-learning method, and how methods combine.

A method never knows what it serves: `p` is any tree of trainable arrays, and
all it may ask of the learner is an `Objective`. Every function is pure, traced
once, and `stage` is a traced int32[], so one compile serves the whole stream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jax_cl import memory, tree
from jax_cl.types import Batch, Objective

PyTree = Any
NEEDS = frozenset({"memory", "outputs", "rollouts", "stage_at_test", "val"})


def task_grads(obj: Objective, cl, p, batch: Batch, mem, stage, key):
  """Gradient of the learner's loss on the new batch alone."""
  del cl, mem, stage
  (loss, aux), g = jax.value_and_grad(obj.loss, has_aux=True)(p, batch, key)
  return g, {"loss": loss, **aux, "task_grads": g}


def as_it_is(p, n_stages: int, key):
  """What is trained is the agent's own tree."""
  del n_stages, key
  return p


class Method(NamedTuple):
  """Functions of a method; the defaults make plain sequential training."""

  # (p, n_stages, key) -> p: the tree that is trained, where a method learns
  # more than the agent's own (adapters); `view` makes the agent's of it, and
  # every other function is given the larger one
  extend: Callable = as_it_is
  # (p, n_stages, key) -> cl: capacity n_stages, no tree ever grows
  init: Callable = lambda p, n_stages, key: ()
  # (cl, p, stage, key) -> (cl, p): fresh adapter, teacher, reset
  start: Callable = lambda cl, p, stage, key: (cl, p)
  # (cl, p, stage) -> p, the agent's structure: what acts, what the loss is of.
  # Where `needs` has "stage_at_test", `stage` may be any earlier one
  view: Callable = lambda cl, p, stage: p
  # (obj, cl, p, batch, mem, stage, key) -> (g, aux): aux holds scalars to
  # log, `task_grads`, the gradient without penalties (SI), and what `touch`
  # reads
  grads: Callable = task_grads
  # (cl, p, u, stage) -> u: after the optimiser
  update: Callable = lambda cl, p, u, stage: u
  # (cl, p_tm1, p_t, g, aux, stage) -> cl
  step: Callable = lambda cl, p_tm1, p_t, g, aux, stage: cl
  # ((fraction, (cl, p, stage, key) -> (cl, p)), ...): inside a stage
  phases: tuple = ()
  # (obj, cl, p, batches, stage, key) -> (cl, p): leaves of batches [n, B, ...]
  end: Callable = lambda obj, cl, p, batches, stage, key: (cl, p)
  # (cl, stage) -> f32[domains] | None: share of new rollouts a domain
  mix: Callable = lambda cl, stage: None
  # (obj, cl, p, batch, key) -> memory.Items | None: what is remembered
  store: Callable = lambda obj, cl, p, batch, key: None
  # (buffer, items, step, key) -> buffer: a ring, or `memory.reservoir`
  add: Callable = memory.add
  # (cl, buffer, stage, key) -> memory.Sample | None: leaves [k, b, ...]
  draw: Callable = lambda cl, buffer, stage, key: None
  # (buffer, mem, aux) -> buffer: priorities, counts; see `memory.touch`
  touch: Callable = lambda buffer, mem, aux: buffer
  # (cl, val_row f32[domains], stage) -> cl: after each evaluation on val, if
  # `needs` has "val" also within a stage; NaN where none was made
  observe: Callable = lambda cl, val_row, stage: cl
  # (cl, buffer) -> dict of arrays; leaves [domains] are shown a domain
  report: Callable = lambda cl, buffer: {}
  needs: frozenset = frozenset()  # a part of NEEDS
  rows: int = 0  # of the stage that `end` reads; with an `end` 1 or more
  capacity: int = 0  # rows remembered a domain; 0: no memory
  # which epoch of a stage's demonstrations `store` is given: the "first", the
  # "last" (outputs of a learner that knows them), or "none" (own episodes only)
  demos: str = "first"


def penalty(f: Callable, scalars: Callable | None = None) -> Callable:
  """`grads` of loss + f, with f(obj, cl, p, batch, stage, key) -> f32[].

  The two gradients are taken apart and added, so that the task's own stays
  available (`chain`), and a zero penalty changes no bit.
  """

  def grads(obj, cl, p, batch, mem, stage, key):
    g, aux = task_grads(obj, cl, p, batch, mem, stage, key)
    value, g_f = jax.value_and_grad(f, argnums=2)(obj, cl, p, batch, stage, key)
    return tree.axpy(1.0, g, g_f), {**aux, "penalty": value}

  grads.term = f
  return grads


def chain(*methods: Method) -> Method:
  """Several methods as one: penalties add, updates compose, one memory.

  At most one may bring gradients of its own that are no `penalty` (replay, a
  projection), at most one a memory, and at most one an `extend`, whose `view`
  comes last. Else `start`, `view`, `update` and `end` are applied in order:
  name last what keeps weights from moving (PackNet).
  """
  cores = [
    i for i, m in enumerate(methods)
    if m.grads is not task_grads and not hasattr(m.grads, "term")
  ]  # fmt: skip
  memories = [i for i, m in enumerate(methods) if m.capacity]
  if len(cores) > 1 or len(memories) > 1:
    raise ValueError(
      "a chain takes one method with a memory or gradients of its own, got "
      f"{max(len(cores), len(memories))}; penalties may be many"
    )
  larger = [i for i, m in enumerate(methods) if m.extend is not as_it_is]
  if len(larger) > 1:
    raise ValueError(
      f"a chain takes one method with weights of its own, got {len(larger)}: "
      "leave out all but one of lora, olora, progressive"
    )
  core = (cores or memories or [0])[0]
  if memories and memories[0] != core:
    raise ValueError("one method must bring both the memory and the gradients")
  terms = [
    (i, m.grads.term) for i, m in enumerate(methods) if hasattr(m.grads, "term")
  ]
  owner = methods[core]
  own_grads = owner.grads if core in cores else task_grads

  def init(p, n_stages, key):
    keys = jax.random.split(key, len(methods))
    return tuple(m.init(p, n_stages, k) for m, k in zip(methods, keys))

  def grads(obj, cl, p, batch, mem, stage, key):
    g, aux = own_grads(obj, cl[core], p, batch, mem, stage, key)
    for i, f in terms:
      value, g_f = jax.value_and_grad(f, argnums=2)(
        obj, cl[i], p, batch, stage, jax.random.fold_in(key, i)
      )
      g = tree.axpy(1.0, g, g_f)
      aux = {**aux, "penalty": value + aux.get("penalty", 0.0)}
    return g, aux

  def fold(run):  # for functions (cl, p) -> (cl, p) of each method in turn
    def all_(cl, p, key):
      out = []
      for i, m in enumerate(methods):
        c, p = run(m, cl[i], p, jax.random.fold_in(key, i))
        out.append(c)
      return tuple(out), p

    return all_

  def start(cl, p, stage, key):
    return fold(lambda m, c, p, k: m.start(c, p, stage, k))(cl, p, key)

  def end(obj, cl, p, batches, stage, key):
    run = lambda m, c, p, k: m.end(obj, c, p, batches, stage, k)
    return fold(run)(cl, p, key)

  def phase(i, f):
    def at(cl, p, stage, key):
      c, p = f(cl[i], p, stage, key)
      return (*cl[:i], c, *cl[i + 1 :]), p

    return at

  def view(cl, p, stage):
    for i in sorted(range(len(methods)), key=lambda i: i in larger):
      p = methods[i].view(cl[i], p, stage)
    return p

  def update(cl, p, u, stage):
    for c, m in zip(cl, methods):
      u = m.update(c, p, u, stage)
    return u

  def mix(cl, stage):
    shares = (m.mix(c, stage) for c, m in zip(cl, methods))
    return next((s for s in shares if s is not None), None)

  def report(cl, buffer):
    parts = [m.report(c, buffer) for c, m in zip(cl, methods)]
    return {k: v for part in parts for k, v in part.items()}

  each = lambda run: (
    lambda cl, *a: tuple(run(m)(c, *a) for c, m in zip(cl, methods))
  )
  return Method(
    extend=methods[larger[0]].extend if larger else as_it_is,
    init=init,
    start=start,
    view=view,
    grads=grads,
    update=update,
    step=each(lambda m: m.step),
    phases=tuple(
      sorted(
        ((x, phase(i, f)) for i, m in enumerate(methods) for x, f in m.phases),
        key=lambda pair: pair[0],
      )
    ),
    end=end,
    mix=mix,
    store=lambda obj, cl, p, b, key: owner.store(obj, cl[core], p, b, key),
    draw=lambda cl, buffer, stage, k: owner.draw(cl[core], buffer, stage, k),
    add=owner.add,
    touch=owner.touch,
    observe=each(lambda m: m.observe),
    report=report,
    needs=frozenset().union(*(m.needs for m in methods)),
    rows=max(m.rows for m in methods),
    capacity=owner.capacity,
    demos=owner.demos,
  )
