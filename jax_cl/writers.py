"""Trackers by name: `make("tensorboard", workdir, config)`. All are optional.

The files a result is computed from (`metrics.jsonl`, `episodes.jsonl`) are
written by `train` whatever is chosen here; a tracker only mirrors the scalars.
"""

from __future__ import annotations

import hashlib
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jax_cl import names


class Writer(NamedTuple):
  log: Callable[[int, Mapping[str, Any]], None]  # (step, {name: scalar})
  close: Callable[[], None]


def make(
  name: str,
  workdir: str | pathlib.Path,
  config: Mapping[str, Any] | None = None,
  step: int = 0,
) -> Writer:
  """A tracker that writes below `workdir`; `step` is where a resume starts."""
  names.check("writer", name, WRITERS)
  return WRITERS[name](pathlib.Path(workdir), config or {}, step)


def tensorboard(workdir: pathlib.Path, config: Mapping, step: int) -> Writer:
  try:
    import tensorboardX
  except ImportError as e:
    raise ValueError(
      "writer 'tensorboard' needs the package tensorboardX: "
      "pip install 'jax_cl[trackers]'"
    ) from e
  # purge_step hides what an interrupted run logged past its checkpoint.
  events = tensorboardX.SummaryWriter(
    str(workdir / "tensorboard"), purge_step=step or None
  )

  def log(step: int, values: Mapping[str, Any]) -> None:
    for name, value in scalars(values).items():
      events.add_scalar(name, value, step)

  return Writer(log, events.close)


def wandb(workdir: pathlib.Path, config: Mapping, step: int) -> Writer:
  """W&B in its offline mode unless WANDB_MODE says otherwise.

  `wandb sync` uploads later; nothing here opens a connection by itself. A
  resumed run appends to the same id.
  """
  try:
    import wandb  # pyright: ignore[reportMissingImports]
  except ImportError as e:
    raise ValueError(
      "writer 'wandb' needs the package wandb: pip install 'jax_cl[trackers]'"
    ) from e
  import os

  workdir.mkdir(parents=True, exist_ok=True)
  run = wandb.init(
    project="jax_cl",
    name=workdir.name,
    id=hashlib.sha256(str(workdir.resolve()).encode()).hexdigest()[:16],
    dir=str(workdir),
    mode=os.environ.get("WANDB_MODE", "offline"),
    resume="allow",
    config=dict(config),
  )
  log = lambda step, values: run.log(scalars(values), step=step)
  return Writer(log, run.finish)


WRITERS = {"tensorboard": tensorboard, "wandb": wandb}


def scalars(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
  """Finite numbers of a nested dict under names joined by `/`."""
  out = {}
  for name, value in values.items():
    if isinstance(value, Mapping):
      out |= scalars(value, f"{prefix}{name}/")
    elif not isinstance(value, str) and value is not None:
      if getattr(value, "ndim", 0) == 0 and not isinstance(value, list | tuple):
        if math.isfinite(number := float(value)):
          out[f"{prefix}{name}"] = number
  return out
