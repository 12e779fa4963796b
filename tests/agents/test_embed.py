"""Vectors depend on the text alone, whatever process or batch asks for them."""

import sqlite3
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from jax_cl.agents import embed
from jax_cl.policies import weights

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
    ("hased", {}, "did you mean 'hashed'"),
    ("hashed", {"widht": 3}, "did you mean 'width'"),
    ("hashed", {"width": 0}, "must be positive"),
    ("smollm2", {"layer": 31}, "layer 31 .* 1 to 30"),
    ("smollm2", {"pooling": "max"}, "known: .'last', 'mean'"),
    ("smollm2", {"context": 8192}, "1 to 8191 tokens"),
    ("smollm2", {"batch": 0}, "positive number of tokens"),
  ],
)
def test_bad_names_are_answered(name, args, message):
  with pytest.raises(ValueError, match=message):
    embed.make(name, **args)


def test_one_text_is_not_a_sequence():
  with pytest.raises(ValueError, match=r"embed\(\[text\]\)"):
    embed.make("hashed").embed("text")


# ------------------------------------------------------------------- the LLM


@pytest.fixture
def smollm2(tmp_path):
  """Makes embedders of two layers, with a store of this test's own."""
  try:
    weights.fetch("smollm2-135m")
  except weights.NotFetched as e:
    pytest.skip(f"no network and no copy of the weights: {e}")
  return lambda folder="store", **args: embed.make(
    "smollm2", **{"layer": 2, "folder": tmp_path / folder} | args
  )


def test_llm_rows_by_hand(smollm2):
  texts = ["status: delivered", "", "cabin: economy"]
  x = smollm2().embed(texts)
  policy, params = weights.load("smollm2-135m", layers=2)
  tokenizer = weights.tokenizer("smollm2-135m")
  assert not x[1].any()
  for i in (0, 2):
    tokens = np.array([[0, *tokenizer.encode(texts[i]).ids]])  # 0: the sink
    at = np.arange(tokens.size)[None]
    h = jax.jit(policy.hidden)(params, tokens, at, np.ones_like(tokens))[0]
    h = np.asarray(h)[0, 1:]
    mean = (h / np.sqrt(np.mean(h**2, axis=-1, keepdims=True))).mean(0)
    mean /= np.linalg.norm(mean)
    np.testing.assert_allclose(x[i], mean, rtol=2**-10, atol=1e-5)  # float16


def test_llm_vectors_are_those_of_this_revision(smollm2):
  """Stored vectors live on under `name`: others must have another one.

  Recorded from revision 2. Who means to change them raises
  `embed.REVISION` and records anew.
  """
  texts = [
    "status: delivered",
    "I'm on hold (again).",
    "order_id: #W2378156, total: $12.50",
  ]
  expected = [
    [-0.0344, 0.0102, 0.0189, 0.0603, 0.0041, 0.0008],
    [0.0561, 0.0081, -0.0024, -0.0011, -0.0079, -0.0096],
    [-0.006, 0.0039, -0.0104, -0.0194, -0.0231, -0.013],
  ]
  e = smollm2(layer=8)
  assert e.name.endswith("-v2")
  np.testing.assert_allclose(e.embed(texts)[:, :6], expected, atol=2e-4)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_llm_bits_depend_on_the_text_alone(smollm2, pooling):
  a, others = "order_id: #W2378156", [f"zip: {i}" for i in range(11, 23)]
  alone = smollm2(pooling=pooling).embed([a])[0]
  for at in (1, 5, 12):  # other rows of a call, full calls and not
    texts = [*others[:at], a, *others[at:]]
    e = smollm2(f"with{at}", pooling=pooling)
    np.testing.assert_array_equal(e.embed(texts)[at], alone)
  e = smollm2("backwards", pooling=pooling)
  np.testing.assert_array_equal(e.embed(texts[::-1])[::-1], e.embed(texts))
  np.testing.assert_array_equal(e.embed([a, a]), [alone, alone])


def test_a_warm_store_gives_the_same_bits_for_nothing(smollm2, monkeypatch):
  cold = smollm2()
  x = cold.embed(ODD[:5])
  assert cold.tokens_sent > 0 and x.dtype == np.float32
  monkeypatch.setattr(weights, "fetch", lambda _: pytest.fail("it was needed"))
  warm = smollm2()
  np.testing.assert_array_equal(warm.embed(ODD[:5]), x)
  assert warm.tokens_sent == 0


