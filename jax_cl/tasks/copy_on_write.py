"""Private copies of shared data, made when they are looked up.

Nothing here knows tau2: entities are pydantic models, dicts and lists.
"""

from __future__ import annotations

import copy
import datetime
import enum
import hashlib
import json
import pickle
from collections.abc import Callable, Mapping
from typing import Any

Copier = Callable[[], Any]


def copier(x: Any, known: dict[bytes, Copier] | None = None) -> Copier:
  """A function that returns a new deep copy of `x` as it is now.

  Pydantic models, dicts and lists are taken apart once; a copy then costs one
  `dict.copy` a model, a tenth of pickle. Aliases within `x` are not kept.

  Args:
    known: where copiers of models are kept, so that many objects with mostly
      the same parts share them.
  """
  cls = type(x)
  if _is_atom(x):
    return lambda: x
  if cls is list:
    if all(map(_is_atom, x)):
      return list(x).copy
    parts = [copier(v, known) for v in x]
    return lambda: [part() for part in parts]
  if cls is dict:
    inner = {k: copier(v, known) for k, v in x.items() if not _is_atom(v)}
    if not inner:
      return dict(x).copy
    return _dict_copier(dict(x), inner)
  if not hasattr(x, "__pydantic_fields_set__") or x.__pydantic_private__:
    frozen = copy.deepcopy(x)
    return lambda: copy.deepcopy(frozen)
  if known is None:
    return _model_copier(x, None)
  key = hashlib.blake2b(pickle.dumps(x, -1), digest_size=16).digest()
  if key not in known:
    known[key] = _model_copier(x, known)
  return known[key]


def _dict_copier(shared: dict, inner: dict[Any, Copier]) -> Copier:
  parts = tuple(inner.items())

  def make() -> dict:
    new = shared.copy()
    for k, part in parts:
      new[k] = part()
    return new

  return make


def _model_copier(x: Any, known: dict[bytes, Copier] | None) -> Copier:
  cls, fields = type(x), copier(x.__dict__, known)
  names, extra = x.__pydantic_fields_set__.copy(), x.__pydantic_extra__
  new: Any = cls.__new__
  put = object.__setattr__

  def make() -> Any:  # what pydantic's `__copy__` does
    model = new(cls)
    put(model, "__dict__", fields())
    put(model, "__pydantic_fields_set__", names.copy())
    put(model, "__pydantic_extra__", extra and dict(extra))
    put(model, "__pydantic_private__", None)
    return model

  return make


def _is_atom(x: Any) -> bool:
  return isinstance(x, _ATOMS)


_ATOMS = (str, int, float, bool, type(None), datetime.date, enum.Enum)


class Rows:
  """A table's shared entities. Whatever is handed out is a copy."""

  def __init__(self, rows: Mapping[str, Any]):
    self.rows = dict(rows)
    self._copiers: dict[str, Copier] = {}
    self._canonical: dict[str, str] = {}

  def copy(self, key: str) -> Any:
    make = self._copiers.get(key)
    if make is None:
      make = self._copiers[key] = copier(self.rows[key])
    return make()

  def canonical(self, key: str) -> str | None:
    if key not in self.rows:
      return None
    text = self._canonical.get(key)
    if text is None:
      text = self._canonical[key] = canonical(self.rows[key])
    return text


class Table(dict):
  """An episode's view of `Rows`: private copies of what was looked up.

  `values()` and `items()` show shared entities, which no tool of tau2's may
  change: tools change what they look up by key.
  """

  __slots__ = ("_base", "_own")

  def __init__(self, base: Rows):
    super().__init__(base.rows)
    self._base = base
    self._own: set[str] = set()

  def __getitem__(self, key):
    if key not in self._own:
      if key not in self:
        raise KeyError(key)
      super().__setitem__(key, self._base.copy(key))
      self._own.add(key)
    return super().__getitem__(key)

  def get(self, key, default=None):
    return self[key] if key in self else default

  def __setitem__(self, key, value):
    self._own.add(key)
    super().__setitem__(key, value)

  def __delitem__(self, key):
    super().__delitem__(key)
    self._own.add(key)

  def pop(self, key, *default):
    if key not in self:
      return super().pop(key, *default)
    value = self[key]
    del self[key]
    return value

  def setdefault(self, key, default=None):
    if key not in self:
      self[key] = default
    return self[key]

  def update(self, *args, **kwargs):
    for key, value in dict(*args, **kwargs).items():
      self[key] = value

  def clear(self):
    self._own.update(self)
    super().clear()

  def popitem(self):
    key = next(reversed(self))
    return key, self.pop(key)

  def __ior__(self, other):
    self.update(other)
    return self

  def changes(self) -> dict[str, str | None]:
    """Canonical JSON of the entities that differ from the shared ones."""
    out = {}
    for key in self._own:
      now = canonical(dict.__getitem__(self, key)) if key in self else None
      if now != self._base.canonical(key):
        out[key] = now
    return out


def canonical(entity: Any) -> str:
  """What tau2 hashes, of one entity: equal texts if and only if equal hashes.

  Text, not values, because `2`, `2.0` and `"2"` are different states to tau2.
  """
  dump = getattr(entity, "model_dump", None)
  return json.dumps(dump() if dump else entity, sort_keys=True, default=str)
