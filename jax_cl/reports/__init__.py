"""Metric files -> what people look at. Reads files; imports no JAX.

  python -m jax_cl.reports --workdir=runs/quickstart

`write` reads a run's `results.json` and leaves beside it `matrix.png`,
`curves.png`, `report.md` and `report.html` (one page, pictures inside).
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

FILES = ("report.html", "report.md", "matrix.png", "curves.png")


def write(workdir: str | pathlib.Path) -> list[pathlib.Path]:
  """Draws a run's report; computes `results.json` first if it is absent."""
  from jax_cl import metrics
  from jax_cl.reports import plots, tables

  workdir = pathlib.Path(workdir)
  path = workdir / "results.json"
  found = (
    json.loads(path.read_text())
    if path.is_file()
    else metrics.recompute(workdir)
  )
  if not any(split in found for split in ("test", "val")):
    raise ValueError(f"{workdir} was never evaluated: there is nothing to draw")
  split = "test" if "test" in found else "val"
  plots.matrix(found, workdir / "matrix.png", split)
  plots.curves(found, workdir / "curves.png")
  _render(tables.run(found, str(workdir)), workdir)
  return [workdir / name for name in FILES]


def write_comparison(
  found: Mapping[str, Any], folder: str | pathlib.Path
) -> list[pathlib.Path]:
  """Draws what `compare` found: its pictures and report below `folder`."""
  from jax_cl.reports import plots, tables

  folder = pathlib.Path(folder)
  plots.methods(found, folder / "methods.png")
  plots.matrices(found, folder / "matrices.png")
  plots.compare_curves(found, folder / "curves.png")
  _render(tables.comparison(found), folder)
  names = (
    "report.html",
    "report.md",
    "methods.png",
    "matrices.png",
    "curves.png",
  )
  return [folder / name for name in names]


def _render(blocks, folder: pathlib.Path) -> None:
  from jax_cl.reports import html, markdown

  (folder / "report.md").write_text(markdown.render(blocks))
  (folder / "report.html").write_text(html.render(blocks, folder))
