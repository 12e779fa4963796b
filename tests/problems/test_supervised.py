"""Streams of rows: what a domain holds, what a stage trains on."""

import numpy as np
import pytest
import small

from jax_cl import build
from jax_cl.problems import supervised
from jax_cl.tasks import digits

MLP = {"name": "mlp", "args": {"hidden": [4]}}


def make(**options):
  return supervised.make(
    seed=0, batch_size=32, agent=MLP, data="digits", epochs=2, **options
  )


@pytest.fixture(scope="module")
def base():
  return digits.digits()


def test_the_published_split(base):
  assert [len(base[k].y) for k in ("train", "val", "test")] == [1347, 256, 450]
  assert base["train"].x.max() == 1 and base["train"].x.shape[1] == 64
  counts = np.bincount(base["test"].y)
  assert counts.min() >= 43 and counts.max() <= 46  # stratified


def test_val_can_be_held_out(base):
  held = digits.digits(hold_out=True)
  assert len(held["train"].y) == 1347 - 256
  assert 1347 % 32 == len(held["train"].y) % 32 == 3
  np.testing.assert_array_equal(held["val"].x, base["val"].x)
  seen = {x.tobytes() for x in held["train"].x}
  assert not any(x.tobytes() in seen for x in held["val"].x)


def test_permutations_are_drawn_in_order(base):
  found = digits.permuted(base, 3, seed=7)
  rng = np.random.default_rng(1007)
  np.testing.assert_array_equal(found[0]["test"].x, base["test"].x)
  for domain in found[1:]:
    order = rng.permutation(64)
    np.testing.assert_array_equal(domain["test"].x, base["test"].x[:, order])


def test_split_shares_the_classes_out(base):
  found = digits.split(base, 5)
  for t, domain in enumerate(found):
    assert set(domain["train"].y) == {2 * t, 2 * t + 1}
  assert sum(len(d["test"].y) for d in found) == 450
  with pytest.raises(ValueError, match="10 classes .* 3 domains"):
    digits.split(base, 3)


@pytest.mark.parametrize(
  "curriculum, stages",
  [
    ("sequential", ["part0", "part1"]),
    ("joint", ["part0+part1"]),
    ("cumulative", ["part0", "part0+part1"]),
  ],
)
def test_curricula(curriculum, stages):
  what = make(tasks="split", n_domains=2, curriculum=curriculum)
  assert [s.name for s in what.stages] == stages
  last, rows = what.stages[-1], what.demos(len(stages) - 1)
  assert len(rows.task) == len(last.train)
  assert last.steps == 2 * -(-len(rows.task) // 32)
  classes = set(rows.action[:, 0])
  assert classes == (set(range(10)) if "+" in last.name else {5, 6, 7, 8, 9})


def test_seeds_share_what_is_compiled():
  known, config = {}, small.config()
  found = []
  for seed, lr in ((0, 0.1), (1, 0.1), (1, 0.2)):
    config.seed, config.optim.lr = seed, lr
    what = build.problem(config)
    found.append(build.shared(config, what, known)[1])
  assert found[0] is found[1] and found[1] is not found[2]
  assert len(known) == 1
