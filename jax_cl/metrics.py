"""Metrics of a stream, in numpy, from raw logs: no JAX, no rerun.

  python -m jax_cl.metrics --workdir=runs/quickstart   # redo results.json

**Matrix.** R[i, j] is the score on domain j after stage i = 1..T; R[0, j] is
the starting policy. Code, screens and `--stage` count stages from 0, so stage
k is row k + 1 and the starting row is stage -1. `own[j]` is the row of the
first stage that trains on domain j (0: none does). A metric is a function
`(matrix [..., T+1, N], own) -> [...]` over the domains seen so far; it is NaN
where it is undefined (joint and interleaved streams have no earlier domain)
and null in JSON. A missing evaluation makes what needs it NaN, never a guess.

**Files of a run**, all written by `train`:

`run.json` says what the run is, before its first step:
  {"name": ..., "method": "replay", "seed": 0, "curriculum": "sequential",
   "domains": ["airline", "retail"],              # columns of R
   "stages": [{"name": "airline", "domains": ["airline"], "steps": 100,
               "clone_steps": 60}, ...],
   "protocol": {...},                             # tasks.protocol.describe()
   "references": {"do_nothing": {"test": {"airline": .3}}, "oracle": ...}}
`references` are scores of fixed policies by split and domain: floors (do
nothing, always transfer) and ceilings (oracle); `references_write` the same on
tasks that require a write. Other keys are carried along.

`episodes.jsonl` has one row an episode:
  {"phase": "eval" | "train", "stage": int,       # -1: before any training
   "step": int,                                   # since the stream began
   "domain": str, "split": "train" | "val" | "test", "task_id": str,
   "trial": int, "reward": float, "parts": {...}, "pass": bool,
   "requires_write": bool, "termination": str, "failure": str,
   "tool_calls": int, "tool_hits": int, "arg_hits": int,  # `tool_counts`
   "n_turns": int, ...}
R's row k + 1 comes from the "eval" rows of stage k with that split's largest
`step` in that stage; earlier steps of a stage only make curves. A row whose
`failure` is set (user or environment broke) is counted and left out, never 0.

`results.json` is what this module makes of the two (`results`).

`episodes.jsonl.gz` may stand for `episodes.jsonl`. Rows that follow each other
and have much in common may be one line there, {"same": {key: value}, "each":
{key: [a value a row]}}, which takes a tenth of the place and the time.
"""

from __future__ import annotations

import functools
import gzip
import json
import math
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from jax_cl import shell

Row = Mapping[str, Any]
Run = Mapping[str, Any]
Matrix = npt.ArrayLike  # float[..., T+1, N]; None in a list is NaN
Own = npt.ArrayLike | None  # int[N]; default 1..N, a domain a stage
Value = Float[np.ndarray, "*b"] | float  # one of a matrix, or of each

# ------------------------------------------------------- formulas, one matrix


def average_performance(matrix: Matrix, own: Own = None) -> Value:
  """1/T sum_j R[T, j], over the domains seen by stage T."""
  R, own = _check(matrix, own)
  return _mean(R[..., -1, _seen(R, own)])


def backward_transfer(matrix: Matrix, own: Own = None) -> Value:
  """1/(T-1) sum_{j<T} (R[T, j] - R[j, j]).

  Lopez-Paz & Ranzato 2017, https://arxiv.org/abs/1706.08840, eq. 3.
  """
  R, own = _check(matrix, own)
  j = _earlier(R, own)
  return _mean(R[..., -1, j] - R[..., own[j], j])


def forgetting(matrix: Matrix, own: Own = None) -> Value:
  """1/(T-1) sum_{j<T} (max_{1<=l<T} R[l, j] - R[T, j]).

  Chaudhry et al. 2018, https://arxiv.org/abs/1801.10112, eq. 3. May be
  negative; the maximum over noisy evaluations biases it upward.
  """
  R, own = _check(matrix, own)
  j = _earlier(R, own)
  return _mean(_max(R[..., 1:-1, j]) - R[..., -1, j])


def fwt_zero_shot(matrix: Matrix, own: Own = None) -> Value:
  """1/(T-1) sum_{j>=2} (R[j-1, j] - R[0, j]), before j is trained on.

  Lopez-Paz & Ranzato 2017, eq. 4. Their baseline is a random initialisation;
  ours is the starting policy, row 0.
  """
  R, own = _check(matrix, own)
  j = np.flatnonzero((own >= 2) & (own < R.shape[-2]))
  return _mean(R[..., own[j] - 1, j] - R[..., 0, j])


