"""What a method costs: time of an update over that of `sequential`.

Two learners, sizes as in the runs, contents at random:

  scorer        256 decisions, the scorer of airline + retail + telecom
  smollm2_lora  8 rows of 8 tokens, SmolLM2-135M with adapters of rank 8

The update is that of stage 1 of 3, the memory filled in stage 0, by Adam. The
batch is the same for all, and `replay` takes its rows out of it (`within`);
`replay_appended` adds them, as it does by default, beside the rule of thumb
that an update costs as much more as the batch grows. Other methods run at
their defaults, those of the replay family with rows appended. With adapters
`online_ewc` keeps a Fisher information of products by the sums of its rows and
columns; `online_ewc_full` reads the whole, as large as the matrices that they
change, at every update, however few its tokens are; `online_ewc_factors` is the
third form.

Blocks of updates of the method and of `sequential` take turns, and the median
ratio of neighbours is given: a machine that is busy with something else slows
both.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from jax_cl import build, names, update
from jax_cl.agents import llm, scorer
from jax_cl.methods import base
from jax_cl.policies import llama, lora
from jax_cl.types import Agent, Batch

STAGES = 3
# name of a row -> (method, options, rule of thumb)
VARIANTS: dict[str, tuple[str, dict[str, Any], float | None]] = {
  "replay": ("replay", {"mode": "within"}, None),
  "replay_appended": ("replay", {"ratio": 0.2}, 1.2),
  "replay_appended_half": ("replay", {"ratio": 0.5}, 1.5),
  "online_ewc_full": ("online_ewc", {"lora": "product_full"}, None),
  "online_ewc_factors": ("online_ewc", {"lora": "factors"}, None),
}


class Shape(NamedTuple):
  agent: Agent
  batch: Callable[[np.random.Generator, int], Batch]  # (rng, domain)
  size: int
  updates: int  # in a block


def run(
  methods: Sequence[str] | str = (),
  shapes: Sequence[str] | str = ("scorer", "smollm2_lora"),
  blocks: int = 7,
) -> Iterator[dict[str, Any]]:
  """Rows {method, shape, ratio, low, high, seconds, state_bytes}.

  `low` and `high` are the quartiles of the ratios, `seconds` the shortest mean
  time of an update in a block; `rule_of_thumb` is there for appended rows.
  """
  known = [*build.known("methods"), *(v for v in VARIANTS if v != "replay")]
  chosen = names.several("method", methods or known, known)
  for name in names.several("shape", shapes, SHAPES):
    shape = SHAPES[name]()
    plain = _Loop(shape, "sequential", {})
    for row in chosen:
      method, options, thumb = VARIANTS.get(row, (row, {}, None))
      loop = _Loop(shape, method, options)
      times = [(plain.seconds(), loop.seconds()) for _ in range(blocks)]
      ratios = sorted(b / a for a, b in times)
      yield {
        "method": row,
        "shape": name,
        "ratio": statistics.median(ratios),
        "low": ratios[len(ratios) // 4],
        "high": ratios[-1 - len(ratios) // 4],
        "seconds": min(b for _, b in times),
        "state_bytes": loop.state_bytes,
        **({"rule_of_thumb": thumb} if thumb else {}),
      }


class _Loop:
  """A method in stage 1, ready to be timed."""

  def __init__(self, shape: Shape, name: str, options: Mapping[str, Any]):
    method = _method(name, options, shape.size)
    rng = np.random.default_rng(0)
    old, new = shape.batch(rng, 0), shape.batch(rng, 1)
    self.steps = update.make(
      shape.agent, method, optax.adam(1e-3), np.eye(STAGES, dtype=bool), new
    )
    state, self.frozen = self.steps.init(jax.random.key(0))
    state = self.steps.start(state, 0)
    state, _ = self.steps.update(state, self.frozen, old)
    if self.steps.remember:
      state = self.steps.remember(state, self.frozen, old)
    if method.rows:
      one = jax.tree.map(lambda x: x[None], old)
      state = self.steps.end(state, self.frozen, one)
    self.state = self.steps.start(state, 1)
    self.batch, self.updates = new, shape.updates
    sizes = update.state_bytes(self.state)
    self.state_bytes = sizes["cl"] + sizes["buffer"]
    self.seconds()  # warm

  def seconds(self) -> float:
    """Mean time of an update in one block."""
    start = time.perf_counter()
    for _ in range(self.updates):
      self.state, _ = self.steps.update(self.state, self.frozen, self.batch)
    jax.block_until_ready(self.state)
    return (time.perf_counter() - start) / self.updates


def _method(name: str, options: Mapping[str, Any], size: int) -> base.Method:
  config = ConfigDict(
    {
      "cl": {"name": name, "args": build.method_options()},
      "train": {"batch_size": size},
      "optim": {"lr": 1e-3},
      "stream": {},
      "eval": {"val_trials": 1},
    }
  )
  config.cl.args[name].update(options)
  return build.method(config, STAGES, np.eye(STAGES, dtype=bool))


# ---------------------------------------------------------------- the learners


def _scorer(
  size=256, phi=3640, acts=83, slots=88, types=37, width=112, vector=512
) -> Shape:
  """Sizes of the quickstart's scorer with all tools in one action space."""
  spec = {
    "phi": ((phi,), np.float16),
    "cand": ((acts, width), np.float16),
    "mask": ((acts,), np.bool_),
    "slot": ((), np.int32),
  }
  agent = scorer.make(
    obs_spec=spec,
    act_vectors=np.zeros((acts, vector), np.float32),
    slot_vectors=np.zeros((slots, vector), np.float32),
    slot_types=[i % types for i in range(slots)],
  )

  def batch(rng, domain):
    obs = {
      "phi": rng.normal(size=(size, phi)).astype(np.float16),
      "cand": rng.normal(size=(size, acts, width)).astype(np.float16),
      "mask": np.ones((size, acts), bool),
      "slot": rng.integers(-1, slots, size).astype(np.int32),
    }
    return _rows(obs, rng.integers(0, acts, (size, 1)), domain)

  return Shape(agent, batch, size, updates=5)


def _llm_lora(variant="smollm2-135m", size=8, length=8, rank=8) -> Shape:
  model = llama.make(variant, lora_rank=rank)
  agent = llm.make(model=model, length=length, trains=lora.LEAVES)

  def batch(rng, domain):
    tokens = rng.integers(0, model.config.vocab, (size, length + 1))
    places = np.broadcast_to(np.arange(length), (size, length))
    obs = {
      "tokens": tokens[:, :-1],
      "positions": places,
      "segments": np.ones_like(places),
    }
    obs = {k: v.astype(np.int32) for k, v in obs.items()}
    return _rows(obs, tokens[:, 1:], domain)

  return Shape(agent, batch, size, updates=1)


def _rows(obs, action, domain) -> Batch:
  size = len(action)
  ones = np.ones(size, np.float32)
  rows = Batch(
    obs=obs,
    action=action.astype(np.int32),
    mask=np.ones(action.shape, np.float32),
    logp_old=np.full(action.shape, -1, np.float32),
    adv=ones,
    weight=ones,
    domain=np.full(size, domain, np.int32),
    task=np.arange(size, dtype=np.int32),
    reward=ones,
  )
  return jax.tree.map(jnp.asarray, rows)


SHAPES: dict[str, Callable[[], Shape]] = {
  "scorer": functools.cache(_scorer),
  "smollm2_lora": functools.cache(_llm_lora),
}
