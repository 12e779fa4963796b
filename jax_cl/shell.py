"""What all commands share: their exit codes, and how a mistake is told.

  0 done    1 the run failed, or something differs    130 interrupted
  2 a mistake in what was asked for, said in one line

A mistake is a ValueError that this package raised on purpose. Any other is a
bug, ours or of a file that somebody added, and keeps its traceback.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import sys
import traceback
from collections.abc import Callable

_PACKAGE = pathlib.Path(__file__).parent


class Parser(argparse.ArgumentParser):
  """Answers a wrong option in one line, as everything else is answered."""

  def error(self, message: str):
    raise ValueError(f"{message}; see {self.prog} --help")


def command(main: Callable[..., int]) -> Callable[..., int]:
  """`main`, with mistakes told in one line and as an exit code."""

  @functools.wraps(main)
  def told(*args, **kwargs) -> int:
    try:
      return main(*args, **kwargs)
    except ValueError as e:
      if not on_purpose(e):
        raise
      print(f"error: {one_line(e)}", file=sys.stderr)
      return 2
    except FloatingPointError as e:
      print(f"stopped: {one_line(e)}", file=sys.stderr)
      return 1
    except KeyboardInterrupt:
      print("interrupted", file=sys.stderr)
      return 130

  return told


def on_purpose(e: BaseException) -> bool:
  """Whether a `raise` statement of this package made the exception."""
  last = traceback.extract_tb(e.__traceback__)[-1]
  ours = _PACKAGE in pathlib.Path(last.filename).absolute().parents
  return ours and (last.line or "").startswith("raise ")


def one_line(e: BaseException) -> str:
  return " ".join(str(e).split())