def learning_gain(matrix: Matrix, own: Own = None) -> Value:
  """1/T sum_t (R[t, t] - R[0, t]).

  Called forward transfer in some designs; it trains on t, so it is not.
  """
  R, own = _check(matrix, own)
  j = _seen(R, own)
  return _mean(R[..., own[j], j] - R[..., 0, j])


def performance_on_previous(matrix: Matrix, own: Own = None) -> Value:
  """1/(T-1) sum_{j<T} R[T, j]; some call this level backward transfer."""
  R, own = _check(matrix, own)
  return _mean(R[..., -1, _earlier(R, own)])


def forgetting_all(matrix: Matrix, own: Own = None) -> Value:
  """1/T sum_j max_{1<=t<=T} (R[t, j] - R[T, j]).

  Over all stages and all domains, the last included, so it is never negative
  and (T-1)/T of `forgetting` when every earlier domain forgets.
  """
  R, own = _check(matrix, own)
  j = _seen(R, own)
  return _mean(_max(R[..., 1:, j]) - R[..., -1, j])


def plasticity(matrix: Matrix, own: Own = None) -> Value:
  """1/T sum_j R[j, j]: how well each domain was learnt in its own stage."""
  R, own = _check(matrix, own)
  j = _seen(R, own)
  return _mean(R[..., own[j], j])


def current_performance(matrix: Matrix, own: Own = None) -> Value:
  """Mean score on the domains whose own stage is T; NaN if T brought none."""
  R, own = _check(matrix, own)
  return _mean(R[..., -1, np.flatnonzero(own == R.shape[-2] - 1)])


METRICS: dict[str, Callable[..., Value]] = {
  f.__name__: f
  for f in (
    average_performance,
    backward_transfer,
    forgetting,
    fwt_zero_shot,
    learning_gain,
    performance_on_previous,
    forgetting_all,
    plasticity,
    current_performance,
  )
}


def after_stage(matrix: Matrix, own: Own = None) -> dict[str, float | None]:
  """Every metric of METRICS after the matrix's last row; None if undefined."""
  return {k: _or_none(f(matrix, own)) for k, f in METRICS.items()}


def history(matrix: Matrix, own: Own = None) -> list[dict[str, float | None]]:
  """`after_stage` for each stage in turn, the formulas with T := i."""
  R, own = _check(matrix, own)
  return [after_stage(R[: i + 1], own) for i in range(1, len(R))]


# ------------------------------------------- formulas that need another run


def transfer_vs_independent(
  matrix: Matrix, independent: Matrix, own: Own = None
) -> Value:
  """1/T sum_t (R[t, t] - R_independent[t, t]).

  `independent` holds a run in which every stage began from the starting
  policy. Positive: what came before helped.
  """
  return plasticity(matrix, own) - plasticity(independent, own)


def intransigence(
  matrix: Matrix, joint: npt.ArrayLike, own: Own = None
) -> Value:
  """1/T sum_k (R_joint[k] - R[k, k]); `joint` is that run's last row.

  Chaudhry et al. 2018, eq. 5, there per task: inability to learn.
  """
  R, own = _check(matrix, own)
  j = _seen(R, own)
  return _mean(np.asarray(joint)[..., j] - R[..., own[j], j])


def auc(curve: Sequence[Sequence[Any]]) -> float:
  """Area under [(step, score), ...] by trapezoids, over its span of steps."""
  if len(curve) < 2 or curve[0][0] == curve[-1][0]:
    return math.nan
  x, y = np.asarray([p[:2] for p in curve], float).T
  return float(np.trapezoid(y, x) / (x[-1] - x[0]))


def forward_transfer_auc(auc_i: float, auc_i_single: float) -> float:
  """(AUC_i - AUC_i_single) / (1 - AUC_i_single) of a domain's own stage.

  Continual World (Wolczyk et al. 2021, https://arxiv.org/abs/2105.10919,
  sec. 4.2): the curve while i is trained on, against training on i alone.
  """
  if auc_i_single >= 1:
    return math.nan
  return (auc_i - auc_i_single) / (1 - auc_i_single)


def pass_hat_k(passed: Sequence[int], trials: Sequence[int], k: int) -> float:
  """Mean over tasks of C(c, k) / C(n, k): k tries of a task all pass.

  Yao et al. 2024 (tau-bench), https://arxiv.org/abs/2406.12045. `passed` is c
  and `trials` n per task; a task tried fewer than k times makes it NaN.
  """
  if len(passed) == 0 or min(trials) < k:
    return math.nan
  return float(
    np.mean(
      [
        math.comb(c, k) / math.comb(n, k)
        for c, n in zip(passed, trials, strict=True)
      ]
    )
  )


