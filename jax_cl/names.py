"""A name that does not exist is answered with the nearest one that does."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def check(kind: str, name: str, known: Iterable[str]) -> None:
  """Raises ValueError where `name` is not among `known`."""
  known = list(known)
  if name not in known:
    raise ValueError(unknown(kind, name, known))


def several(
  kind: str, given: Sequence[str] | str, known: Iterable[str]
) -> list[str]:
  """Names as a list or as `a,b`, all of them known."""
  parts = given.split(",") if isinstance(given, str) else list(given)
  known = list(known)
  for part in parts:
    check(kind, part, known)
  return parts


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
  """unknown strategy 'radnom' (did you mean 'random'?); known: [...]"""
  known = sorted(known)
  return f"unknown {kind} {name!r}{nearest(name, known)}; known: {known}"


def nearest(name: str, known: Iterable[str]) -> str:
  """` (did you mean 'random'?)`, or nothing where no name is near."""
  near = difflib.get_close_matches(str(name), list(known), 1)
  return f" (did you mean {near[0]!r}?)" if near else ""
