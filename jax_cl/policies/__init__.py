"""Language models. A family is a module of this folder with `VARIANTS`."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import types

from jax_cl import names


@functools.cache
def families() -> tuple[str, ...]:
  """Names of the families, found by looking."""
  found = (m.name for m in pkgutil.iter_modules(__path__))
  return tuple(n for n in sorted(found) if hasattr(_module(n), "VARIANTS"))


def family(name: str) -> types.ModuleType:
  """A family's module: `make`, VARIANTS, WEIGHT_MAP, GGUF_MAP, AXES."""
  names.check("model family", name, families())
  return _module(name)


def _module(name: str) -> types.ModuleType:
  return importlib.import_module(f"{__name__}.{name}")
