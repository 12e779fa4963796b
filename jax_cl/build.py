"""From names and numbers in a config to problem, method and optimiser.

A name is a module: `cl.name = "replay"` is `jax_cl/methods/replay.py`, whose
`make` takes the options. Options are checked against its signature before
anything is built, and an unknown name or option names the nearest one.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from jax_cl import logs, names, optim, sharding, update, writers
from jax_cl.methods import base
from jax_cl.problems.base import Problem
from jax_cl.types import Agent

# What `make` of a method may ask for by name; the run knows it, not the user.
CONTEXT = ("batch_size", "lr", "n_domains", "trains", "prompts")
_SECTIONS = ("stream", "agent", "cl", "optim", "train", "eval")


def check(config: ConfigDict) -> None:
  """Refuses what is wrong whatever the problem is, before anything is built."""
  missing = [k for k in (*_SECTIONS, "seed", "problem") if k not in config]
  if missing:
    raise ValueError(f"the config has no {missing}; see configs/common.py")
  for key in (
    "train.batch_size", "train.save_interval", "log_interval", "eval.trials",
  ):  # fmt: skip
    if (value := _at(config, key)) < 1:
      raise ValueError(f"config.{key} is {value}; it must be 1 or more")
  for key in ("eval.val_trials", "eval.interval", "seed", "train.devices"):
    if (value := _at(config, key)) < 0:
      raise ValueError(f"config.{key} is {value}; it must be 0 or more")
  if config.problem == "tau2" and not sharding.alone():
    raise ValueError(
      "config.problem is 'tau2', whose agents act on one host: leave out "
      "--coordinator, or train the LLM itself (tau2_llm)"
    )
  kept, size = config.eval.get("kl_rows", 0), config.train.batch_size
  if not 0 <= kept <= size:
    raise ValueError(
      f"config.eval.kl_rows is {kept}; it must be 0 or more, and at most "
      f"config.train.batch_size ({size})"
    )
  where = layout(config).rows
  parts = where.mesh.size // where.mesh.shape["tensor"] if where else 1
  _check_devices(config.train.batch_size, parts)
  _check_domains(config.stream.get("domains", ()))
  for writer in config.writers:
    names.check("writer", writer, writers.WRITERS)
  for phase in config.get("record", ()):
    names.check("phase of config.record", phase, logs.PHASES)
  context: dict[str, Any] = dict.fromkeys(CONTEXT)
  for name in config.cl.name.split("+"):
    make = _module("methods", name).make
    arguments(make, _options(config, name), context, f"cl.args.{name}")
  options = {k: v for k, v in config.optim.to_dict().items() if k != "reset"}
  fill(optim.make, options, {}, "optim")


def layout(config: ConfigDict) -> sharding.Layout:
  """Where state and rows live; refuses devices that are not there."""
  train = config.train
  return sharding.layout(
    train.devices, train.get("fsdp", 1), train.get("tensor", 1)
  )


def _check_devices(batch_size: int, rows: int) -> None:
  if rest := batch_size % rows:
    near = [b for b in (batch_size - rest, batch_size - rest + rows) if b]
    raise ValueError(
      f"batch {batch_size} is not a multiple of {rows} devices: set "
      f"config.train.batch_size to {' or '.join(map(str, near))}, or "
      "config.train.devices to a divisor of the batch"
    )


def _check_domains(domains: Sequence[str] | str) -> None:
  joined = ",".join([domains] if isinstance(domains, str) else domains)
  if isinstance(domains, str) or any("," in d for d in domains):
    split = tuple(d.strip() for d in joined.split(","))
    raise ValueError(
      f"stream.domains is one text, {joined!r}; write a tuple: "
      f'--config.stream.domains="{split!r}"'
    )


def problem(config: ConfigDict) -> Problem:
  make = _module("problems", config.problem).make
  return fill(
    make,
    config.stream.to_dict(),
    {
      "seed": config.seed,
      "batch_size": config.train.batch_size,
      "agent": config.agent.to_dict(),
    },
    "stream",
  )


def method(
  config: ConfigDict, n_domains: int, trains: np.ndarray | None = None
) -> base.Method:
  """The method, or the chain of those joined by `+`.

  `trains` (see below) is asked for by methods that roll old tasks out again.
  """
  context = {
    "batch_size": config.train.batch_size,
    "lr": config.optim.lr,
    "n_domains": n_domains,
    "trains": trains,
    "prompts": config.stream.get("tasks_per_step", 0),
  }
  parts = []
  for name in config.cl.name.split("+"):
    make = _module("methods", name).make
    options = _options(config, name)
    parts.append(fill(make, options, context, f"cl.args.{name}"))
    if parts[-1].end is not base.Method().end and not parts[-1].rows:
      raise ValueError(
        f"method {name!r} has an `end` and asks for no rows: give "
        "Method(..., rows=n), how many of a stage's rows `end` reads"
      )
    if "val" in parts[-1].needs and not config.eval.val_trials:
      raise ValueError(
        f"method {name!r} follows the scores on val: set "
        "config.eval.val_trials to 1 or more"
      )
  return parts[0] if len(parts) == 1 else base.chain(*parts)


def shared(
  config: ConfigDict, what: Problem, known: dict[Any, Any]
) -> tuple[base.Method, update.Steps]:
  """The run's method and compiled functions, or those of an equal run.

  `known` holds the last ones. Runs are equal where their configs differ by
  name and seed alone and their agents are one (`supervised` sees to it), so
  the seeds of a comparison compile once.
  """
  plain = json.loads(config.to_json())
  asked = {k: v for k, v in plain.items() if k not in ("name", "seed")}
  agent = what.agent  # kept in `known`, so that no other takes its ids
  key = (json.dumps(asked, sort_keys=True), *map(id, agent))
  if key not in known:
    known.clear()
    how = method(config, len(what.domains), trains(what))
    known[key] = agent, how, steps(config, what, how)
  return known[key][1:]


def steps(config: ConfigDict, what: Problem, how: base.Method) -> update.Steps:
  """The run's compiled functions; nothing compiles before they are called."""
  options = config.optim.to_dict()
  reset = options.pop("reset")
  scheduled = options["schedule"] != "constant" or options["warmup"]
  if not reset and (scheduled or options["pg_lr"]):
    raise ValueError(
      "optim.reset=False keeps the optimiser's count over stages, so a "
      "schedule, warmup or pg_lr would not start again: leave them out"
    )
  longest = max(what.stages, key=lambda s: s.steps)
  options |= {"steps": longest.steps, "clone_steps": longest.clone_steps}
  return update.make(
    what.agent,
    how,
    fill(optim.make, options, {}, "optim"),
    trains(what),
    empty_batch(what, config.train.batch_size),
    reset_optimiser=reset,
    layout=layout(config),
    keeps=config.eval.get("kl_rows", 0),
  )


