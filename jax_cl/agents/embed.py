"""phi(text): one vector a text, from hashed n-grams or from a frozen LLM.

`make(name, **args)` gives an `Embedder`. Vectors depend on the text alone, so
they are cached by content: a text met twice costs nothing the second time.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import math
import os
import pathlib
import re
import sqlite3
import threading
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jax_cl import names
from jax_cl.policies import base, llama, weights


@runtime_checkable  # for beartype, in the tests
class Embedder(Protocol):
  """What a learner may know of an embedder."""

  name: str  # identity of its vectors: equal names, equal vectors
  width: int
  tokens_sent: int  # tokens run through a model by this object
  truncated: int  # texts cut at the context limit by this object

  def embed(self, texts: Sequence[str]) -> Float[np.ndarray, "n width"]:
    """float32, a row a text, in order."""
    ...


def make(name: str, **args) -> Embedder:
  """An embedder by name; `args` are the keywords of its constructor."""
  names.check("embedder", name, EMBEDDERS)
  known = inspect.signature(EMBEDDERS[name]).parameters
  for key in args:
    names.check(f"option of embedder {name!r}", key, known)
  return EMBEDDERS[name](**args)


def _key(text: str) -> bytes:
  """Name of a text in the caches. Lone surrogates are texts too."""
  data = text.encode("utf-8", "surrogatepass")
  return hashlib.blake2b(data, digest_size=16).digest()


class Hashed:
  """Signed hashing of words, word pairs and byte trigrams, L2-normalised.

  v[h(f) mod width] += s(f) c(f), h and the sign s from blake2b, c = 1 for a
  word, 1/2 for a pair of neighbours, 1/4 for a trigram inside a word
  (Weinberger et al. 2009, https://arxiv.org/abs/0902.2206). Everything is done
  on UTF-8 bytes, in exact arithmetic up to the last division, so that the same
  text gives the same bits in every process, Python and machine: str.lower and
  `\\w` follow the interpreter's Unicode tables, and `hash` its seed.
  """

  tokens_sent = 0
  truncated = 0

  def __init__(self, width: int = 576):
    if width < 1:
      raise ValueError(f"width {width} of embedder 'hashed' must be positive")
    self.width = width
    self.name = f"hashed-{width}-v1"
    self._rows: dict[bytes, np.ndarray] = {}
    self._word = functools.lru_cache(maxsize=1 << 17)(self._word_features)

  def embed(self, texts: Sequence[str]) -> Float[np.ndarray, "n width"]:
    _check(texts)
    out = np.empty((len(texts), self.width), np.float32)
    for i, text in enumerate(texts):
      key = _key(text)
      if key not in self._rows:
        self._rows[key] = self._vector(text)
      out[i] = self._rows[key]
    return out

  def _vector(self, text: str) -> np.ndarray:
    data = text.encode("utf-8", "surrogatepass").lower()  # ASCII letters only
    words = _WORDS.findall(data)
    features = [f for w in words for f in self._word(w)]
    for a, b in zip(words, words[1:]):
      features.append(self._feature(b"p" + a + b"\0" + b, 0.5))
    v = np.zeros(self.width)
    if features:
      at, value = zip(*features)
      v = np.bincount(at, weights=value, minlength=self.width)  # exact: dyadic
    norm = math.sqrt(math.fsum(v * v))
    return (v / norm if norm else v).astype(np.float32)

  def _word_features(self, word: bytes) -> tuple[tuple[int, float], ...]:
    edged = b"<" + word + b">"
    grams = [edged[i : i + 3] for i in range(len(edged) - 2)]
    return (
      self._feature(b"w" + word, 1.0),
      *(self._feature(b"c" + g, 0.25) for g in grams if len(word) > 1),
    )

  def _feature(self, name: bytes, value: float) -> tuple[int, float]:
    h = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")
    return (h >> 1) % self.width, value if h & 1 else -value


# A word, with bytes beyond ASCII counted as letters; or one punctuation mark.
_WORDS = re.compile(rb"[a-z0-9\x80-\xff]+|[^\sa-z0-9\x80-\xff]")


def _check(texts: Sequence[str]) -> None:
  if isinstance(texts, str):
    raise ValueError(
      "embed takes a sequence of texts, not one str: embed([text])"
    )


# Rows are padded to one of these lengths, the sink token included, and each is
# one compiled shape of about `batch` tokens.
BUCKETS = (8, 12, 16, 24, 32, 48, 64, 128, 256, 512, 1024, 2048, 4096, 8192)

# Names the way from a text to a vector. Who changes it (tokens, the model's
# arithmetic, pooling) by more than rounding adds one here: otherwise stored
# vectors of both ways mix in a run.
REVISION = 2


class SmolLM2:
  """Hidden states of the frozen SmolLM2-135M-Instruct after `layer` blocks.

  A row is `<|endoftext|>`, then the text's tokens (control tokens in it are
  spelled out, not obeyed). The first token of any row becomes an attention
  sink, with a norm of 10 to 200 times the others' (Xiao et al. 2023,
  arXiv:2309.17453), so one is given that is not pooled, and every token is
  divided by its rms before `pooling` = "mean" over tokens or "last" token.
  Vectors have length 1 and are rounded to float16, cold or warm.

  The same text gives the same bits whatever its neighbours, order or history:
  every row runs alone in a fixed shape, from float32 weights. That holds for
  one machine, thread count and version of jax; a vector once stored is kept,
  until `REVISION` says that vectors are made in another way.
  """

  def __init__(
    self,
    layer: int = 8,
    pooling: str = "mean",
    context: int = 512,  # tokens of a text; what is longer is cut and counted
    batch: int = 128,  # tokens a call, padding included
    folder: str | os.PathLike | None = None,  # of the store
  ):
    config = llama.VARIANTS[_MODEL]
    if not 1 <= layer <= config.layers:
      raise ValueError(f"layer {layer} of {_MODEL}: 1 to {config.layers}")
    names.check("pooling", pooling, _POOLING)
    if not 1 <= context < config.context:
      raise ValueError(
        f"context {context} of {_MODEL}: 1 to {config.context - 1} tokens"
      )
    if batch < 1:
      raise ValueError(f"batch {batch} must be a positive number of tokens")
    self.layer, self.pooling = layer, pooling
    self.context, self.batch = context, batch
    self.width = config.width
    digest = weights.SOURCES[_MODEL].sha256[:8]
    self.name = (
      f"{_MODEL}-{digest}-layer{layer}-{pooling}-context{context}-batch{batch}"
      f"-v{REVISION}"
    )
    self.tokens_sent = 0
    self.truncated = 0
    self._rows: dict[bytes, np.ndarray] = {}  # float16
    folder = pathlib.Path(folder or weights.cache_dir() / "embeddings")
    self._store = Store(folder / f"{self.name}.sqlite", self.width)
    self._lock = threading.Lock()

  def embed(self, texts: Sequence[str]) -> Float[np.ndarray, "n width"]:
    _check(texts)
    keys = [_key(text) for text in texts]
    with self._lock:
      new = {k: t for k, t in zip(keys, texts) if k not in self._rows}
      self._rows |= self._store.get(new)
      self._run([(k, t) for k, t in new.items() if k not in self._rows])
      out = np.empty((len(texts), self.width), np.float32)
      for i, key in enumerate(keys):
        out[i] = self._rows[key]
    return out

  def _run(self, texts: list[tuple[bytes, str]]) -> None:
    """Sends texts through the model; rows reach disk every few calls."""
    if not texts:
      return
    encoded = _tokenizer().encode_batch(
      # A lone surrogate has no UTF-8: it is read as "?".
      [t.encode("utf-8", "replace").decode() for _, t in texts]
    )
    by_length: dict[int, list[tuple[bytes, list[int]]]] = {}
    for (key, _), e in zip(texts, encoded):
      self.truncated += len(e.ids) > self.context
      ids = [_SINK, *e.ids[: self.context]]
      length = next(b for b in BUCKETS if b >= len(ids))
      by_length.setdefault(length, []).append((key, ids))
    unsaved: dict[bytes, np.ndarray] = {}
    for length, rows in sorted(by_length.items()):
      B = max(1, self.batch // length)
      for i in range(0, len(rows), B):
        chunk = rows[i : i + B]
        unsaved |= self._forward(chunk, B, length)
        if len(unsaved) >= 256:
          self._keep(unsaved)
          unsaved = {}
    self._keep(unsaved)

  def _keep(self, rows: Mapping[bytes, np.ndarray]) -> None:
    self._store.put(rows)
    self._rows |= rows

  def _forward(
    self, chunk: list[tuple[bytes, list[int]]], B: int, T: int
  ) -> dict[bytes, np.ndarray]:
    tokens = np.zeros((B, T), np.int32)
    length = np.zeros(B, np.int32)
    for i, (_, ids) in enumerate(chunk):
      tokens[i, : len(ids)], length[i] = ids, len(ids)
    vectors, params = _model(self.layer, self.pooling)
    out = np.asarray(vectors(params, tokens, length)).astype(np.float16)
    if not np.isfinite(out[: len(chunk)]).all():
      raise ValueError(f"{_MODEL} gave a vector that is not finite")
    self.tokens_sent += int(length.sum())
    return {key: out[i] for i, (key, _) in enumerate(chunk)}


_MODEL = "smollm2-135m"
_SINK = 0  # <|endoftext|>, which parted documents in pretraining


def _mean(x, length_B, pooled_BT):
  w = pooled_BT / jnp.maximum(length_B - 1, 1)[:, None]
  return jnp.einsum("btd,bt->bd", x, w, precision="highest")


def _last(x, length_B, pooled_BT):
  at = jnp.maximum(length_B - 1, 0)[:, None, None]
  x = jnp.take_along_axis(x, at, axis=1)[:, 0]
  return jnp.where((length_B > 1)[:, None], x, 0.0)


_POOLING = {"mean": _mean, "last": _last}


@functools.cache
def _tokenizer():
  tokenizer = weights.tokenizer(_MODEL)
  tokenizer.encode_special_tokens = True  # texts are data, never control
  return tokenizer


@functools.lru_cache(maxsize=2)
def _model(layer: int, pooling: str):
  """(vectors, params), when a text is met that no cache holds."""
  policy, params = weights.load(_MODEL, layers=layer)

  @jax.jit
  def vectors(params, tokens_BT, length_B):
    B, T = tokens_BT.shape
    at_BT = jnp.broadcast_to(jnp.arange(T)[None], (B, T))
    inside_BT = at_BT < length_B[:, None]
    x, _ = policy.hidden(params, tokens_BT, at_BT, inside_BT.astype(int))
    v = _POOLING[pooling](base.rms(x), length_B, inside_BT & (at_BT > 0))
    # An empty text has no tokens to pool: zeros, like `hashed`.
    return v / jnp.maximum(jnp.linalg.norm(v, axis=-1, keepdims=True), 1e-6)

  return vectors, jax.device_put(params)


class Store:
  """Rows of float16 on disk by a text's key; one SQLite file an embedder.

  SQLite makes a killed writer and several processes safe; a checksum a row
  finds bits that changed afterwards. A damaged row is forgotten, a damaged
  file is set aside, both with a warning: rows can always be made again.
  """

  def __init__(self, path: pathlib.Path, width: int):
    self.path, self._size = path, 2 * width
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
      raise self._unusable(e) from e
    self._db = self._guard(self._open)

  def get(self, keys: Iterable[bytes]) -> dict[bytes, np.ndarray]:
    """The rows that are here, of those asked for."""
    return self._guard(lambda: self._get(list(keys)))

  def put(self, rows: Mapping[bytes, np.ndarray]) -> None:
    """Adds rows in one transaction."""
    if rows:
      self._guard(lambda: self._put(rows))

  def _open(self) -> sqlite3.Connection:
    # The timeout is for writers in other processes; the embedder's lock is for
    # other threads.
    db = sqlite3.connect(self.path, timeout=60, check_same_thread=False)
    db.execute(
      "CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY, row BLOB)"
    )
    db.commit()
    return db

  def _get(self, keys: list[bytes]) -> dict[bytes, np.ndarray]:
    found, bad = {}, []
    for i in range(0, len(keys), 500):
      some = keys[i : i + 500]
      marks = ",".join("?" * len(some))
      query = f"SELECT key, row FROM rows WHERE key IN ({marks})"
      for key, blob in self._db.execute(query, some):
        data, sum_ = blob[:-4], int.from_bytes(blob[-4:], "little")
        if len(data) == self._size and zlib.crc32(key + data) == sum_:
          found[key] = np.frombuffer(data, "<f2")
        else:
          bad.append(key)
    if bad:
      warnings.warn(
        f"{len(bad)} damaged rows in {self.path} are made again", stacklevel=4
      )
    return found

  def _put(self, rows: Mapping[bytes, np.ndarray]) -> None:
    def blob(key: bytes, row: np.ndarray) -> bytes:
      data = row.astype("<f2").tobytes()
      return data + zlib.crc32(key + data).to_bytes(4, "little")

    with self._db:
      self._db.executemany(
        "INSERT OR REPLACE INTO rows VALUES (?, ?)",
        [(key, blob(key, row)) for key, row in rows.items()],
      )

  def _guard(self, act: Callable[[], Any]) -> Any:
    try:
      return act()
    except sqlite3.OperationalError as e:  # locked, full, read-only, ...
      raise self._unusable(e) from e
    except sqlite3.DatabaseError as e:
      aside = self.path.with_suffix(f".damaged-{os.getpid()}")
      warnings.warn(
        f"damaged embedding store {self.path} ({e}): set aside as"
        f" {aside.name}, its rows are made again",
        stacklevel=4,
      )
      for end in ("", "-journal"):  # the journal would be replayed on the new
        with contextlib.suppress(FileNotFoundError):  # another process was here
          os.replace(f"{self.path}{end}", f"{aside}{end}")
      self._db = self._open()
      return self._db if act == self._open else act()

  def _unusable(self, e: Exception) -> ValueError:
    return ValueError(
      f"cannot use the embedding store {self.path}: {e}; free it, or name"
      " another folder (JAX_CL_CACHE, or the embedder's option `folder`)"
    )


EMBEDDERS: dict[str, Callable[..., Embedder]] = {
  "hashed": Hashed,
  "smollm2": SmolLM2,
}
