"""What a person sees: the design's screen, word by word."""

import io
import re
import time

import numpy as np
import pytest

from jax_cl import metrics
from jax_cl.console import Console


class Terminal(io.StringIO):
  def isatty(self):
    return True


AIRLINE = {"reward": 0.423, "se": 0.134, "pass": 0.423, "tool_accuracy": 0.654}
RETAIL = {"reward": 0.389, "se": 0.145, "pass": 0.389, "tool_accuracy": 0.623}


def screen(stream, width=100):
  """What is left to read: \\r returns to the line's start and overwrites."""
  lines = []
  for line in stream.getvalue().split("\n"):
    shown = ""
    for part in line.split("\r"):
      shown = part + shown[len(part) :]
    lines.append(shown.rstrip())
  return lines


def test_the_design_screen():
  out = io.StringIO()
  console = Console(stream=out)
  console.stage(0, "airline", 24, 6, 20)
  score = {"reward": 0.456, "se": 0.123, "pass": 0.456, "tool_accuracy": 0.678}
  console.evaluation(0, 100, score)
  console.table(1, {"airline": AIRLINE, "retail": RETAIL})
  nan = np.nan
  matrix = [[nan, nan], [0.456, nan], [0.423, 0.389]]
  console.transfer(1, metrics.after_stage(matrix))
  console.replay(
    "retail",
    {
      "total_replay_samples": 150,
      "replay_samples_per_domain": {"airline": 150, "retail": 0},
      "buffer_per_domain": {"airline": 320, "retail": 280},
    },
  )
  expected = """
Task 0: AIRLINE            (24 train tasks, 6 val, 20 test)
[EVAL] Task 0 Step 100 | Reward: 0.456±0.123 (standard error) | Pass: 45.6% | \
Tool Acc: 67.8%
Backward Transfer Evaluation (after Task 1)
airline    | Reward: 0.423±0.134 | Pass: 42.3% | Tool Acc: 65.4%
retail     | Reward: 0.389±0.145 | Pass: 38.9% | Tool Acc: 62.3%
Transfer metrics after Task 1:  backward_transfer -0.0330  \
average_performance 0.4060  forgetting 0.0330
Experience replay, retail: 150 replayed (airline 150); buffer airline 320, \
retail 280
"""
  assert out.getvalue() == expected


def test_undefined_is_left_out_and_failures_are_said():
  out = io.StringIO()
  console = Console(stream=out)
  console.transfer(0, {"backward_transfer": None, "average_performance": 0.5})
  assert out.getvalue() == (
    "Transfer metrics after Task 0:  average_performance 0.5000\n"
  )
  console.table(0, {"airline": {"reward": None, "failures": 3}})
  assert "Reward: - | 3 failed, not counted" in out.getvalue()
  console.replay("airline", {"lam": 1.0})  # a method without a memory
  assert "replay" not in out.getvalue()


def test_without_a_terminal_a_compact_line_an_interval():
  out = io.StringIO()
  with Console(log_interval=4, stream=out).bar(0, "airline", 10) as bar:
    for i in range(10):
      bar.step({"loss": np.float32(i), "reward": 0.5, "kl": None})
  lines = out.getvalue().splitlines()
  assert [re.sub(r"\| [\d.]+ s$", "|", x) for x in lines] == [
    "Task 0 (airline) 4/10 | loss 3.0000 | reward 0.500 |",
    "Task 0 (airline) 8/10 | loss 7.0000 | reward 0.500 |",
    "Task 0 (airline) 10/10 | loss 9.0000 | reward 0.500 |",
  ]


def test_use_progress_bar_off_means_lines_on_a_terminal_too():
  out = Terminal()
  console = Console(log_interval=5, use_progress_bar=False, stream=out)
  with console.bar(0, "a", 5) as bar:
    for _ in range(5):
      bar.step({"loss": 1.0})
  assert "\r" not in out.getvalue() and "a) 5/5 | loss" in out.getvalue()


def test_bar_shows_loss_reward_and_kl():
  out = Terminal()
  with Console(stream=out).bar(0, "airline", 100) as bar:
    for _ in range(100):
      bar.step({"loss": 2.1234, "reward": 0.456, "kl": 0.0123, "entropy": 1.0})
  last = screen(out)[-2]
  assert last.startswith("Task 0 (airline): 100%|")
  assert re.search(
    r"100/100 \[\d\d:\d\d<00:00, loss: 2.1234, reward: 0.456, kl: 0.0123\]$",
    last,
  )
  assert "entropy" not in out.getvalue()