def pass_estimates(
  rows: Iterable[Row], ks: Sequence[int] = (1, 2, 3, 4), n: int = 2000
) -> dict[int, Estimate]:
  """pass^k of one domain's episodes, with 95% intervals over its tasks.

  A k for which a task was not tried often enough is left out. Every k is of the
  same draws of tasks.
  """
  passed: dict[str, list[bool]] = {}
  for r in rows:
    if not r.get("failure"):
      passed.setdefault(r["task_id"], []).append(bool(r["pass"]))
  tasks = list(passed.values())
  if not tasks:
    return {}
  out = {}
  for k in ks:
    if k <= min(map(len, tasks)):
      each = [pass_hat_k([sum(t)], [len(t)], k) for t in tasks]
      low, high = _over_tasks(np.array(each), n)
      out[k] = Estimate(float(np.mean(each)), low, high, math.nan, 1)
  return out


def _over_tasks(values: Float[np.ndarray, " n"], resamples: int):
  """(low, high): 95% of a mean over tasks, which are drawn again. Means of the
  same tasks are of the same draws."""
  n = len(values)
  counts = np.random.default_rng(0).multinomial(n, [1 / n] * n, resamples)
  low, high = np.percentile(counts @ values / n, [2.5, 97.5])
  return float(low), float(high)


# ----------------------------------------------------------------- tool calls


def tool_counts(
  calls: Iterable[tuple[str, Mapping[str, Any]]],
  gold: Iterable[tuple[str, Mapping[str, Any], Sequence[str] | None]],
  read_tools: Iterable[str],
) -> tuple[int, int, int]:
  """(calls, name hits, argument hits) of one episode, look-ups left out.

  `calls` are the agent's (name, arguments), `gold` its (name, arguments,
  compare_args). A call hits if its name is among the gold actions not yet
  matched, each of which is matched once; of two gold actions of one name that
  whose compared arguments agree is matched first. Tool-selection accuracy is
  name hits / calls, argument accuracy argument hits / name hits, both summed
  over episodes first. Arguments are compared as tau2's
  `Action.compare_with_tool_call` does: None compares all that the call has,
  an empty list nothing.
  """
  reads = set(read_tools)
  calls = [c for c in calls if c[0] not in reads]
  left = list(gold)
  exact, rest = 0, []
  for call in calls:
    found = next((g for g in left if _same_call(call, g)), None)
    if found is None:
      rest.append(call)
    else:
      left.remove(found)
      exact += 1
  hits = exact
  names = [g[0] for g in left]
  for name, _ in rest:
    if name in names:
      names.remove(name)
      hits += 1
  return len(calls), hits, exact


def _same_call(call, gold) -> bool:
  (name, args), (gold_name, gold_args, compared) = call, gold
  if name != gold_name:
    return False
  keys = list(args) if compared is None else compared
  pick = lambda xs: {k: v for k, v in xs.items() if k in keys}
  return not keys or pick(args) == pick(gold_args)


# ------------------------------------------------------------------ raw logs


def read_rows(path: str | pathlib.Path) -> list[dict[str, Any]]:
  """Rows of a `.jsonl` or a packed `.jsonl.gz`; a last line cut short by a kill
  is left out."""
  data = pathlib.Path(path).read_bytes()
  if str(path).endswith(".gz"):
    data = gzip.decompress(data)
  lines = data.decode().split("\n")
  rows = []
  for n, line in enumerate(lines):
    if not line:
      continue
    try:
      rows += _unpacked(json.loads(line))
    except json.JSONDecodeError as e:
      if n == len(lines) - 1:
        break
      raise ValueError(f"{path}, line {n + 1}: not JSON ({e})") from e
  return rows


def _unpacked(line: dict[str, Any]) -> list[dict[str, Any]]:
  """The rows that a line stands for."""
  if line.keys() != {"same", "each"}:
    return [line]
  same, each = line["same"], line["each"]
  values = zip(*each.values(), strict=True)
  return [{**same, **dict(zip(each, v))} for v in values]


