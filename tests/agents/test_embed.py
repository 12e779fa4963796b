"""Vectors depend on the text alone, whatever process or batch asks for them."""

import subprocess
import sys

import numpy as np
import pytest

from jax_cl.agents import embed

ODD = ["", " ", "user_id: mia_li_3668", "Zürich → Genève", "\ud800", "a" * 5000]


def test_hashed_rows_are_unit_vectors_of_the_text():
  e = embed.make("hashed", width=64)
  x = e.embed(ODD)
  assert x.shape == (len(ODD), 64) and x.dtype == np.float32
  np.testing.assert_allclose(
    np.linalg.norm(x, axis=1), [0, 0, 1, 1, 1, 1], atol=1e-6
  )
  order = [3, 0, 5, 5, 1]
  np.testing.assert_array_equal(e.embed([ODD[i] for i in order]), x[order])
  assert e.embed([]).shape == (0, 64)


def test_hashed_by_hand():
  # "x y": words x, y (1 each), one pair (1/2); single letters have no trigram,
  # so up to collisions and signs the squares are 1, 1, 1/4 over 9/4.
  v = embed.make("hashed", width=1 << 16).embed(["x y"])[0]
  np.testing.assert_allclose(
    np.sort(np.abs(v[v != 0])), [1 / 3, 2 / 3, 2 / 3], atol=1e-6
  )


def test_hashed_is_the_same_in_another_process():
  code = (
    "from jax_cl.agents import embed; import sys;"
    "sys.stdout.write(embed.make('hashed').embed(['order_id: #W2378156'])"
    ".tobytes().hex())"
  )
  run = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  here = embed.make("hashed").embed(["order_id: #W2378156"])
  assert run.stdout == here.tobytes().hex()


def test_hashed_puts_like_beside_like():
  x = embed.make("hashed").embed(
    ["cancel the reservation", "cancel my reservation", "apn settings: broken"]
  )
  assert x[0] @ x[1] > 0.4 > 0.2 > x[0] @ x[2]


@pytest.mark.parametrize(
  "name, args, message",
  [
    ("hased", {}, "nearest: 'hashed'"),
    ("hashed", {"widht": 3}, "nearest: 'width'"),
    ("hashed", {"width": 0}, "must be positive"),
  ],
)
def test_bad_names_are_answered(name, args, message):
  with pytest.raises(ValueError, match=message):
    embed.make(name, **args)


def test_one_text_is_not_a_sequence():
  with pytest.raises(ValueError, match=r"embed\(\[text\]\)"):
    embed.make("hashed").embed("text")
