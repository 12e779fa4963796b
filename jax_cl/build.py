"""From names and numbers in a config to problem, method and optimiser.

A name is a module: `cl.name = "replay"` is `jax_cl/methods/replay.py`, whose
`make` takes the options. Options are checked against its signature before
anything is built, and an unknown name or option names the nearest one.
"""

from __future__ import annotations

import importlib
import inspect
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jax_cl import names, optim, sharding, update
from jax_cl.methods import base
from jax_cl.problems.base import Problem

# What `make` of a method may ask for by name; the run knows it, not the user.
CONTEXT = ("batch_size", "lr", "n_domains")
_SECTIONS = ("stream", "agent", "cl", "optim", "train", "eval")


def check(config: ConfigDict) -> None:
  """Refuses what is wrong whatever the problem is."""
  missing = [k for k in (*_SECTIONS, "seed", "problem") if k not in config]
  if missing:
    raise ValueError(f"the config has no {missing}; see configs/common.py")
  for key in ("train.batch_size", "train.save_interval", "train.devices",
              "log_interval", "eval.trials"):  # fmt: skip
    if (value := _at(config, key)) < 1:
      raise ValueError(f"config.{key} is {value}; it must be 1 or more")
  for key in ("eval.val_trials", "eval.interval", "seed"):
    if (value := _at(config, key)) < 0:
      raise ValueError(f"config.{key} is {value}; it must be 0 or more")
  if config.train.batch_size % config.train.devices:
    raise ValueError(
      f"batch {config.train.batch_size} is not a multiple of "
      f"{config.train.devices} devices"
    )
  domains = config.stream.get("domains", ())
  joined = ",".join([domains] if isinstance(domains, str) else domains)
  if isinstance(domains, str) or any("," in d for d in domains):
    names = tuple(d.strip() for d in joined.split(","))
    raise ValueError(
      f"stream.domains is one text, {joined!r}; write a tuple: "
      f'--config.stream.domains="{names!r}"'
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


def method(config: ConfigDict, n_domains: int) -> base.Method:
  """The method, or the chain of those joined by `+`."""
  context = {
    "batch_size": config.train.batch_size,
    "lr": config.optim.lr,
    "n_domains": n_domains,
  }
  parts = []
  for name in config.cl.name.split("+"):
    make = _module("methods", name).make
    options = config.cl.args.get(name, ConfigDict()).to_dict()
    parts.append(fill(make, options, context, f"cl.args.{name}"))
    if parts[-1].end is not base.Method().end and not parts[-1].rows:
      raise ValueError(
        f"method {name!r} has an `end` and asks for no rows: give "
        "Method(..., rows=n), how many of a stage's rows `end` reads"
      )
  return parts[0] if len(parts) == 1 else base.chain(*parts)


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
    replicated=sharding.data_parallel(config.train.devices).replicated,
  )


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
  """Every method's options with their defaults: config.cl.args."""
  out = ConfigDict()
  for name in known("methods"):
    parameters = inspect.signature(_module("methods", name).make).parameters
    out[name] = ConfigDict(
      {k: v.default for k, v in parameters.items() if k not in CONTEXT}
    )
  return out


def fill(
  make: Callable,
  options: Mapping[str, Any],
  context: Mapping[str, Any],
  where: str,
) -> Any:
  """`make(**options, **context)`; context is given where it is asked for."""
  parameters = inspect.signature(make).parameters
  allowed = [k for k in parameters if k not in context]
  for name in options:
    names.check(f"option of config.{where}", name, allowed)
  given = {k: v for k, v in context.items() if k in parameters}
  return make(**options, **given)


def _module(kind: str, name: str):
  names.check(kind.rstrip("s"), name, known(kind))
  return importlib.import_module(f"jax_cl.{kind}.{name}")


def _at(config: ConfigDict, key: str) -> Any:
  for part in key.split("."):
    config = config[part]
  return config