def check_needs(what: Problem, how: base.Method) -> None:
  """Refuses, before anything compiles, what this run cannot give a method."""
  if odd := sorted(how.needs - base.NEEDS):
    raise ValueError(
      f"a method's needs hold {odd}; known: {sorted(base.NEEDS)}"
    )
  if "rollouts" in how.needs and not any(
    s.steps > s.clone_steps for s in what.stages
  ):
    raise ValueError(
      "the method learns from new rollouts, and no stage of this stream has "
      "any: set config.stream.pg_steps to 1 or more, or take a method that "
      "keeps rows (replay with kind 'replay_bc')"
    )
  if "outputs" in how.needs and not _has_outputs(what.agent):
    raise ValueError(
      "the method compares the learner's outputs, and this agent's objective "
      "has no `out`: give it one (types.Objective), or take a method without"
    )


def _has_outputs(agent: Agent) -> bool:
  found = []

  def look(key):
    _, frozen = agent.init(key)
    found.append(agent.objective(frozen).out is not None)
    return key

  jax.eval_shape(look, jax.random.key(0))
  return found[0]


def describe(name: str, how: base.Method, made: update.Steps) -> str:
  """A line on what a method needs and how large the state will be."""
  sizes = update.state_bytes(made.shapes()[0])
  parts = ", ".join(f"{k} {v / 1e6:.2f} MB" for k, v in sizes.items() if v)
  needs = ", ".join(sorted(how.needs)) or "nothing"
  line = f"{name} needs {needs}; state: {parts}"
  if "stage_at_test" in how.needs:
    line += "\nTold the stage at test time: not ranked with those that are not"
  return line


def trains(what: Problem) -> np.ndarray:
  """bool[n_stages, domains]: what each stage trains on."""
  return np.array(
    [[d in stage.domains for d in what.domains] for stage in what.stages]
  )


def empty_batch(what: Problem, size: int):
  """Shapes and dtypes of the run's batches; no demonstration is read."""
  rows = what.batch([], seed=0)
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), rows
  )


# ----------------------------------------------------------- names and options


def known(kind: str) -> list[str]:
  """Names in a folder of the package: its files, helpers left out."""
  folder = pathlib.Path(__file__).parent / kind
  stems = (p.stem for p in folder.glob("*.py"))
  return sorted(n for n in stems if not n.startswith("_") and n != "base")


def method_options() -> ConfigDict:
  """Every method's options with their defaults: config.cl.args.

  One without a default is None, to be given on the command line.
  """
  out = ConfigDict()
  for name in known("methods"):
    parameters = inspect.signature(_module("methods", name).make).parameters
    out[name] = ConfigDict(
      {
        k: placeholder(object) if v.default is v.empty else v.default
        for k, v in parameters.items()
        if k not in CONTEXT
      }
    )
  return out


def _options(config: ConfigDict, name: str) -> dict[str, Any]:
  return config.cl.args.get(name, ConfigDict()).to_dict()


def fill(
  make: Callable,
  options: Mapping[str, Any],
  context: Mapping[str, Any],
  where: str,
) -> Any:
  """`make(**options, **context)`; context is given where it is asked for."""
  return make(**arguments(make, options, context, where))


def arguments(
  make: Callable,
  options: Mapping[str, Any],
  context: Mapping[str, Any],
  where: str,
) -> dict[str, Any]:
  """What `fill` calls `make` with; refuses unknown and missing names."""
  parameters = inspect.signature(make).parameters
  allowed = [k for k in parameters if k not in context]
  for name in options:
    names.check(f"option of config.{where}", name, allowed)
  missing = [
    f"config.{where}.{k}"
    for k in allowed
    if parameters[k].default is inspect.Parameter.empty
    and options.get(k) is None
  ]
  if missing:
    raise ValueError(f"{', '.join(missing)} must be given: --{missing[0]}=...")
  return {**options, **{k: v for k, v in context.items() if k in parameters}}


def _module(kind: str, name: str):
  names.check(kind.rstrip("s"), name, known(kind))
  return importlib.import_module(f"jax_cl.{kind}.{name}")


def _at(config: ConfigDict, key: str) -> Any:
  for part in key.split("."):
    config = config[part]
  return config