def score(rows: Iterable[Row]) -> dict[str, Any]:
  """What one table row shows of episodes of one domain and stage.

  `se` is the standard error over tasks, each task the mean of its trials.
  """
  rows = list(rows)
  ok = [r for r in rows if not r.get("failure")]
  tasks: dict[str, list[float]] = {}
  for r in ok:
    tasks.setdefault(r["task_id"], []).append(float(r["reward"]))
  means = np.array([sum(v) / len(v) for v in tasks.values()])
  n = len(means)
  called = [r for r in ok if r.get("tool_calls")]
  calls, hits, args = (
    sum(r.get(k, 0) for r in called)
    for k in ("tool_calls", "tool_hits", "arg_hits")
  )
  return {
    "reward": _or_none(means.mean()) if n else None,
    "se": float(means.std(ddof=1) / math.sqrt(n)) if n > 1 else None,
    "pass": float(np.mean([bool(r["pass"]) for r in ok])) if ok else None,
    "tool_accuracy": hits / calls if calls else None,
    "argument_accuracy": args / hits if hits else None,
    "tasks": n,
    "episodes": len(ok),
    "failures": len(rows) - len(ok),
  }


class Panel(NamedTuple):
  """The final evaluations of one run: all that a bootstrap resamples."""

  domains: tuple[str, ...]  # columns
  tasks: tuple[tuple[str, ...], ...]  # per domain, sorted task ids
  scores: tuple[np.ndarray, ...]  # per domain, float[T+1, tasks], NaN: missing
  own: np.ndarray  # int[N], see the module's head

  def matrix(self) -> Float[np.ndarray, "rows N"]:
    return np.stack([_nanmean(s) for s in self.scores], axis=-1)


def own_stages(run: Run) -> np.ndarray:
  """int[N]: 1-based row of the first stage that trains on each domain, or 0."""
  first = {}
  for i, stage in enumerate(run["stages"], 1):
    for d in stage["domains"]:
      first.setdefault(d, i)
  return np.array([first.get(d, 0) for d in run["domains"]], int)


def final_rows(
  rows: Iterable[Row], split: str
) -> dict[tuple[int, str], list[Row]]:
  """(stage, domain) -> "eval" rows of the stage's last evaluation on `split`.

  A row logged twice (a run killed between writing and saving) counts once.
  """
  cells: dict[tuple[int, str], dict] = {}
  for r in rows:
    if r["phase"] == "eval" and r["split"] == split:
      steps = cells.setdefault((r["stage"], r["domain"]), {})
      steps.setdefault(r["step"], {})[r["task_id"], r["trial"]] = r
  return {k: list(v[max(v)].values()) for k, v in cells.items()}


def panel(
  rows: Iterable[Row],
  run: Run,
  split: str = "test",
  value: Callable[[Row], float] = lambda r: float(r["reward"]),
  keep: Callable[[Row], bool] = lambda r: True,
) -> Panel:
  """Task means of `value` over the trials of the rows that `keep` lets by."""
  return _panel(final_rows(rows, split), run, value, keep)


def _panel(cells, run: Run, value, keep) -> Panel:
  """`panel` of `final_rows`."""
  tasks, scores = [], []
  for domain in run["domains"]:
    seen: dict[str, dict[int, list[float]]] = {}
    for i in range(len(run["stages"]) + 1):
      for r in cells.get((i - 1, domain), ()):
        if not r.get("failure") and keep(r):
          seen.setdefault(r["task_id"], {}).setdefault(i, []).append(value(r))
    ids = sorted(seen)
    table = np.full((len(run["stages"]) + 1, len(ids)), np.nan)
    for n, task in enumerate(ids):
      for i, values in seen[task].items():
        table[i, n] = sum(values) / len(values)
    tasks.append(tuple(ids))
    scores.append(table)
  return Panel(
    tuple(run["domains"]), tuple(tasks), tuple(scores), own_stages(run)
  )


def panels(rows: Iterable[Row], run: Run, split: str) -> tuple[Panel, Panel]:
  """(of all tasks, of those that require a write); one panel if all do."""
  cells = final_rows(rows, split)
  value = lambda r: float(r["reward"])
  writes = lambda r: r.get("requires_write", True)
  every = _panel(cells, run, value, lambda r: True)
  if all(writes(r) for some in cells.values() for r in some):
    return every, every
  return every, _panel(cells, run, value, writes)


def pass_matrix(
  rows: Iterable[Row], run: Run, k: int, split: str = "test"
) -> Float[np.ndarray, "rows N"]:
  """R^(k): `pass_hat_k` of every domain after every stage."""
  return _pass_matrix(final_rows(rows, split), run, k)


