"""Writes constraints.txt: exact pins of everything that an install may bring.

    make compile-constraints

Asks pip what it would install for each Python below, all extras together, and
merges the answers: one line where all agree, one line a Python where they do
not. Nothing is installed. Linux on x86-64; elsewhere pip ignores the pins of
packages that it does not need.
"""

from __future__ import annotations

import itertools
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PYTHONS = ("3.11", "3.12", "3.13")
HEAD = """\
# Pins of the whole closure, extras `test`, `trackers` and `cuda12` included.
# Written by `make compile-constraints`; edit pyproject.toml instead.
#
# Python 3.11: what the tests run on.
# Python 3.12, 3.13: resolved by `pip install --dry-run` alone, unrun.
#
# jax >= 0.11.1 breaks flax <= 0.12.8, so both move together. torch is pinned
# without a build: depending on where pip looks, 2.13.0 is the CPU build or the
# CUDA one, whose nvidia-* packages are listed too.
"""


def resolve(python: str) -> dict[str, str]:
  """Package name -> version, as pip would install them on that Python."""
  here = "{}.{}".format(*sys.version_info)
  with tempfile.TemporaryDirectory() as folder:
    report = pathlib.Path(folder, "report.json")
    command = [sys.executable, "-m", "pip", "install", "-q", "--dry-run"]
    command += ["--ignore-installed", "--report", str(report)]
    if python != here:
      command += ["--python-version", python, "--only-binary=:all:"]
      command += ["--target", folder]
    command += [f"{ROOT}[test,trackers,cuda12]"]
    subprocess.run(command, check=True)
    items = json.loads(report.read_text())["install"]
  found = {}
  for item in items:
    name = item["metadata"]["name"].lower().replace("_", "-").replace(".", "-")
    found[name] = item["metadata"]["version"].partition("+")[0]
  del found["jax-cl"]
  return found


def merge(found: dict[str, dict[str, str]]) -> list[str]:
  """Pins, with a marker only where the Pythons want different versions."""
  lines = []
  for name in sorted(set().union(*found.values())):
    versions = {py: pins[name] for py, pins in found.items() if name in pins}
    if len(set(versions.values())) == 1:
      lines.append(f"{name}=={next(iter(versions.values()))}")
      continue
    for version, group in itertools.groupby(versions, versions.get):
      pythons = list(group)
      bounds = []
      if pythons[0] != PYTHONS[0]:
        bounds.append(f'python_version >= "{pythons[0]}"')
      if pythons[-1] != PYTHONS[-1]:
        bounds.append(f'python_version <= "{pythons[-1]}"')
      lines.append(f"{name}=={version} ; {' and '.join(bounds)}")
  return lines


if __name__ == "__main__":
  pins = merge({python: resolve(python) for python in PYTHONS})
  ROOT.joinpath("constraints.txt").write_text(HEAD + "\n".join(pins) + "\n")