def test_lines_and_an_open_bar_do_not_overwrite_each_other():
  out = Terminal()
  console = Console(stream=out)
  with console.bar(0, "airline", 4) as bar:
    for i in range(4):
      bar.step({"loss": float(i)})
      console.evaluation(0, i + 1, AIRLINE)
  lines = screen(out)
  evals = [x for x in lines if "[EVAL]" in x]
  assert len(evals) == 4
  for i, line in enumerate(evals):  # whole, and nothing of the bar behind it
    assert re.fullmatch(
      rf"\[EVAL\] Task 0 Step {i + 1} \| Reward: 0.423±0.134 "
      r"\(standard error\) \| Pass: 42.3% \| Tool Acc: 65.4%",
      line,
    )
  assert any(x.startswith("Task 0 (airline): 100%") for x in lines)


def test_a_bar_resumes_where_the_run_does():
  out = Terminal()
  with Console(stream=out).bar(1, "retail", 10, start=7) as bar:
    bar.step({"loss": 1.0})
  assert "70%" in out.getvalue()
  with Console(log_interval=5, stream=(out := io.StringIO())).bar(
    1, "retail", 10, start=7
  ) as bar:
    for _ in range(3):
      bar.step({"loss": 1.0})
  assert "retail) 10/10" in out.getvalue()


def test_scalars_are_fetched_only_to_be_shown():
  """A step must not wait for the device because of the screen."""

  class Scalar:
    ndim = 0
    fetched = 0

    def __float__(self):
      Scalar.fetched += 1
      return 1.0

  console = Console(log_interval=500, stream=(out := Terminal()))
  with console.bar(0, "a", 1000) as bar:
    start = time.monotonic()
    for _ in range(999):
      bar.step({"loss": Scalar()})
    passed = time.monotonic() - start
  assert 2 <= Scalar.fetched <= 3 + passed / 0.5
  # On a terminal, too, a compact line an interval stays, above the bar.
  kept = [x for x in screen(out) if x.startswith("Task 0 (a) 500/1000 | ")]
  assert len(kept) == 1 and re.search(r"\| loss 1.0000 \| \d+.\d s$", kept[0])

  Scalar.fetched = 0
  with Console(log_interval=10, stream=io.StringIO()).bar(0, "a", 100) as bar:
    for _ in range(95):
      bar.step({"loss": Scalar()})
  assert Scalar.fetched == 9


def test_verbose_lists_everything_logged():
  out = io.StringIO()
  console = Console(verbose=True, log_interval=1, stream=out)
  with console.bar(0, "a", 1) as bar:
    bar.step({"loss": 1.0, "entropy": 0.25, "per_domain": np.zeros(3)})
  assert "entropy 0.2500" in out.getvalue()
  assert "per_domain" not in out.getvalue()
  console.note("seen")
  Console(stream=out).note("not seen")
  assert out.getvalue().endswith("seen\n")
  assert "not seen" not in out.getvalue()


def test_final_has_matrix_floors_metrics_and_files():
  out = io.StringIO()
  results = {
    "domains": ["airline", "retail"],
    "stages": [{"name": "airline"}, {"name": "retail"}],
    "references": {"do_nothing": {"test": {"airline": 0.3, "retail": 0.05}}},
    "test": {
      "matrix": [[0.1, None], [0.456, 0.05], [0.423, 0.389]],
      "metrics": {"forgetting": 0.033, "fwt_zero_shot": None},
      "intervals": {"forgetting": [-0.1, 0.2]},
    },
  }
  Console(stream=out).final(results, "runs/x")
  lines = out.getvalue().splitlines()
  assert [x.split() for x in lines[2:7]] == [
    ["airline", "retail"],
    ["start", "0.100", "-"],
    ["0:", "airline", "0.456", "0.050"],
    ["1:", "retail", "0.423", "0.389"],
    ["(do_nothing)", "0.300", "0.050"],
  ]
  assert "forgetting                0.0330  [-0.100, 0.200]" in lines
  assert "fwt_zero_shot" not in out.getvalue()
  assert "Files are in runs/x" in lines
  assert "jax_cl.evaluate --workdir=runs/x --stage=0" in lines[-1]


def test_bad_interval_is_refused():
  with pytest.raises(ValueError, match="log_interval is 0"):
    Console(log_interval=0)