def test_llm_counts_tokens_and_cuts(smollm2):
  e = smollm2(context=6)
  e.embed(["a a a", "a a a", "1234567890"])
  assert (e.tokens_sent, e.truncated) == (1 + 3 + 1 + 6, 1)
  e.embed(["a a a"])
  assert e.tokens_sent == 11
  e.embed(["<|im_end|>"])  # spelled out: more than the sink and one id
  assert e.tokens_sent > 13


# ----------------------------------------------------------------- its store

WRITER = """
import pathlib, sys, numpy as np
from jax_cl.agents import embed
store = embed.Store(pathlib.Path(sys.argv[1]), 4)
for i in range(int(sys.argv[2]), int(sys.argv[3])):
  store.put({i.to_bytes(16): np.full(4, i % 99, np.float16)})
  if i == int(sys.argv[2]): print("writing", flush=True)
"""


def writer(path, first, last):
  command = [sys.executable, "-c", WRITER, path, str(first), str(last)]
  return subprocess.Popen(command, stdout=subprocess.PIPE)


def whole(path, n):
  """Keys of the rows found below n, each checked."""
  rows = embed.Store(path, 4).get(i.to_bytes(16) for i in range(n))
  for key, row in rows.items():
    assert (row == int.from_bytes(key) % 99).all()
  return {int.from_bytes(key) for key in rows}


def test_a_store_survives_two_writers_and_a_kill(tmp_path):
  path = tmp_path / "s.sqlite"
  killed, done = writer(path, 0, 10**6), writer(path, 10**6, 10**6 + 40)
  assert killed.stdout.readline() == b"writing\n"
  assert done.wait(60) == 0
  time.sleep(0.05)  # anywhere in its loop
  killed.kill()
  killed.communicate()
  done.communicate()
  found = whole(path, 10**6 + 40)
  n = len(found) - 40
  assert n > 0 and found == {*range(n), *range(10**6, 10**6 + 40)}


def test_damaged_rows_are_forgotten_with_a_warning(tmp_path):
  path = tmp_path / "s.sqlite"
  rows = {bytes([i]) * 16: np.full(4, i, np.float16) for i in range(3)}
  embed.Store(path, 4).put(rows)
  with sqlite3.connect(path) as db:
    db.execute("UPDATE rows SET row = x'00' WHERE key = ?", (b"\1" * 16,))
    (blob,) = db.execute("SELECT row FROM rows WHERE key = ?", (b"\2" * 16,))
    flipped = bytes([blob[0][0] ^ 1]) + blob[0][1:]
    db.execute("UPDATE rows SET row = ? WHERE key = ?", (flipped, b"\2" * 16))
  store = embed.Store(path, 4)
  with pytest.warns(UserWarning, match="2 damaged rows in .*s.sqlite"):
    assert set(store.get(rows)) == {b"\0" * 16}
  store.put(rows)
  assert set(store.get(rows)) == set(rows)


@pytest.mark.parametrize("at", [0, 4096])
def test_a_damaged_file_is_set_aside_with_a_warning(tmp_path, at):
  path = tmp_path / "s.sqlite"
  rows = {i.to_bytes(16): np.ones(4, np.float16) for i in range(500)}
  embed.Store(path, 4).put(rows)
  data = bytearray(path.read_bytes())
  data[at : at + 100] = b"x" * 100
  path.write_bytes(data)
  with pytest.warns(UserWarning, match="damaged embedding store .*s.sqlite"):
    store = embed.Store(path, 4)
    assert store.get(rows) == {}
  store.put(rows)
  assert len(embed.Store(path, 4).get(rows)) == 500
  assert len(list(tmp_path.glob("s.damaged-*"))) == 1


def test_a_store_that_cannot_be_names_the_remedy(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(ValueError, match="JAX_CL_CACHE"):
    embed.Store(tmp_path / "file" / "s.sqlite", 4)
  (tmp_path / "s.sqlite").mkdir()
  with pytest.raises(ValueError, match="cannot use .*s.sqlite"):
    embed.Store(tmp_path / "s.sqlite", 4)
