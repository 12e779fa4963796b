"""Experience replay: what earlier domains taught joins every batch.

For n new items int(n * ratio) old ones are drawn, shared evenly among earlier
domains, and the loss is the weighted mean over all of them. `kind` says what an
item is:
* `replay_bc`: a stored row, cloned. Only successes (reward > .5) are stored.
* `replay_pg`: a stored row with its advantage times the truncated importance
  ratio min(pi / mu, clip). All rows are stored. The ratio of a forgotten action
  goes to 0, and its gradient with it: prefer `replay_bc` against forgetting.
* `replay_opr`: `replay_bc` of the learner's own successes alone, demonstrations
  left out; they are what it would say itself.
* `replay_env`: a task, rolled out again by the policy of now. Nothing is
  stored; its rollouts are charged. Cloning steps replay nothing.

`strategy` says which stored rows (`memory`): random, high_reward, recent,
balanced, importance, surprise, or reservoir (a uniform sample of all that was
ever seen, where the others keep the latest).

Robins 1995; Rolnick et al. 2019, https://arxiv.org/abs/1811.11682 (its losses
on old data are the first two kinds); Vitter 1985 (reservoir).

Deviations: n counts rows (decisions; tasks for `replay_env`), not episodes, and
padding rows count. `mode="within"` keeps n: old items take the places of random
new ones, which are lost; for `replay_env` "appended" adds rollouts, of whose
rows a batch takes as many as ever. `replay_all_domains=False` draws from the
previous stage's domains alone. Until `min_buffer_size` rows of earlier domains
are held nothing is drawn, so stage 0 is that of `sequential`.

The memory is `capacity` rows a domain, from its first stage to the last.
`total` bounds all earlier domains together instead: n of them may use total / n
rows each, so that a domain's part shrinks as stages go by (the
experience-balanced buffer of Avalanche and others). `capacity` must hold the
largest part, `total` itself.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jax_cl import memory, names
from jax_cl.methods import _replay
from jax_cl.methods._replay import append, cloned, corrected, within
from jax_cl.methods.base import Method, task_grads
from jax_cl.types import Batch, Objective

OFF = {"ratio": 0.0}
KINDS = ("replay_bc", "replay_pg", "replay_opr", "replay_env")
MODES = {"appended": append, "within": within}


def make(
  *,
  batch_size: int,
  prompts: int = 0,
  trains: np.ndarray | None = None,
  ratio: float = 0.2,
  strategy: str = "random",
  kind: str = "replay_bc",
  mode: str = "appended",
  min_buffer_size: int = 20,
  replay_all_domains: bool = True,
  capacity: int = 1000,
  total: int = 0,
  clip: float = 2.0,
) -> Method:
  """`capacity` is rows a domain, `total` (0: no bound) rows of all earlier
  domains together; the first three are the run's."""
  choose = memory.strategy(strategy)
  names.check("kind of replay", kind, KINDS)
  names.check("mode of replay", mode, MODES)
  if kind == "replay_env":
    return _again(prompts, trains, ratio, mode, not replay_all_domains)
  if not 0 <= total <= capacity:
    raise ValueError(
      f"replay total is {total}, and a domain holds capacity {capacity} rows: "
      "set capacity to total, or total to 0 (no bound)"
    )
  b = _replay.count("replay ratio", batch_size, ratio)
  if b == 0:
    return Method()
  learned = kind != "replay_pg"
  store = _replay.successes if learned else _replay.everything
  prioritised = strategy in memory.PRIORITISED

  def draw(cl, buffer, stage, key):
    domains = memory.earlier(buffer, stage, last_only=not replay_all_domains)
    if total:
      n = jnp.sum(memory.earlier(buffer, stage))
      buffer = memory.at_most(buffer, total // jnp.maximum(n, 1))
    return memory.sample(buffer, key, b, choose, domains, min_buffer_size)

  def grads(obj: Objective, cl, p, batch: Batch, mem, stage, key):
    old = _replay.rows(mem)
    old = cloned(old) if learned else corrected(obj, p, old, clip)
    joined = MODES[mode](batch, old, jax.random.fold_in(key, 1))
    g, aux = task_grads(obj, cl, p, joined, mem, stage, key)
    if prioritised:
      aux["priority"] = _replay.surprisal(obj, p, old)[None]
    return g, {**aux, "replay_ratio": jnp.sum(old.weight > 0) / batch_size}

  own = kind == "replay_opr"
  return _replay.remembering(
    grads=grads,
    store=_replay.with_loss(store) if prioritised else store,
    add=memory.insertion(strategy),
    draw=draw,
    needs=frozenset({"memory"} | ({"rollouts"} if own else set())),
    capacity=capacity,
    demos="none" if own else "first",
  )


def _again(prompts, trains, ratio, mode, last_only) -> Method:
  """`replay_env`: old tasks among those that are rolled out."""
  if trains is None or not prompts:
    raise ValueError(
      "replay_env rolls old tasks out again, and this stream rolls none out "
      "(stream.tasks_per_step): choose kind replay_bc or replay_pg"
    )
  if not _replay.count("replay_env's ratio", prompts, ratio):
    return Method()

  def mix(cl, stage):
    return _replay.shares(trains, stage, ratio, mode, last_only)

  return Method(mix=mix, needs=frozenset({"rollouts"}))
