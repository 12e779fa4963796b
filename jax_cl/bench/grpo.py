"""One update of GRPO: ours beside TRL's, same weights, ids and machine.

  make peers
  python -m jax_cl.bench grpo --out=FILE.json

`rows` answers of `new` sampled tokens to one prompt of `prompt` tokens, in
float32: the loss (clip .2, no KL), its gradient, clipped to norm 1, and a step
of AdamW. Weights and ids are random, and the same on both sides; losses and
norms of the gradient, `ours_*` and `peer_*`, say that both compute the same.

  plain   every row computes the prompt anew, as TRL's do; `micro` rows at a
          time, which costs a second forward pass and saves memory
  shared  the prompt is computed once (`agents.llm.make(shared=...)`)

Ours makes the logits of 16 positions at a time, and again on the way back.
`peer_s` is TRL as it is, but for checkpoints of activations: off, since they
cost a second forward pass of the layers, which ours has in `plain` alone. On a
CPU its head scores prompts, too, and drops the result; `lean_s` is TRL with
that left out, as on a GPU. ratio = peer_s / ours_s, and ratio_lean = lean_s /
ours_s.

Each side has a process of its own, one after another in one run: together they
do not fit into 24 GiB. After a first update, which compiles, and whose loss and
norm are told, `*_s` is the median of `repeats`. `*_gib` is the peak of a whole
process, nothing subtracted: the interpreter and its libraries, too. (VmHWM:
ru_maxrss would begin at what the parent held.)
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jax_cl import names
from jax_cl.bench.generate import SHAPES
from jax_cl.policies import hub

KINDS = ("plain", "shared")
SIDES = ("ours", "peer", "lean")
PEERS = pathlib.Path(".venv-peers/bin/python")  # `make peers` fills it
HERE = pathlib.Path(__file__).parent


class Case(NamedTuple):
  """What both sides are given; written as JSON."""

  model: str  # a hub folder
  rows: str  # .npz: ids int[B, T], logp_old f32[B, new], adv f32[B]
  prompt: int  # the first tokens of `ids`
  lr: float = 1e-5
  clip: float = 1.0  # norm of the gradient
  shared: bool = False  # ours alone
  micro: int = 0  # ours alone: rows at a time, 0: all


def run(
  shapes: Sequence[str] | str = tuple(SHAPES),
  kinds: Sequence[str] | str = KINDS,
  rows: int = 8,
  prompt: int = 512,
  new: int = 128,
  repeats: int = 3,
  micro: int = 2,
  peers: str = str(PEERS),
) -> Iterator[dict[str, Any]]:
  """Rows {shape, prompt, ours_s, ours_gib, peer_s, peer_gib, ratio, ...}; what
  is TRL's is None where it is not installed."""
  shapes = names.several("shape", shapes, SHAPES)
  kinds = names.several("prompt", kinds, KINDS)
  there = pathlib.Path(peers).is_file()
  if not there:
    print(f"no TRL: there is no {peers}; `make peers` builds it", flush=True)
  for shape in shapes:
    with tempfile.TemporaryDirectory() as folder:
      given = case(shape, pathlib.Path(folder), rows, prompt, new)
      given = given._replace(micro=micro)
      yield from _rows(shape, given, kinds, repeats, peers if there else "")


def _rows(
  shape: str, given: Case, kinds: Sequence[str], repeats: int, peers: str
) -> Iterator[dict[str, Any]]:
  """TRL's sides once, then ours for each row."""
  found = {}
  for name in SIDES[1:] if peers else ():
    command = [peers, "-P", str(HERE / "_grpo_trl.py")]
    with _Side("TRL", command, given, name) as side:
      found[name] = _measure(side, repeats)
  for kind in kinds:
    mine = given._replace(shared=kind == "shared")
    if mine.shared:  # a prompt is computed once for a micro-batch
      mine = mine._replace(micro=0)
    command = [sys.executable, "-m", "jax_cl.bench._grpo_ours"]
    with _Side("ours", command, mine) as side:
      found["ours"] = _measure(side, repeats)
    yield {"shape": shape, "prompt": kind, **_beside(found)}


def _measure(side: _Side, repeats: int) -> dict[str, Any]:
  """{s, gib, loss, norm} of one side: of updates behind the first."""
  first = side.update()
  seconds = [side.update()["s"] for _ in range(repeats)]
  return {**first, "s": statistics.median(seconds), "gib": side.peak_gib()}


def _beside(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
  """One row; what was not measured is None."""
  out: dict[str, Any] = {}
  for name in SIDES:
    for key in ("s", "gib", "loss", "norm"):
      out[f"{name}_{key}"] = found.get(name, {}).get(key)
  for name, ratio in (("peer", "ratio"), ("lean", "ratio_lean")):
    there = name in found
    out[ratio] = found[name]["s"] / found["ours"]["s"] if there else None
  return out


def case(
  shape: str, folder: pathlib.Path, rows: int, prompt: int, new: int
) -> Case:
  """Weights and rows, written where both sides read them."""
  policy = SHAPES[shape]()
  hub.write(folder, policy.config, jax.jit(policy.init)(jax.random.key(0)))
  rng = np.random.default_rng(0)
  vocab = policy.config.vocab
  ids = rng.integers(1, vocab, (rows, prompt + new), dtype=np.int64)
  ids[:, :prompt] = ids[0, :prompt]
  # Of logits of variance 1 about, so that ratios lie on both sides of the clip.
  logp = rng.normal(-0.5 - np.log(vocab), 0.2, (rows, new))
  adv = rng.normal(size=rows)
  np.savez(
    folder / "rows.npz",
    ids=ids,
    logp_old=logp.astype(np.float32),
    adv=adv.astype(np.float32),
  )
  return Case(str(folder), str(folder / "rows.npz"), prompt)


class _Side:
  """A process that does one update for each line that it is sent."""

  def __init__(
    self, name: str, command: Sequence[str], given: Case, *words: str
  ):
    self._name, self._errors = name, tempfile.TemporaryFile("w+")
    self._process = subprocess.Popen(
      [*command, json.dumps(given._asdict()), *words],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._errors,
      text=True,
    )

  def __enter__(self) -> _Side:
    return self

  def __exit__(self, *_) -> None:
    """The process ends with its input."""
    self._process.communicate()
    self._errors.close()

  def update(self) -> dict[str, float]:
    """{s, loss, norm} of one more update."""
    assert self._process.stdin and self._process.stdout
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.write("\n")
      self._process.stdin.flush()
    line = self._process.stdout.readline()
    if not line:
      self._errors.seek(0)
      said = self._errors.read().strip().splitlines()[-1:]
      raise RuntimeError(f"the process of {self._name} ended: {said}")
    return json.loads(line)

  def peak_gib(self) -> float | None:
    """The most memory that it ever held; None where no /proc tells."""
    try:
      text = pathlib.Path(f"/proc/{self._process.pid}/status").read_text()
    except OSError:
      return None
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", text)
    return int(kib) / 2**20
