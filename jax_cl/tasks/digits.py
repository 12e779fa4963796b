"""Small supervised streams on which methods are compared in seconds.

`permuted`: each domain is one classification problem under its own fixed
permutation of the features, so that all domains share inputs and outputs but
nothing else (domain-incremental). `split`: each domain holds some of the
classes, and one head names them all (class-incremental). No tau2 here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
  x: np.ndarray  # float32[n, features]
  y: np.ndarray  # int32[n]


Domain = dict[str, Split]  # "train", "val", "test"


def blobs(
  *,
  classes: int = 10,
  features: int = 16,
  train: int = 320,
  val: int = 80,
  test: int = 160,
  spread: float = 0.5,
  seed: int = 0,
) -> Domain:
  """Gaussian blobs: a class is a centre in [-1, 1]^features and noise."""
  rng = np.random.default_rng((seed, 0))
  centres = rng.uniform(-1, 1, (classes, features))
  out = {}
  for name, n in (("train", train), ("val", val), ("test", test)):
    y = rng.integers(0, classes, n)
    x = centres[y] + spread * rng.normal(size=(n, features))
    out[name] = Split(x.astype(np.float32), y.astype(np.int32))
  return out


def digits(*, hold_out: bool = False, seed: int = 0) -> Domain:
  """scikit-learn's 1797 8x8 images, / 16; a stratified quarter is the test.

  `val` is every fifth of the first 1280 train rows. It stays in train, as in
  the published numbers, which train on all of them; to choose by val,
  `hold_out` it. What is left then ends, as the whole does, in a batch of 3 of
  32 rows: SGD .1 on three rows is what many a stage's last weights come from.
  """
  from sklearn.datasets import load_digits
  from sklearn.model_selection import train_test_split

  del seed  # one split, the published one
  x, y = map(np.asarray, load_digits(return_X_y=True))
  x, x_test, y, y_test = map(
    np.asarray,
    train_test_split(
      (x / 16).astype(np.float32),
      y.astype(np.int32),
      test_size=0.25,
      random_state=0,
      stratify=y,
    ),
  )
  held = (np.arange(len(y)) % 5 == 0) & (np.arange(len(y)) < 1280)
  kept = ~held if hold_out else np.ones_like(held)
  return {
    "train": Split(x[kept], y[kept]),
    "val": Split(x[held], y[held]),
    "test": Split(x_test, y_test),
  }


def permuted(base: Domain, n_domains: int, seed: int = 0) -> list[Domain]:
  """Domain t > 0 permutes the features; domain 0 leaves them as they are.

  Permutations are drawn in order from `default_rng(1000 + seed)`.
  """
  rng = np.random.default_rng(1000 + seed)
  width = base["train"].x.shape[1]
  orders = [np.arange(width)]
  orders += [rng.permutation(width) for _ in range(n_domains - 1)]
  return [
    {k: Split(s.x[:, order], s.y) for k, s in base.items()} for order in orders
  ]


def split(base: Domain, n_domains: int, seed: int = 0) -> list[Domain]:
  """Domain t holds the t-th group of classes, in the order of the labels."""
  del seed
  classes = int(base["train"].y.max()) + 1
  if classes % n_domains:
    raise ValueError(
      f"{classes} classes do not divide into {n_domains} domains: set "
      "config.stream.n_domains to a divisor"
    )
  each = classes // n_domains
  mine = lambda s, t: s.y // each == t
  return [
    {k: Split(s.x[mine(s, t)], s.y[mine(s, t)]) for k, s in base.items()}
    for t in range(n_domains)
  ]
