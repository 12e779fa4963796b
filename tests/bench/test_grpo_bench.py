"""What the benchmark times is the update: loss and gradient equal torch's."""

import json
import sys

import numpy as np
import pytest

from jax_cl.bench import __main__ as command
from jax_cl.bench import grpo as bench
from jax_cl.policies import llama

SIZES = {"rows": 3, "prompt": 6, "new": 4}


@pytest.fixture(autouse=True)
def small(monkeypatch):
  make = lambda: llama.make("tiny", layers=1)
  monkeypatch.setitem(bench.SHAPES, "tiny", make)
  # Our process compiles in half the time.
  monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")


def torchs(case):
  """(loss, norm of its gradient), written down once more, with torch."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  model = transformers.AutoModelForCausalLM.from_pretrained(case.model)
  with np.load(case.rows) as file:
    ids, old, adv = (torch.tensor(file[k]) for k in ("ids", "logp_old", "adv"))
  logits = model(ids).logits[:, case.prompt - 1 : -1]
  logp = torch.log_softmax(logits, -1)
  logp = logp.gather(-1, ids[:, case.prompt :, None])[..., 0]
  ratio, adv = torch.exp(logp - old), adv[:, None]
  bounded = torch.clamp(ratio, 0.8, 1.2)
  assert 0 < (ratio != bounded).float().mean() < 1  # the clip is at work
  loss = -torch.minimum(ratio * adv, bounded * adv).mean()
  loss.backward()
  square = sum((p.grad**2).sum() for p in model.parameters())
  return loss.item(), square.item() ** 0.5


def test_without_trl_our_side_is_measured_alone(tmp_path, capsys):
  out = tmp_path / "rows.json"
  flags = [f"--{k}={v}" for k, v in SIZES.items()]
  flags += ["--shapes=tiny", "--kinds=shared", "--repeats=1"]
  flags += ["--peers=nowhere/python", f"--out={out}"]
  assert command.main(["grpo", *flags]) == 0
  said = capsys.readouterr().out.splitlines()[0]
  assert "nowhere/python" in said and "make peers" in said
  (row,) = json.loads(out.read_text())
  assert row["shape"] == "tiny" and row["prompt"] == "shared"
  for key in ("peer_s", "peer_gib", "lean_s", "ratio", "ratio_lean"):
    assert row[key] is None
  assert row["ours_s"] > 0 and row["ours_gib"] > 0
  case = bench.case("tiny", tmp_path, **SIZES)  # the same again
  got = row["ours_loss"], row["ours_norm"]
  np.testing.assert_allclose(got, torchs(case), rtol=1e-4)


def test_a_side_that_ends_is_told_with_its_last_words():
  case = bench.Case("", "", 0)
  command = [sys.executable, "-c", "raise SystemExit('out of cheese')"]
  with bench._Side("TRL", command, case) as side:
    with pytest.raises(RuntimeError, match="process of TRL ended.*cheese"):
      side.update()


def test_ratios_are_theirs_over_ours():
  class Side:
    def __init__(self, *seconds):
      self.seconds = [99, *seconds]  # the first compiles

    def update(self):
      return {"s": self.seconds.pop(0), "loss": 0.5, "norm": 2.0}

    def peak_gib(self):
      return 1.5

  sides = {"peer": Side(6, 9, 30), "lean": Side(5, 6, 7), "ours": Side(1, 2, 3)}
  found = {k: bench._measure(x, repeats=3) for k, x in sides.items()}  # pyright: ignore
  row = bench._beside(found)
  assert (row["ours_s"], row["peer_s"], row["lean_s"]) == (2, 9, 6)
  assert row["ratio"] == 4.5 and row["ratio_lean"] == 3.0
  assert row["peer_loss"] == 0.5 and row["ours_gib"] == 1.5
  del found["peer"]
  assert bench._beside(found)["ratio"] is None
