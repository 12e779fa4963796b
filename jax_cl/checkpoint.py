"""Checkpoints: the state's arrays and the host's place in the stream.

`checkpoints/stage002-step000040` is the moment in stage 2 after its step 40;
`stage003-step000000` the one after stage 2 was evaluated, kept for good, and
`stage000-step000000` the starting policy. Inside a stage only the newest stays.

Orbax writes into a folder of another name and renames it when all is on disk,
so a kill during a save leaves the checkpoint before it in force.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from jax_cl import sharding
from jax_cl.types import TrainState

REMEDY = (
  "delete it and any later one, and the run's command makes them again from "
  "the one before"
)
_NAME = re.compile(r"stage(\d{3,})-step(\d{6,})")


def path_of(workdir: str | os.PathLike, stage: int, step: int) -> pathlib.Path:
  name = f"stage{stage:03d}-step{step:06d}"
  return pathlib.Path(workdir).absolute() / "checkpoints" / name


def places(workdir: str | os.PathLike) -> list[tuple[int, int]]:
  """(stage, step) of every complete checkpoint, oldest first."""
  folder = pathlib.Path(workdir).absolute() / "checkpoints"
  found = [_NAME.fullmatch(p.name) for p in _listing(folder)]
  return sorted((int(m[1]), int(m[2])) for m in found if m)


def save(
  workdir: str | os.PathLike,
  stage: int,
  step: int,
  state: TrainState,
  host: dict[str, Any],
) -> None:
  """Writes one checkpoint, then drops those inside a stage that it replaces."""
  path = path_of(workdir, stage, step)
  if path.exists():  # saved before a resume: the same state, bit for bit
    return
  with _context():
    ocp.save_checkpointables(str(path), {"state": _parts(state), "host": host})
  for old in places(workdir) if sharding.first() else ():
    if old < (stage, step) and old[1] > 0:
      shutil.rmtree(path_of(workdir, *old))


def clean(workdir: str | os.PathLike) -> None:
  """Removes what a kill during a save left behind."""
  if sharding.first():
    _clean(workdir)
  sharding.wait("clean")


def _clean(workdir: str | os.PathLike) -> None:
  folder = pathlib.Path(workdir).absolute() / "checkpoints"
  for part in _listing(folder):
    if not _NAME.fullmatch(part.name):
      shutil.rmtree(part)


def host(workdir: str | os.PathLike, stage: int, step: int) -> dict[str, Any]:
  """The host's side alone, which says what the arrays belong to."""
  path = path_of(workdir, stage, step)
  if not path.exists():
    known = ", ".join(f"{a} (step {b})" for a, b in places(workdir)) or "none"
    raise ValueError(f"there is no checkpoint {path}; stages there: {known}")
  return _load(path, {"host": None})["host"]


def restore(
  workdir: str | os.PathLike, stage: int, step: int, like: TrainState
) -> TrainState:
  """The state, into the shapes, dtypes and shardings of `like`."""
  path = path_of(workdir, stage, step)
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=getattr(x, "sharding", None)
    ),
    _parts(like),
  )
  state = _load(path, {"state": abstract})["state"]
  for (where, x), y in zip(
    jax.tree_util.tree_leaves_with_path(abstract), jax.tree.leaves(state)
  ):
    if x.shape != y.shape or x.dtype != y.dtype:
      raise ValueError(
        f"checkpoint {path} is damaged, or of another config "
        f"({jax.tree_util.keystr(where)} is {y.dtype}{list(y.shape)} there, "
        f"{x.dtype}{list(x.shape)} here): {REMEDY}"
      )
  return like._replace(**state)


def _parts(state: TrainState) -> dict[str, Any]:
  """Fields by name, without an empty `kept`: older checkpoints have none."""
  return {k: v for k, v in state._asdict().items() if k != "kept" or v}


def _load(path: pathlib.Path, abstract: dict[str, Any]) -> dict[str, Any]:
  try:
    with _context():
      return ocp.load_checkpointables(str(path), abstract)
  except Exception as e:  # orbax and tensorstore raise many kinds
    raise ValueError(
      f"checkpoint {path} is damaged, or of another config ({_reason(e)}): "
      f"{REMEDY}"
    ) from e


def _reason(e: BaseException) -> str:
  """The first line of what went wrong first; orbax wraps it several times."""
  while (below := e.__cause__ or e.__context__) is not None:
    e = below
  lines = str(e).strip().splitlines()
  return f"{type(e).__name__}: {lines[0][:110] if lines else ''}"


def _context() -> ocp.Context:
  """The host's side is one JSON file; by itself orbax would take it apart."""
  registry = ocp.handlers.local_registry()
  registry.add(ocp.handlers.JsonHandler, checkpointable_name="host")
  context = ocp.Context()
  context.checkpointables.registry = registry
  return context


def _listing(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(folder.iterdir()) if folder.is_dir() else []