def _pass_matrix(cells, run: Run, k: int) -> Float[np.ndarray, "rows N"]:
  """`pass_matrix` of `final_rows`."""
  out = np.full((len(run["stages"]) + 1, len(run["domains"])), np.nan)
  for j, domain in enumerate(run["domains"]):
    for i in range(len(out)):
      counts: dict[str, list[bool]] = {}
      for r in cells.get((i - 1, domain), ()):
        if not r.get("failure"):
          counts.setdefault(r["task_id"], []).append(bool(r["pass"]))
      c = [sum(v) for v in counts.values()]
      out[i, j] = pass_hat_k(c, [len(v) for v in counts.values()], k)
  return out


def curves(
  rows: Iterable[Row], run: Run, split: str
) -> dict[str, list[list[Any]]]:
  """Domain -> [[step, reward, se], ...] of every evaluation on `split`.

  Where a stage's end and the next one's beginning share a step, the later
  evaluation stands.
  """
  points: dict[str, dict[int, dict]] = {d: {} for d in run["domains"]}
  for r in rows:
    if r["phase"] == "eval" and r["split"] == split and r["domain"] in points:
      at = points[r["domain"]].setdefault(r["step"], {})
      at[r["task_id"], r["trial"]] = r
  out = {}
  for domain, steps in points.items():
    scores = {s: score(at.values()) for s, at in sorted(steps.items())}
    out[domain] = [[s, x["reward"], x["se"]] for s, x in scores.items()]
  return out


# ---------------------------------------------------------------- uncertainty


class Estimate(NamedTuple):
  mean: float
  low: float  # of a 95% percentile interval
  high: float
  sd_runs: float  # between runs, ddof 1; NaN with one run
  runs: int


def bootstrap(
  panels: Sequence[Panel],
  metric: Callable[..., Value],
  baseline: Sequence[Panel] | None = None,
  baseline_metric: Callable[..., Value] | None = None,
  n: int = 2000,
  seed: int = 0,
) -> Estimate:
  """Mean of `metric` over runs, with an interval over tasks **and** runs.

  A replicate draws tasks within each domain and runs (seed x order), both with
  replacement; the same tasks for every run and stage, so that differences are
  paired on task ids. With `baseline` it is the difference panel - baseline of
  runs paired by position: one seed and order a pair. `metric` is any function
  of METRICS, or of (matrix [n, T+1, N], own), and `baseline_metric` (default:
  the same) that of the baseline.

  The interval of `forgetting` is for a statistic with an upward bias: each
  replicate takes its maxima over noise of its own.
  """
  tables = _resampled([*panels, *(baseline or ())], n, seed)
  mine, theirs = tables[: len(panels)], tables[len(panels) :]
  return _estimate(mine, metric, theirs, baseline_metric or metric, n, seed)


def bootstraps(
  panels: Sequence[Panel],
  metrics: Mapping[str, Callable[..., Value]],
  baseline: Sequence[Panel] | None = None,
  n: int = 2000,
  seed: int = 0,
) -> dict[str, Estimate]:
  """`bootstrap` of several metrics; the tasks are drawn once."""
  tables = _resampled([*panels, *(baseline or ())], n, seed)
  mine, theirs = tables[: len(panels)], tables[len(panels) :]
  return {
    name: _estimate(mine, f, theirs, f, n, seed) for name, f in metrics.items()
  }


def _estimate(mine, metric, theirs, their_metric, n: int, seed: int):
  """Of resampled tables, [1 + n, T + 1, N] a run; `theirs` may be empty."""
  values = _values(mine, metric)  # [runs, 1 + n]
  if theirs:
    if len(theirs) != len(mine):
      raise ValueError(f"{len(mine)} runs cannot be paired with {len(theirs)}")
    values = values - _values(theirs, their_metric)
  runs = len(mine)
  rng = np.random.default_rng([seed, 1])
  drawn = rng.integers(runs, size=(runs, n))
  means = np.take_along_axis(values[:, 1:], drawn, axis=0).mean(0)
  ends = [math.nan, math.nan]
  if not np.isnan(means).all():
    ends = np.nanpercentile(means, [2.5, 97.5])
  sd = float(values[:, 0].std(ddof=1)) if runs > 1 else math.nan
  return Estimate(
    float(values[:, 0].mean()), float(ends[0]), float(ends[1]), sd, runs
  )


