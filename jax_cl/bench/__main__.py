"""`python -m jax_cl.bench NAME --out=FILE.json [--option=value ...]`."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import sys
import time
from ast import literal_eval
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jax_cl import bench, names, shell


@shell.command
def main(argv: Sequence[str]) -> int:
  known = sorted(
    m.name for m in pkgutil.iter_modules(bench.__path__) if m.name[0] != "_"
  )
  if {"--help", "-h"} & set(argv):
    print(f"{__doc__}\n\nNAME: {', '.join(known)}; their files say more")
    return 0
  name, options = _parse(argv, known)
  module = importlib.import_module(f"jax_cl.bench.{name}")
  out = options.pop("out", None)
  _check("option", options, list(inspect.signature(module.run).parameters))
  start = time.perf_counter()
  rows = []
  for row in module.run(**options):
    print("  ".join(f"{k} {_short(v)}" for k, v in row.items()), flush=True)
    rows.append(row)
  if out is not None:
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(json.dumps(rows, indent=1) + "\n")
  print(f"{len(rows)} rows in {time.perf_counter() - start:.0f} s")
  return 0


def _parse(
  argv: Sequence[str], known: Sequence[str]
) -> tuple[str, dict[str, Any]]:
  found = [a for a in argv if not a.startswith("--")]
  if len(found) != 1:
    raise ValueError(
      "usage: python -m jax_cl.bench NAME --out=FILE.json; "
      f"known: {', '.join(known)}"
    )
  _check("bench", found, known)
  options = {}
  for a in argv:
    if a.startswith("--"):
      key, given, value = a[2:].partition("=")
      if not given:
        raise ValueError(f"write --{key}=VALUE")
      options[key] = _value(value)
  return found[0], options


def _value(text: str) -> Any:
  try:
    return literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def _check(kind: str, given: Iterable[str], known: Sequence[str]) -> None:
  for name in given:
    names.check(kind, name, known)


def _short(value: Any) -> str:
  return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
