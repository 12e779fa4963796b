"""Arguments of tool calls, coerced by the tool's JSON schema.

tau2 does not check types, and `2`, `2.0` and `"2"` are three different states
of a database. `coerce` changes a value only where the schema leaves one
reading of it:

  integer   2.0 -> 2, "2" -> 2
  number    2 -> 2.0, "2" -> 2.0, "2.5" -> 2.5
  boolean   "true", "false" -> True, False
  string    2 -> "2" (integers only)
  array     '["a"]' -> ["a"]; items by the schema of items
  object    '{"a": 1}' -> {"a": 1}; properties by their schemas
  anyOf     unchanged where one branch takes it as it is, else by the first
            branch under which it becomes valid (a branch that takes any
            object does not count)

Everything else is left as it is, for the tool to accept or to refuse as it
would in tau2: unknown names, missing arguments, NaN, values outside an enum.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Json = Any


def coerce(
  schema: Mapping[str, Any] | None, arguments: Mapping[str, Any]
) -> dict[str, Any]:
  """`arguments` with every value coerced as the module says."""
  if schema is None:
    return dict(arguments)
  properties = schema.get("properties", {})
  defs = schema.get("$defs", {})
  return {
    k: _value(properties[k], v, defs) if k in properties else v
    for k, v in arguments.items()
  }


def _value(schema: Mapping[str, Any], value: Json, defs: Mapping) -> Json:
  if "$ref" in schema:
    schema = defs[schema["$ref"].rsplit("/", 1)[-1]]
  if "anyOf" in schema:
    branches = [b for b in schema["anyOf"] if b != _ANY_OBJECT]
    for branch in branches:
      if _valid(branch, value, defs):
        return value
    for branch in branches:
      coerced = _value(branch, value, defs)
      if _valid(branch, coerced, defs):
        return coerced
    return value
  kind = schema.get("type")
  rule = _RULES.get(kind) if isinstance(kind, str) else None
  return rule(schema, value, defs) if rule else value


def _valid(schema: Mapping[str, Any], value: Json, defs: Mapping) -> bool:
  if "$ref" in schema:
    schema = defs[schema["$ref"].rsplit("/", 1)[-1]]
  if "anyOf" in schema:
    return any(_valid(s, value, defs) for s in schema["anyOf"])
  if "enum" in schema and value not in schema["enum"]:
    return False
  kind = schema.get("type")
  if kind == "object":
    return (
      isinstance(value, dict)
      and all(k in value for k in schema.get("required", ()))
      and all(
        _valid(s, value[k], defs)
        for k, s in schema.get("properties", {}).items()
        if k in value
      )
    )
  if kind == "array":
    items = schema.get("items", {})
    return isinstance(value, list) and all(
      _valid(items, v, defs) for v in value
    )
  if kind == "boolean":
    return isinstance(value, bool)
  types = {"integer": int, "number": float, "string": str, "null": type(None)}
  expected = types.get(kind) if isinstance(kind, str) else None
  if expected is None:
    return True
  return isinstance(value, expected) and not isinstance(value, bool)


def _integer(schema: Mapping, value: Json, defs: Mapping) -> Json:
  if isinstance(value, float) and value.is_integer():
    return int(value)
  if isinstance(value, str):
    try:
      return int(value)
    except ValueError:
      return value
  return value


def _number(schema: Mapping, value: Json, defs: Mapping) -> Json:
  if isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if isinstance(value, str):
    try:
      return float(value)
    except ValueError:
      return value
  return value


def _boolean(schema: Mapping, value: Json, defs: Mapping) -> Json:
  words = {"true": True, "false": False}
  return words.get(value.lower(), value) if isinstance(value, str) else value


def _string(schema: Mapping, value: Json, defs: Mapping) -> Json:
  is_integer = isinstance(value, int) and not isinstance(value, bool)
  return str(value) if is_integer else value


def _array(schema: Mapping, value: Json, defs: Mapping) -> Json:
  value = _parsed(value, list)
  if not isinstance(value, list):
    return value
  return [_value(schema.get("items", {}), v, defs) for v in value]


def _object(schema: Mapping, value: Json, defs: Mapping) -> Json:
  value = _parsed(value, dict)
  if not isinstance(value, dict):
    return value
  properties = schema.get("properties", {})
  return {
    k: _value(properties[k], v, defs) if k in properties else v
    for k, v in value.items()
  }


def _parsed(value: Json, kind: type) -> Json:
  if not isinstance(value, str):
    return value
  try:
    parsed = json.loads(value)
  except ValueError:
    return value
  return parsed if isinstance(parsed, kind) else value


# A branch for any `dict`, beside the one that says what should be in it.
_ANY_OBJECT = {"additionalProperties": True, "type": "object"}

_RULES = {
  "integer": _integer,
  "number": _number,
  "boolean": _boolean,
  "string": _string,
  "array": _array,
  "object": _object,
}