def sign_flip(differences: npt.ArrayLike, seed: int = 0) -> float:
  """Two-sided p of the paired differences, each flipped or not.

  Exact up to 16 runs, else 2^16 random flips. NaN with fewer than 6 runs,
  where no outcome could be below .05 (5 runs: 2/32).
  """
  d = np.asarray(differences, float)
  n = len(d)
  if n < 6 or not np.isfinite(d).all():
    return math.nan
  if n <= 16:
    signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
  else:
    signs = np.random.default_rng(seed).choice([-1, 1], size=(2**16, n))
  # The slack counts an equal sum that rounding has put a hair below.
  as_large = np.abs(signs @ d) >= abs(d.sum()) * (1 - 1e-12)
  return float(as_large.mean())


def per_run(
  panels: Sequence[Panel], metric: Callable[..., Value]
) -> np.ndarray:
  """float[runs]: the metric of each run as it was, nothing resampled."""
  return np.array([float(metric(p.matrix(), p.own)) for p in panels])


def _resampled(
  panels: Sequence[Panel], n: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
  """(tables [1 + n, T + 1, N], own) of each panel, the same tasks in all."""
  ids: dict[str, set[str]] = {}
  for p in panels:
    for domain, tasks in zip(p.domains, p.tasks, strict=True):
      ids.setdefault(domain, set()).update(tasks)
  key = tuple((d, tuple(sorted(ids[d]))) for d in sorted(ids))
  weights = _task_weights(key, n, seed)
  return [(_tables(p, weights), p.own) for p in panels]


@functools.lru_cache(maxsize=4)  # the methods of a comparison share their tasks
def _task_weights(
  ids: tuple[tuple[str, tuple[str, ...]], ...], n: int, seed: int
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
  """domain -> (tasks, float[1 + n, tasks]: how often a replicate holds each).

  Row 0 is the sample itself.
  """
  rng = np.random.default_rng([seed, 0])
  out = {}
  for domain, tasks in ids:
    counts = np.ones((1 + n, len(tasks)))
    if tasks:
      p = np.full(len(tasks), 1 / len(tasks))
      counts[1:] = rng.multinomial(len(tasks), p, size=n)
    out[domain] = tasks, counts
  return out


def _tables(p: Panel, weights) -> np.ndarray:
  """R under each task resample: float[1 + n, T + 1, N]."""
  columns = []
  for domain, tasks, table in zip(p.domains, p.tasks, p.scores, strict=True):
    if not tasks:
      columns.append(np.full((1, len(table)), np.nan))
      continue
    drawn, w = weights[domain]
    if tasks != drawn:
      w = np.ascontiguousarray(w[:, [drawn.index(t) for t in tasks]])
    known = np.isfinite(table)
    with np.errstate(invalid="ignore", divide="ignore"):
      if known.all():  # half the work
        columns.append((w @ table.T) / w.sum(axis=1, keepdims=True))
      else:
        sums = w @ np.nan_to_num(table).T
        columns.append(sums / (w @ known.T.astype(float)))
  return np.stack(np.broadcast_arrays(*columns), axis=-1)


def _values(tables, metric) -> np.ndarray:
  """float[runs, 1 + n]: the metric of each run under each task resample."""
  out = [np.asarray(metric(R, own)) for R, own in tables]
  width = max(x.size for x in out)
  return np.stack([np.broadcast_to(x, (width,)) for x in out]).astype(float)


# -------------------------------------------------------------------- results


def results(
  rows: Sequence[Row], run: Run, resamples: int = 1000
) -> dict[str, Any]:
  """`results.json`: everything computed from a run's raw logs.

  {**run, "test": {...}, "val": {...}} where a split holds
    "matrix" [T+1, N], "se", "pass", "tool_accuracy", "argument_accuracy",
    "metrics" after the last stage, "history" after every stage,
    "intervals" {metric: [low, high]} over tasks, "pass_hat_k" {k: matrix},
    "write_only" {"matrix", "metrics", "intervals"} on tasks that require a
    write, "curves", "tasks" and "episodes" a domain, "failures".
  A split that was never evaluated is absent. Where val was evaluated between
  cloning and policy gradient, "warm_starts" says what the latter added.
  """
  out = dict(run)
  for split in ("test", "val"):
    if cells := final_rows(rows, split):
      _check_whole(cells, split)
      out[split] = _split_results(rows, run, split, cells, resamples)
  if found := warm_starts(rows, run, resamples):
    out["warm_starts"] = found
  if (asked := run.get("protocol")) and "test" in out:
    out["protocol"] = _with_trials(asked, out["test"])
  return out


def _check_whole(cells, split: str) -> None:
  """Refuses `final_rows` that have lost some: every evaluation of a domain
  holds the same tasks and trials, failed episodes among them."""
  every: dict[str, set] = {}
  held = lambda rows: {(r["task_id"], r["trial"]) for r in rows}
  for (_, domain), rows in cells.items():
    every.setdefault(domain, set()).update(held(rows))
  for (stage, domain), rows in cells.items():
    if lost := every[domain] - held(rows):
      task, trial = min(lost)
      raise ValueError(
        f"the log holds {len(held(rows))} of {len(every[domain])} episodes of "
        f"{domain} ({split}) after stage {stage}: task {task!r}, trial {trial} "
        "is missing, for one. If the run still goes on, wait; else the file "
        "was changed: the run's own command goes back to its last checkpoint"
      )


def warm_starts(
  rows: Sequence[Row], run: Run, resamples: int = 1000
) -> list[dict[str, Any]]:
  """What the policy gradient of each stage added to what it began from.

  For a stage that clones first, the mean reward on its domains' val tasks when
  it had cloned ("warm") and at its end ("after"); their difference, paired by
  task, with a 95% bootstrap interval over tasks ("rise", "interval").
  """
  out, begun = [], 0
  for k, stage in enumerate(run["stages"]):
    at, end = begun + stage.get("clone_steps", 0), begun + stage["steps"]
    begun = end
    for domain in stage["domains"]:
      here = [r for r in rows if r["stage"] == k and r["domain"] == domain]
      warm, after = _task_means(here, at), _task_means(here, end)
      if at < end and warm and warm.keys() == after.keys():
        both = np.array([[warm[t], after[t]] for t in sorted(warm)])
        found = {"stage": k, "name": stage["name"], "domain": domain}
        out.append(found | _rise(both, resamples))
  return out


def _task_means(rows: Iterable[Row], step: int) -> dict[str, float]:
  """task id -> mean reward of its trials on val at that step."""
  found: dict[str, dict[int, float]] = {}
  for r in rows:
    if r["phase"] == "eval" and r["split"] == "val" and r["step"] == step:
      if not r.get("failure"):
        found.setdefault(r["task_id"], {})[r["trial"]] = float(r["reward"])
  return {t: sum(v.values()) / len(v) for t, v in found.items()}


def _rise(both: Float[np.ndarray, "n 2"], resamples: int) -> dict[str, Any]:
  rise = both[:, 1] - both[:, 0]
  warm, after = both.mean(0)
  return {
    "warm": warm, "after": after, "rise": rise.mean(),
    "interval": [*_over_tasks(rise, resamples)], "tasks": len(both),
  }  # fmt: skip


def _with_trials(protocol: Mapping, test: Mapping) -> dict[str, Any]:
  """The protocol, with the number of trials as a deviation if it is one."""
  trials = max(
    (test["episodes"][d] / n for d, n in test["tasks"].items() if n), default=0
  )
  if trials == protocol.get("trials", trials):
    return dict(protocol)
  found = {"protocol": protocol["trials"], "run": math.ceil(trials)}
  deviations = {**protocol.get("deviations", {}), "trials": found}
  return {**protocol, "deviations": deviations}


def _split_results(rows, run, split, cells, resamples) -> dict[str, Any]:
  domains, T = run["domains"], len(run["stages"])
  scores = [
    [score(cells.get((i, d), ())) for d in domains] for i in range(-1, T)
  ]
  matrix_of = lambda key: [[s[key] for s in row] for row in scores]
  every, writes = panels(rows, run, split)
  whole = _summary(every, resamples)
  part = whole if writes is every else _summary(writes, resamples)
  out = whole.copy()
  out["matrix"] = matrix_of("reward")
  for key in ("se", "pass", "tool_accuracy", "argument_accuracy"):
    out[key] = matrix_of(key)
  out["pass_hat_k"] = {
    str(k): jsonable(_pass_matrix(cells, run, k))
    for k in (1, 2, 4, 8, 16)
    if k <= max((r["trial"] + 1 for v in cells.values() for r in v), default=0)
  }
  sizes = dict(zip(domains, map(len, writes.tasks), strict=True))
  out["write_only"] = {**part, "tasks": sizes}
  out["curves"] = curves(rows, run, split)
  for key in ("tasks", "episodes"):
    out[key] = {d: scores[-1][j][key] for j, d in enumerate(domains)}
  out["failures"] = sum(s["failures"] for row in scores for s in row)
  return out


def _summary(p: Panel, resamples: int) -> dict[str, Any]:
  R = p.matrix()
  estimates = bootstraps([p], METRICS, n=resamples)
  intervals = {
    name: [e.low, e.high]
    for name, e in estimates.items()
    if math.isfinite(e.low)
  }
  return {
    "matrix": jsonable(R),
    "metrics": after_stage(R, p.own),
    "history": history(R, p.own),
    "intervals": intervals,
  }


def load(workdir: str | pathlib.Path) -> tuple[list[dict], dict[str, Any]]:
  """(rows of `episodes.jsonl`, `run.json`) of a run's folder."""
  workdir = pathlib.Path(workdir)
  log = workdir / "episodes.jsonl"
  if not log.is_file() and (packed := log.with_suffix(".jsonl.gz")).is_file():
    log = packed
  for file in (workdir / "run.json", log):
    if not file.is_file():
      raise ValueError(
        f"{workdir} holds no {file.name}: it is not a run's workdir"
      )
  run = json.loads((workdir / "run.json").read_text())
  return read_rows(log), run


def recompute(
  workdir: str | pathlib.Path, resamples: int = 1000
) -> dict[str, Any]:
  """Writes `results.json` anew from the raw logs, and returns it."""
  rows, run = load(workdir)
  out = jsonable(results(rows, run, resamples))
  if summary := _summary_row(pathlib.Path(workdir) / "metrics.jsonl"):
    out["summary"] = summary
  path = pathlib.Path(workdir) / "results.json"
  path.write_text(json.dumps(out, indent=1) + "\n")
  return out


def _summary_row(path: pathlib.Path) -> dict[str, float]:
  """What the problem said of the finished run (`Problem.summary`)."""
  lines = path.read_text().splitlines() if path.exists() else []
  rows = [json.loads(x) for x in lines if '"summary"' in x]
  return rows[-1]["summary"] if rows else {}


def jsonable(x: Any) -> Any:
  """Plain Python, with NaN and infinities as None: JSON has neither."""
  if isinstance(x, Mapping):
    return {str(k): jsonable(v) for k, v in x.items()}
  if isinstance(x, np.ndarray):
    return jsonable(x.tolist())
  if isinstance(x, list | tuple):
    return [jsonable(v) for v in x]
  if isinstance(x, np.generic):
    return jsonable(x.item())
  if isinstance(x, float) and not math.isfinite(x):
    return None
  return x


# ------------------------------------------------------------------- internals


def _check(matrix, own) -> tuple[np.ndarray, np.ndarray]:
  R = np.array(  # None, as JSON has it, becomes NaN
    matrix, dtype=float
  )
  if R.ndim < 2:
    raise ValueError(f"R has shape {R.shape}; it must be [..., T+1, N]")
  N = R.shape[-1]
  own = np.arange(1, N + 1) if own is None else np.asarray(own, int)
  if own.shape != (N,) or (own < 0).any():
    raise ValueError(f"own is {own.tolist()}, but R has {N} columns")
  return R, own


def _seen(R, own) -> np.ndarray:
  return np.flatnonzero((own >= 1) & (own < R.shape[-2]))


def _earlier(R, own) -> np.ndarray:
  return np.flatnonzero((own >= 1) & (own < R.shape[-2] - 1))


def _mean(x) -> Value:
  return x.mean(axis=-1) if x.shape[-1] else np.full(x.shape[:-1], np.nan)


def _max(x) -> np.ndarray:
  """Over stages; of no stage it is NaN (and no domain asks for it)."""
  if x.shape[-2]:
    return x.max(axis=-2)
  return np.full(x.shape[:-2] + x.shape[-1:], np.nan)


def _nanmean(x) -> np.ndarray:
  known = np.isfinite(x)
  with np.errstate(invalid="ignore"):
    return np.where(known, x, 0).sum(-1) / known.sum(-1)


def _or_none(x) -> float | None:
  return float(x) if math.isfinite(x) else None


@shell.command
def main(argv: Sequence[str] | None = None) -> int:
  parser = shell.Parser(
    prog="python -m jax_cl.metrics", description="Redo results.json."
  )
  parser.add_argument("--workdir", required=True)
  parser.add_argument("--resamples", type=int, default=1000)
  args = parser.parse_args(argv)
  out = recompute(args.workdir, args.resamples)
  from jax_cl.console import Console

  Console().final(out, args.workdir, "test" if "test" in out else "val")
  return 0


if __name__ == "__main__":
  sys.exit(main())
