"""A config from a command line: `--config=configs/NAME.py --config.a.b=...`.

Every key can be set, and the config is locked: what does not exist is answered
with the nearest name.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from jax_cl import names


def parse(args: Sequence[str]) -> tuple[ConfigDict, str]:
  """(locked config, workdir) of a command line, or ValueError."""
  values = _parse(args)
  if values.config is None:
    raise ValueError("which experiment? give --config=configs/NAME.py")
  file, _, variant = _config_file(args).partition(":")
  name = "-".join(filter(None, (pathlib.Path(file).stem, variant)))
  if values.workdir == "":
    raise ValueError("--workdir is empty: name a folder, or leave it out")
  return values.config, values.workdir or f"runs/{name}"


def _config_file(args: Sequence[str]) -> str:
  """What the flag says, `:variant` included; "" where it is not given."""
  for i, arg in enumerate(args):
    name, given, value = arg.lstrip("-").partition("=")
    if name == "config" and arg.startswith("-"):
      return value if given else (*args, "")[i + 1]
  return ""


def _parse(args: Sequence[str]) -> flags.FlagValues:
  values = flags.FlagValues()
  config_flags.DEFINE_config_file(
    "config",
    help_string="The experiment.",
    lock_config=True,
    flag_values=values,
    sys_argv=list(args),
  )
  flags.DEFINE_string("workdir", None, "Where it lives.", flag_values=values)
  try:
    rest = values(list(args))[1:]
    if values.config is not None:
      values.config.keys()  # what failed to load says so when it is read
  except flags.Error as e:
    raise ValueError(_wrong_value(args, str(e)) or str(e)) from e
  except (AttributeError, KeyError) as e:
    raise ValueError(_mistyped(args) or str(e)) from e
  except (OSError, ImportError, SyntaxError) as e:
    _check_file(pathlib.Path(_config_file(args).partition(":")[0]))
    raise ValueError(f"the config cannot be loaded: {_reason(e)}") from e
  if rest:
    raise ValueError(
      f"what is {rest[0]!r}? Options begin with --config. or --workdir="
    )
  return values


def _mistyped(args: Sequence[str]) -> str | None:
  """Names the first `--config.a.b` that the config does not have."""
  sets = [a for a in args if a.lstrip("-").startswith("config.")]
  config = _parse([a for a in args if a not in sets]).config
  for arg in sets:
    at, path = config, "config"
    for part in arg.lstrip("-").split("=")[0].split(".")[1:]:
      if not isinstance(at, ConfigDict) or part not in at:
        known = sorted(at) if isinstance(at, ConfigDict) else []
        return names.unknown(f"key of {path}", part, known)
      at, path = at[part], f"{path}.{part}"
  return None


def _wrong_value(args: Sequence[str], said: str) -> str | None:
  """Says what would do instead of a value that absl refuses."""
  file, _, variant = _config_file(args).partition(":")
  if variant and "get_config() takes 0" in said:
    return f"{file} has no variants: leave out ':{variant}'"
  found = re.match(r"flag --config\.([\w.]+)=", said)
  if not found:
    return None
  sets = [a for a in args if a.lstrip("-").startswith("config.")]
  at: Any = _parse([a for a in args if a not in sets]).config
  *path, key = found[1].split(".")
  for part in path:
    at = at[part]
  kind = at.get_type(key).__name__
  flag = found[0].removeprefix("flag ")
  given = next((a for a in sets if f"--{a.lstrip('-')}".startswith(flag)), flag)
  return f"{given}: must be of type {kind}; the config says {at[key]!r}"


def _check_file(path: pathlib.Path) -> None:
  """Names the nearest file where there is none of this name."""
  if path.suffix != ".py":
    raise ValueError(
      f"{path} is no config: give a Python file, --config=configs/NAME.py"
    )
  if not path.parent.is_dir():
    raise ValueError(
      f"no folder {str(path.parent)!r} for the config {path.name}: call from "
      "the folder of the checkout, or give the whole path"
    )
  there = [str(p) for p in path.parent.glob("*.py")]
  names.check("config", str(path), [f for f in there if "__" not in f])


def _reason(e: BaseException) -> str:
  """The innermost line of a loading error, without its list of attempts."""
  return str(e).strip().splitlines()[-1].strip()
