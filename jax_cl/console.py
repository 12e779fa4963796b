"""What a person sees while a run goes on. Prints only; decides nothing.

  console = Console(verbose=False, log_interval=10, use_progress_bar=True)
  console.stage(0, "airline", n_train=24, n_val=6, n_test=20)
  with console.bar(0, "airline", total=100) as bar:
    for step in range(100):
      bar.step({"loss": loss, "reward": reward, "kl": kl})  # device scalars
  console.evaluation(0, 100, metrics.score(rows))
  console.table(0, {"airline": metrics.score(rows)})        # Score per domain
  console.transfer(0, metrics.after_stage(matrix[:2], own))
  console.replay("airline", method.report(cl, buffer))
  console.final(results, workdir)

A bar is drawn at most twice a second, and a compact line printed every
`log_interval` steps, with everything that was logged if `verbose`; only then
are the scalars fetched from the device, so that a step never waits for the
screen. Lines printed while a bar is open go through tqdm, which lifts the bar
out of their way. Where the stream is no terminal (a file, CI, a notebook), or
`use_progress_bar` is off, there are the lines alone.
"""

from __future__ import annotations

import math
import os
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

POSTFIX = ("loss", "reward", "kl")  # what a bar shows, in this order
_FORMAT = {"reward": ".3f"}  # everything else .4f
_REFRESH_S = 0.5
_BAR = (
  "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} "
  "[{elapsed}<{remaining}{postfix}]"
)
_REPLAY = ("total_replay_samples", "replay_samples_per_domain")


class Console:
  def __init__(
    self,
    verbose: bool = False,
    log_interval: int = 10,
    use_progress_bar: bool = True,
    stream: Any = None,  # a text stream; default: sys.stdout
  ):
    if log_interval < 1:
      raise ValueError(f"log_interval is {log_interval}; it must be 1 or more")
    self.verbose = verbose
    self.log_interval = log_interval
    self.stream = stream or sys.stdout
    isatty = getattr(self.stream, "isatty", lambda: False)
    self.bars = bool(use_progress_bar and isatty())

  def say(self, text: str = "") -> None:
    """One line (or several), above an open bar if there is one."""
    if self.bars:
      tqdm.write(text, file=self.stream)
    else:
      self.stream.write(text + "\n")
    self.stream.flush()

  def note(self, text: str) -> None:
    """A line for `verbose` runs."""
    if self.verbose:
      self.say(text)

  def stage(
    self, stage: int, name: str, n_train: int, n_val: int, n_test: int
  ) -> None:
    head = f"Task {stage}: {name.upper()}"
    self.say(
      f"\n{head:<26} ({n_train} train tasks, {n_val} val, {n_test} test)"
    )

  def bar(self, stage: int, name: str, total: int, start: int = 0) -> Bar:
    """A bar over the stage's steps; `start` > 0 when a run resumes."""
    return Bar(self, f"Task {stage} ({name})", total, start)

  def evaluation(
    self, stage: int, step: int, score: Mapping[str, Any], label: str = ""
  ) -> None:
    """The `[EVAL]` line; `score` is `metrics.score(rows)`."""
    where = f"Task {stage} Step {step}" + (f" {label}" if label else "")
    self.say(f"[EVAL] {where} | {_score(score, ' (standard error)')}")

  def table(self, stage: int, scores: Mapping[str, Mapping[str, Any]]) -> None:
    """A row a domain, after every stage (stage -1: before any training)."""
    when = f"after Task {stage}" if stage >= 0 else "before training"
    self.say(f"Backward Transfer Evaluation ({when})")
    width = max((len(d) for d in scores), default=0)
    for domain, score in scores.items():
      self.say(f"{domain:<{max(width, 10)}} | {_score(score)}")

  def transfer(self, stage: int, values: Mapping[str, float | None]) -> None:
    """The transfer metrics over the domains seen so far."""
    names = ("backward_transfer", "average_performance", "forgetting")
    shown = list(values) if self.verbose else [n for n in names if n in values]
    # An undefined metric (no earlier domain) is left out, not shown as 0.
    parts = [f"{n} {values[n]:.4f}" for n in shown if _is_number(values[n])]
    if parts:
      self.say(f"Transfer metrics after Task {stage}:  " + "  ".join(parts))

  def replay(self, domain: str, report: Mapping[str, Any]) -> None:
    """Statistics of a method with a memory; silent for one without."""
    if not all(k in report for k in _REPLAY):
      return
    total, per = (report[k] for k in _REPLAY)
    text = f"Experience replay, {domain}: {int(total)} replayed"
    if used := [f"{d} {int(n)}" for d, n in per.items() if n]:
      text += f" ({', '.join(used)})"
    held = {d: n for d, n in report.get("buffer_per_domain", {}).items() if n}
    if held:
      text += "; buffer " + ", ".join(f"{d} {int(n)}" for d, n in held.items())
    self.say(text)

  def final(
    self, results: Mapping[str, Any], workdir: Any, split: str = "test"
  ) -> None:
    """Matrix, metrics, floors, and where the files are."""
    scores = results[split]
    domains = results["domains"]
    width = max(10, *(len(d) for d in domains), 0)
    names = ["start"] + [s["name"] for s in results["stages"]]
    left = max(18, *(len(f"{i}: {n}") for i, n in enumerate(names)))
    self.say(f"\nReward on {split} after each stage (rows) by domain (columns)")
    self.say(" " * left + "".join(f"  {d:>{width}}" for d in domains))
    for i, row in enumerate(scores["matrix"]):
      name = "start" if i == 0 else f"{i - 1}: {names[i]}"
      cells = "".join(f"  {_cell(x):>{width}}" for x in row)
      self.say(f"{name:<{left}}{cells}")
    for name, per in (results.get("references") or {}).items():
      if per := per.get(split):
        cells = "".join(f"  {_cell(per.get(d)):>{width}}" for d in domains)
        self.say(f"{'(' + name + ')':<{left}}{cells}")
    self.say("")
    for name, value in scores["metrics"].items():
      interval = scores.get("intervals", {}).get(name)
      if _is_number(value):
        ends = f"  [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
        self.say(f"{name:<24} {value: .4f}{ends}")
    for name, value in (results.get("summary") or {}).items():
      self.say(f"{name:<24} {value: .4f}")
    if scores.get("intervals"):
      self.say("(brackets: 95% bootstrap over tasks; several runs: compare)")
    self.say(
      f"\nFiles are in {workdir}\n"
      "  report.html, report.md, matrix.png, curves.png   to look at\n"
      "  results.json                                     every number above\n"
      "  episodes.jsonl, metrics.jsonl, timing.jsonl      raw logs"
    )
    if pathlib.Path(workdir, "trajectories.jsonl").exists():
      self.say(
        "  trajectories.jsonl                               conversations"
      )
    command = f"python -m jax_cl.evaluate --workdir={workdir} --stage=0"
    self.say(f"  checkpoints/   {command}")


