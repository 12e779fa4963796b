"""Avalanche's weights, through our contract and our update.

The fixture was written by Avalanche 0.6.0 (see `bench.parity`).
"""

import pathlib

import numpy as np
import pytest

from jax_cl.bench import parity

FIXTURE = pathlib.Path(__file__).parent.parent / "data"
FIXTURE /= "avalanche_perm_digits_seed0.npz"


@pytest.mark.parametrize(
  "method", ["naive", "ewc", "ewc_online", "si", "mas", "lwf"]
)
def test_final_weights_are_avalanches(method):
  (row,) = parity.run(str(FIXTURE), [method])
  assert row["method"] == method
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
