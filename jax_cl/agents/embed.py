"""phi(text): one vector a text, from hashed n-grams or from a frozen LLM.

`make(name, **args)` gives an `Embedder`. Vectors depend on the text alone, so
they are cached by content: a text met twice costs nothing the second time.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import inspect
import math
import re
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Float


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
  if name not in EMBEDDERS:
    raise ValueError(_unknown("embedder", name, EMBEDDERS))
  known = inspect.signature(EMBEDDERS[name]).parameters
  for key in args:
    if key not in known:
      raise ValueError(_unknown(f"option of embedder {name!r}", key, known))
  return EMBEDDERS[name](**args)


def _unknown(what: str, name: str, known) -> str:
  near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)
  return (
    f"unknown {what}: {name!r}; known: {', '.join(sorted(known))}"
    f" (nearest: {near[0]!r})"
  )


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


EMBEDDERS: dict[str, Callable[..., Embedder]] = {"hashed": Hashed}