class Bar:
  """One stage's progress. `with console.bar(...) as bar: bar.step({...})`."""

  def __init__(self, console: Console, label: str, total: int, start: int):
    self._console = console
    self._label = label
    self._total = total
    self._n = start
    self._tqdm = None
    self._next = self._time = time.monotonic()
    if console.bars:
      self._tqdm = tqdm(
        desc=label,
        total=total,
        initial=start,
        file=console.stream,
        bar_format=_BAR,
        miniters=1 << 60,  # never by itself: `step` decides when
        **_columns(console.stream),
      )

  def __enter__(self) -> Bar:
    return self

  def __exit__(self, *exc) -> None:
    self.close()

  def step(self, values: Mapping[str, Any]) -> None:
    """One step done. Values may be device scalars; None or NaN is left out."""
    self._n += 1
    console = self._console
    last = self._n >= self._total
    if self._tqdm is not None:
      now = time.monotonic()
      if now >= self._next or last:
        self._draw(values)
        self._next = now + _REFRESH_S
    if self._n % console.log_interval == 0 or last:
      names = values if console.verbose else POSTFIX
      parts = [f"{k} {v}" for k, v in _shown(values, names)]
      seconds = time.monotonic() - self._time
      head = f"{self._label} {self._n}/{self._total}"
      console.say(" | ".join([head, *parts, f"{seconds:.1f} s"]))

  def close(self) -> None:
    if self._tqdm is not None:
      self._tqdm.close()
      self._tqdm = None

  def _draw(self, values: Mapping[str, Any]) -> None:
    assert self._tqdm is not None
    postfix = ", ".join(f"{k}: {v}" for k, v in _shown(values, POSTFIX))
    self._tqdm.n = self._n
    self._tqdm.set_postfix_str(postfix, refresh=False)
    self._tqdm.refresh()


def _columns(stream: Any) -> dict[str, Any]:
  """Follow the window, but a pseudo-terminal may say it is 0 by 0."""
  try:
    wide = os.get_terminal_size(stream.fileno()).columns > 0
  except (OSError, ValueError, AttributeError):
    wide = False
  return {"dynamic_ncols": True} if wide else {"ncols": 100, "nrows": 20}


def _is_number(x: Any) -> bool:
  return x is not None and math.isfinite(x)


def _cell(x: float | None) -> str:
  return f"{x:.3f}" if x is not None and math.isfinite(x) else "-"


def _shown(values: Mapping[str, Any], names) -> list[tuple[str, str]]:
  """(name, text) of scalars that have a value; only here are they fetched."""
  out = []
  for name in names:
    value = values.get(name)
    if value is None or getattr(value, "ndim", 0) or isinstance(value, str):
      continue
    if math.isfinite(number := float(value)):
      out.append((name, format(number, _FORMAT.get(name, ".4f"))))
  return out


def _score(score: Mapping[str, Any], unit: str = "") -> str:
  """`Reward: 0.423±0.134 | Pass: 42.3% | Tool Acc: 65.4%`."""
  reward, se = score.get("reward"), score.get("se")
  text = f"Reward: {_cell(reward)}"
  if _is_number(se):
    text += f"±{se:.3f}{unit}"
  for label, key in (("Pass", "pass"), ("Tool Acc", "tool_accuracy")):
    if _is_number(score.get(key)):
      text += f" | {label}: {100 * score[key]:.1f}%"
  if score.get("failures"):
    text += f" | {score['failures']} failed, not counted"
  return text
