"""Our methods against Avalanche's, weight by weight.

  python -m jax_cl.bench parity --fixture=FILE.npz --out=FILE.json

A fixture holds a run of Avalanche 0.6.0 on permuted digits in which nothing is
random: batches are rows 0-31, 32-63, ... of the train split, epoch by epoch.
Its keys: `perms` int[tasks, 64]; `init/0..` the starting weights (W [out, in],
b, W, ...); under each method's name the final weights and `R` [tasks, tasks],
test accuracy. Where it holds `epochs`, `batch_size` or `lr`, these are used.

The same rows go through `update.make` and the methods' contract; `_avalanche`
holds what Avalanche estimates otherwise.

A ReLU unit that rounding takes to the other side of 0 parts two runs of one
code by 1e-3 to 1e-1: f32 and f64 part so on the fixture of seed 0, in naive
training too. The weights are thus a function of the last bits, and of those no
two libraries agree. So a method is run under up to four roundings of the same
mathematics (`ROUNDINGS`), until one ends within 1e-5 of Avalanche's weights;
`max_abs_diff` is the least difference, `tried` has them all. Another formula
is not brought within 1e-5 by rounding.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_cl import names, update
from jax_cl.agents import mlp
from jax_cl.bench import _avalanche
from jax_cl.methods.base import Method
from jax_cl.problems import base as problems
from jax_cl.problems import supervised
from jax_cl.tasks import digits
from jax_cl.types import Agent, Batch, TrainState

FIXTURE = "tests/data/avalanche_perm_digits_seed0.npz"


CLOSE = 1e-5


class Rounding(NamedTuple):
  """Two places where equal mathematics may differ in the last bit."""

  fused: bool  # theta - lr g is rounded once, not twice
  padded: bool  # zeros fill the last batch: sums over rows are split elsewhere


ROUNDINGS = tuple(Rounding(f, p) for p in (False, True) for f in (False, True))


class Stream(NamedTuple):
  """What a fixture says of its run."""

  train: list[Batch]  # all rows of a task, in order
  test: list[digits.Split]
  agent: Agent
  params: Any
  epochs: int
  batch_size: int
  lr: float


def run(
  fixture: str = FIXTURE,
  methods: Sequence[str] = (),
  epochs: int | None = None,
  batch_size: int | None = None,
  lr: float | None = None,
) -> Iterator[dict[str, Any]]:
  """Rows {method, max_abs_diff, max_abs_diff_R, tried}; default: all held."""
  known = _avalanche.methods()
  if not pathlib.Path(fixture).is_file():
    raise ValueError(f"there is no fixture {fixture}: give --fixture=FILE.npz")
  with np.load(fixture) as file:
    there = dict(file)
  held = [m for m in known if f"{m}/0" in there]
  if not held or not {"perms", "init/0"} <= there.keys():
    raise ValueError(f"{fixture} holds no run of Avalanche: {sorted(there)}")
  methods = [methods] if isinstance(methods, str) else list(methods)
  for name in methods:
    names.check("method", name, held)
  asked = {"epochs": epochs, "batch_size": batch_size, "lr": lr}
  stream = _stream(there, {k: v for k, v in asked.items() if v is not None})
  for name in methods or held:
    yield _row(stream, known[name], name, there)


def _row(stream: Stream, method: Method, name: str, there) -> dict[str, Any]:
  theirs, tried, gaps_R = _params(there, name), [], []
  for rounding in ROUNDINGS:
    p, R = train(stream, method, rounding)
    gap = jax.tree.map(lambda a, b: np.abs(a - b).max(), p, theirs)
    tried.append(float(max(jax.tree.leaves(gap))))
    gaps_R.append(float(np.abs(R - there.get(f"{name}/R", np.nan)).max()))
    if tried[-1] <= CLOSE:
      break
  best = int(np.argmin(tried))
  return {
    "method": name,
    "max_abs_diff": tried[best],
    "max_abs_diff_R": gaps_R[best],
    "tried": tried,
  }


def train(
  stream: Stream, method: Method, rounding: Rounding
) -> tuple[Any, np.ndarray]:
  """(final weights, R [tasks, tasks]): one method over the whole stream."""
  n, cut = len(stream.train), _padded if rounding.padded else _short
  sgd = _avalanche.fused_sgd if rounding.fused else optax.sgd
  steps = update.make(
    stream.agent,
    method,
    sgd(stream.lr),
    np.eye(n, dtype=bool),
    cut(stream.train[0], stream.batch_size)[0],
  )
  state, frozen = steps.init(jax.random.key(0))
  state = state._replace(params=jax.tree.map(jnp.array, stream.params))
  R = []
  for k, rows in enumerate(stream.train):
    batches = cut(rows, stream.batch_size)
    state = steps.start(state, k)
    for i in range(stream.epochs * len(batches)):
      state, _ = steps.update(state, frozen, batches[i % len(batches)])
    if method.rows:
      obj = stream.agent.objective(frozen)
      cl, p = method.end(
        obj, state.cl, state.params, batches, state.stage, state.key
      )
      # Copied, so that no two leaves share memory: the state is donated.
      state = jax.tree.map(jnp.copy, state._replace(cl=cl, params=p))
    R.append(_accuracy(stream, state))
  return jax.device_get(state.params), np.array(R)


def _short(rows: Batch, size: int) -> list[Batch]:
  """All batches in order, the last one as short as it is."""
  cut = lambda i: jax.tree.map(lambda x: x[i : i + size], rows)
  return [cut(i) for i in range(0, len(rows.weight), size)]


def _padded(rows: Batch, size: int) -> list[Batch]:
  """The same, filled up with rows of weight 0, as in a run of ours."""
  count = problems.per_epoch(rows, size)
  cut = lambda i: problems.minibatch(rows, size, i, 0, shuffle=False)
  return [cut(i) for i in range(count)]


def _accuracy(stream: Stream, state: TrainState) -> list[float]:
  act = lambda x: stream.agent.act(
    state.params, (), {"x": x}, jax.random.key(0), True
  )[0]
  return [float(np.mean(np.asarray(act(s.x)) == s.y)) for s in stream.test]


def _stream(there: Mapping[str, np.ndarray], asked: Mapping) -> Stream:
  params = _params(there, "init")
  widths = [layer["kernel"].shape[0] for layer in params.values()]
  last = params[f"layer{len(params) - 1}"]["kernel"].shape[1]
  base = digits.digits()
  tasks = [
    {k: digits.Split(s.x[:, order], s.y) for k, s in base.items()}
    for order in there["perms"]
  ]
  plan = {"epochs": 10, "batch_size": 32, "lr": 0.1}
  plan |= {k: there[k].item() for k in plan if k in there}
  return Stream(
    train=[supervised.rows(t["train"], i) for i, t in enumerate(tasks)],
    test=[t["test"] for t in tasks],
    agent=mlp.make(features=widths[0], classes=last, hidden=widths[1:]),
    params=params,
    **{**plan, **asked},
  )


def _params(there: Mapping[str, np.ndarray], name: str) -> dict[str, Any]:
  """torch's [out, in] weights and biases as the MLP's tree."""
  n = sum(k.startswith(f"{name}/") and k[-1].isdigit() for k in there)
  return {
    f"layer{i}": {
      "kernel": there[f"{name}/{2 * i}"].T,
      "bias": there[f"{name}/{2 * i + 1}"],
    }
    for i in range(n // 2)
  }
