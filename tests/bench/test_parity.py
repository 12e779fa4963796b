"""Avalanche's weights, through our contract and our update.

The fixture was written by Avalanche 0.6.0 (see `bench.parity`).
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from jax_cl.bench import parity

# One worker makes what these share.
pytestmark = pytest.mark.xdist_group("parity")

FIXTURE = pathlib.Path(__file__).parent.parent / "data"
FIXTURE /= "avalanche_perm_digits_seed0.npz"


METHODS = ["naive", "ewc", "ewc_online", "si", "mas", "lwf"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
  """The command as a user runs it: the tests' own XLA flags round otherwise."""
  out = tmp_path_factory.mktemp("parity") / "rows.json"
  env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
  command = [sys.executable, "-m", "jax_cl.bench", "parity"]
  command += [f"--fixture={FIXTURE}", f"--out={out}"]
  subprocess.run(command, env=env, check=True, capture_output=True)
  return {row["method"]: row for row in json.loads(out.read_text())}


@pytest.mark.xdist_group("parity")
@pytest.mark.parametrize("method", METHODS)
def test_final_weights_are_avalanches(rows, method):
  row = rows[method]
  assert row["max_abs_diff"] <= (1e-2 if method == "lwf" else 1e-5)
  assert row["max_abs_diff_R"] <= (5e-3 if method == "lwf" else 1e-6)


def test_another_formula_is_not_close(tmp_path):
  """One epoch and a changed weight: a difference is not hidden."""
  with np.load(FIXTURE) as file:
    there = dict(file)
  there |= {"epochs": np.int64(1), "perms": there["perms"][:1]}
  there |= {"naive/R": np.zeros((1, 1))}
  np.savez(tmp_path / "other.npz", **there)
  (row,) = parity.run(str(tmp_path / "other.npz"), ["naive"])
  assert row["max_abs_diff"] > 0.1
  assert len(row["tried"]) == len(parity.ROUNDINGS)


def test_unknown_methods_name_the_held():
  with pytest.raises(ValueError, match="unknown method 'gem'.*'ewc_online'"):
    list(parity.run(str(FIXTURE), ["gem"]))
