"""Methods x orders x seeds of one config, and what can be said of them.

  python -m jax_cl.compare --config=configs/smoke.py \\
    --methods=sequential,replay,online_ewc --seeds=3 --orders=latin --repeat_aa

Every run is `train.run` in a folder of its own below `--workdir`. The same
command again skips finished runs and goes on with unfinished ones. A run that
fails is named in the report and the others go on. At the end: `compare.json`,
`report.md`, `report.html` and their pictures.

`--methods` are names of methods, or of `config.variants`: settings of the
config by name, {name: {section: {key: value}}}, as configs/replay_example.py
has them. Left out, all variants are compared with `sequential`.
`--orders`: "config" (the config's own), "latin" (N cyclic shifts of it, each
domain once in each place), or orders by name: "a,b,c;c,a,b".
`--baselines`: other curricula of the same config run beside the methods, by
plain sequential training: "joint" gives intransigence, "independent" gives
transfer_vs_independent and forward_transfer_auc.
`--workers` processes run at a time, each with all seeds of a method and order,
since these share what is compiled.
`--repeat_aa` runs the first method once more with other seeds: how far apart
two equal methods come out is the noise of every other difference.
`--split=val` compares on what settings are chosen by, and shows nothing of
test; the same command with test goes on from the same runs.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import itertools
import json
import math
import pathlib
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TextIO

import numpy as np
from ml_collections import ConfigDict

from jax_cl import (
  build,
  commandline,
  logs,
  metrics,
  names,
  processes,
  reports,
  shell,
  train,
)
from jax_cl.console import Console
from jax_cl.reports import tables

Order = tuple[str, ...]
Run = Callable[[ConfigDict, pathlib.Path], Mapping[str, Any]]
SPLITS = ("test", "val")
AA_SEED = 1000  # added to the seeds of the A/A repeat


class Cell(NamedTuple):
  """One run of the grid."""

  method: str  # as reports name it
  order: Order
  seed: int
  pair: int  # seed of the run it is paired with

  @property
  def folder(self) -> str:
    name = self.method.replace(" (A/A)", "_aa")
    return f"{name}/{'-'.join(self.order) or 'config'}/seed{self.seed}"


def compare(
  config: ConfigDict,
  methods: Sequence[str],
  seeds: Sequence[int],
  workdir: str | pathlib.Path,
  *,
  orders: str = "config",
  baselines: Sequence[str] = (),
  repeat_aa: bool = False,
  command: str = "",
  workers: int = 1,
  split: str = "test",
  run: Run | None = None,
) -> dict[str, Any]:
  """Runs the grid and returns what `compare.json` holds (`summary`).

  `run` stands for `train.run`. Seeds are outermost in the grid, so that an
  interrupted one is balanced; with `workers`, a process takes all of them.
  """
  check_methods(methods, variants(config))
  names.check("split", split, SPLITS)
  workdir = pathlib.Path(workdir)
  cells = grid(
    methods, parse_orders(config, orders), seeds, baselines, repeat_aa
  )
  for cell in cells if split == "val" else ():
    if config_of(config, cell, baselines).eval.val_trials < 1:
      raise ValueError(
        f"{cell.method} does not read val (eval.val_trials is 0): raise it, or "
        "compare with --split=test"
      )
  if workers == 1:
    failures = _runs(config, cells, workdir, baselines, run)
  else:
    failures = _parallel(config, cells, workdir, baselines, run, workers)
  done = [c for c in cells if (workdir / c.folder / "results.json").is_file()]
  if not done:
    raise ValueError(
      "no run finished: "
      + "; ".join(f"{f['run']}: {f['error']}" for f in failures)
    )
  found = summary(workdir, done, methods, baselines, failures, command, split)
  logs.write_json(workdir / "compare.json", found)
  reports.write_comparison(found, workdir)
  return found


def _runs(
  config, cells, workdir, baselines, run: Run | None
) -> list[dict[str, str]]:
  """Runs the cells in turn; what failed, by name."""
  console = Console()
  run = run or functools.partial(train.run, known={})
  failures = []
  for i, cell in enumerate(cells, 1):
    folder = workdir / cell.folder
    one = config_of(config, cell, baselines)
    if finished(folder, one):
      console.say(f"[{i}/{len(cells)}] {cell.folder}: finished before")
      continue
    console.say(f"\n[{i}/{len(cells)}] {cell.folder}")
    try:
      run(one, folder)
    except Exception as e:  # whatever broke one run must not lose the others
      message = f"{type(e).__name__}: {e}".splitlines()[0]
      failures.append({"run": cell.folder, "error": message})
      log = workdir / "errors" / (cell.folder.replace("/", "_") + ".txt")
      log.parent.mkdir(parents=True, exist_ok=True)
      log.write_text(traceback.format_exc())
      console.say(f"{cell.folder} failed: {message} (see {log})")
  return failures


def _parallel(config, cells, workdir, baselines, run, workers: int):
  """`_runs` of each method and order in turn, `workers` processes at a time.

  The seeds of one method and order share what is compiled.
  """
  alike: dict[tuple[str, Order], list[Cell]] = {}
  for cell in cells:
    alike.setdefault((cell.method, cell.order), []).append(cell)
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.use_progress_bar = False  # bars of two processes would mix
  calls = [(config, some, workdir, baselines, run) for some in alike.values()]
  with processes.pool(workers, share_compiles, workdir / "compiled") as pool:
    return list(itertools.chain(*processes.run(pool, _named, calls)))


def _named(config, cells, *rest) -> list[dict[str, str]]:
  """`_runs`, its lines behind the name of the method and order."""
  name = pathlib.PurePath(cells[0].folder).parent
  with contextlib.redirect_stdout(_Behind(sys.stdout, f"{name} | ")):
    return _runs(config, cells, *rest)


class _Behind(io.TextIOBase):
  """Writes whole lines behind a name, at once: processes share the stream."""

  def __init__(self, stream: TextIO, name: str):
    self._stream, self._name, self._rest = stream, name, ""

  def write(self, text: str) -> int:
    *lines, self._rest = (self._rest + text).split("\n")
    if lines:
      said = "".join(f"{self._name if x else ''}{x}\n" for x in lines)
      self._stream.write(said)
      self._stream.flush()
    return len(text)


# -------------------------------------------------------------------- the grid


def variants(config: ConfigDict) -> dict[str, dict[str, Any]]:
  """Settings of the config by name; empty where it has none."""
  return config.get("variants", ConfigDict()).to_dict()


def check_methods(
  methods: Sequence[str], variants: Mapping[str, Any] | None = None
) -> None:
  own = list(variants or ())
  known = [*build.known("methods"), *own]
  if not methods:
    raise ValueError(f"--methods is empty; known: {', '.join(known)}")
  if twice := {n for n in methods if list(methods).count(n) > 1}:
    raise ValueError(f"--methods names {', '.join(sorted(twice))} twice")
  chains = [m.split("+") for m in methods if m not in own]
  for name in itertools.chain(*chains):
    names.check("method", name, known)


def parse_orders(config: ConfigDict, text: str) -> list[Order]:
  """Orders of `config.stream.domains`; () where the stream names none."""
  stream: Any = config.stream
  domains = tuple(stream.get("domains", ()))
  if text == "config":
    return [domains]
  if not domains:
    raise ValueError(
      f"--orders={text}: config.stream has no domains to put in order"
    )
  if text == "latin":
    return [domains[i:] + domains[:i] for i in range(len(domains))]
  orders = []
  for part in text.split(";"):
    order = tuple(d.strip() for d in part.split(","))
    if sorted(order) != sorted(domains):
      raise ValueError(
        f"--orders: {part!r} is no order of {', '.join(domains)}"
        f"{names.nearest(part, ('config', 'latin'))}; write "
        f"{','.join(domains)};{','.join(domains[::-1])}, or latin"
      )
    orders.append(order)
  return orders


def grid(
  methods: Sequence[str],
  orders: Sequence[Order],
  seeds: Sequence[int],
  baselines: Sequence[str] = (),
  repeat_aa: bool = False,
) -> list[Cell]:
  """Seeds outermost, so that an interrupted grid is still a balanced one."""
  cells = []
  for seed in seeds:
    for order in orders:
      cells += [Cell(m, order, seed, seed) for m in methods]
      if repeat_aa:
        name = f"{methods[0]} (A/A)"
        cells.append(Cell(name, order, seed + AA_SEED, seed))
    # A joint stream has no order; an independent one does not depend on it.
    cells += [Cell(b, orders[0], seed, seed) for b in baselines]
  return cells


def config_of(
  config: ConfigDict, cell: Cell, baselines: Sequence[str] = ()
) -> ConfigDict:
  one: Any = config.copy_and_resolve_references()
  own = variants(config)
  if own:
    with one.unlocked():
      del one.variants
  one.name = cell.method
  one.seed = cell.seed
  if cell.order:
    one.stream.domains = cell.order
  if cell.method in baselines:
    one.cl.name = "sequential"
    one.stream.curriculum = cell.method
    return one
  name = cell.method.removesuffix(" (A/A)")
  if name in own:
    one.update(own[name])
  else:
    one.cl.name = name
  return one


def finished(folder: pathlib.Path, config: ConfigDict) -> bool:
  """Whether this very run has its results; another run's are refused."""
  if not (folder / "results.json").is_file():
    return False
  there = logs.read_json(folder / "config.json")
  if changed := logs.differences(there, json.loads(config.to_json())):
    raise ValueError(
      f"{folder} belongs to another run ({'; '.join(changed[:3])}): name "
      "another --workdir, or delete it"
    )
  return True


# ------------------------------------------------------------------ the answer


def summary(
  workdir: pathlib.Path,
  cells: Sequence[Cell],
  methods: Sequence[str],
  baselines: Sequence[str] = (),
  failures: Sequence[Mapping[str, str]] = (),
  command: str = "",
  split: str = "test",
  resamples: int = 2000,
) -> dict[str, Any]:
  """Everything of `compare.json`, from the raw logs of finished runs."""
  by_method: dict[str, dict[tuple[Order, int], dict[str, Any]]] = {}
  for cell in cells:
    found = json.loads((workdir / cell.folder / "results.json").read_text())
    rows, about = metrics.load(workdir / cell.folder)
    every, writes = metrics.panels(rows, about, split)
    by_method.setdefault(cell.method, {})[cell.order, cell.pair] = {
      "cell": cell,
      "results": found,
      "panel": (panel := _sorted(every)),
      "write_only": panel if writes is every else _sorted(writes),
      "told": about.get("stage_at_test", False),
    }
  ranked = {k: v for k, v in by_method.items() if k not in baselines}
  # Told the stage at test time, a method does another task: last, not compared.
  told = [k for k, v in ranked.items() if any(r["told"] for r in v.values())]
  ranked = {k: ranked[k] for k in sorted(ranked, key=told.__contains__)}
  alike = {
    k: v for k, v in ranked.items() if (k in told) == (methods[0] in told)
  }
  first = next(iter(by_method.values()))
  one = next(iter(first.values()))["results"]
  streams = {k: v for k, v in by_method.items() if k in baselines}
  fixed = tables.references(one, split) | {
    k: _own_row(v, "panel") for k, v in streams.items()
  }
  fixed_write = tables.references(one, split, "references_write") | {
    k: _own_row(v, "write_only") for k, v in streams.items()
  }
  return metrics.jsonable(
    {
      "title": f"{', '.join(methods)} on {', '.join(one['domains'])}",
      "command": command,
      "split": split,
      "orders": sorted({c.order for c in cells}),
      "seeds": sorted({c.pair for c in cells}),
      "baseline": methods[0],
      "aa": f"{methods[0]} (A/A)" in ranked,
      "protocol": one.get("protocol"),
      "published": _published(workdir / cells[0].folder),
      "methods": {k: _method(v, split, resamples) for k, v in ranked.items()},
      "told": told,
      "differences": _differences(alike, methods[0], resamples),
      "references": {k: _average(v) for k, v in fixed.items()},
      "references_by_domain": fixed,
      "references_write": {k: _average(v) for k, v in fixed_write.items()},
      "matrices": {k: _matrix(v, split) for k, v in ranked.items()},
      "curves": {k: _curve(v, split) for k, v in ranked.items()},
      "curves_split": split,
      "stages": [{"steps": s["steps"]} for s in one["stages"]],
      "other_streams": _other_streams(ranked, by_method, resamples),
      "failures": list(failures),
    }
  )


def _published(run: pathlib.Path) -> Mapping[str, Any] | None:
  """`config.published`: {"source": text, method: (mean, sd), ...}."""
  return logs.read_json(run / "config.json").get("published")


def _sorted(p: metrics.Panel) -> metrics.Panel:
  """Columns by name, so that runs of all orders have the same ones."""
  order = np.argsort(p.domains)
  pick = lambda xs: tuple(xs[i] for i in order)
  return metrics.Panel(
    pick(p.domains), pick(p.tasks), pick(p.scores), p.own[order]
  )


def _final(j: int):
  """The metric R[T, j]."""
  return lambda matrix, own: matrix[..., -1, j]


def _method(runs, split, resamples) -> dict[str, Any]:
  def estimates(key: str, some) -> dict[str, Any]:
    panels = [r[key] for r in runs.values()]
    found = metrics.bootstraps(panels, some, n=resamples)
    return {name: e._asdict() for name, e in found.items()}

  domains = next(iter(runs.values()))["panel"].domains
  last = {d: _final(j) for j, d in enumerate(domains)}
  found = estimates("panel", {**metrics.METRICS, **last})
  scores = {k: found[k] for k in metrics.METRICS}
  alike = all(r["write_only"] is r["panel"] for r in runs.values())
  return {
    "metrics": scores,
    "write_only": scores if alike else estimates("write_only", metrics.METRICS),
    "domains": {d: found[d] for d in last},
    "runs": [
      {
        "order": "-".join(r["cell"].order) or "config",
        "seed": r["cell"].seed,
        "workdir": r["cell"].folder,
        "metrics": r["results"][split]["metrics"],
      }
      for r in runs.values()
    ],
  }


def _differences(ranked, baseline: str, resamples) -> dict[str, Any]:
  """method - baseline over the (order, seed) pairs that both finished."""
  base = ranked.get(baseline, {})
  out = {}
  for name, runs in ranked.items():
    pairs = [k for k in runs if k in base]
    if name == baseline or not pairs:
      continue
    mine = [runs[k]["panel"] for k in pairs]
    theirs = [base[k]["panel"] for k in pairs]
    found = metrics.bootstraps(
      mine, metrics.METRICS, baseline=theirs, n=resamples
    )
    out[name] = {}
    for metric, e in found.items():
      if math.isfinite(e.mean):
        f = metrics.METRICS[metric]
        gap = metrics.per_run(mine, f) - metrics.per_run(theirs, f)
        out[name][metric] = {**e._asdict(), "p": metrics.sign_flip(gap)}
  return out


def _other_streams(ranked, by_method, resamples) -> dict[str, Any]:
  """Metrics that need the joint or the independent stream, by method."""
  out: dict[str, dict[str, Any]] = {}
  last, own = metrics.average_performance, metrics.plasticity
  for name, runs in ranked.items():
    if pairs := _paired(runs, by_method.get("joint", {})):
      mine, theirs = ([r["panel"] for r in x] for x in zip(*pairs, strict=True))
      e = metrics.bootstrap(theirs, last, mine, own, n=resamples)
      out.setdefault("intransigence", {})[name] = e._asdict()
    if pairs := _paired(runs, by_method.get("independent", {})):
      mine, theirs = ([r["panel"] for r in x] for x in zip(*pairs, strict=True))
      e = metrics.bootstrap(mine, own, theirs, own, n=resamples)
      out.setdefault("transfer_vs_independent", {})[name] = e._asdict()
      gains = [_auc_gain(*(r["results"] for r in p)) for p in pairs]
      if np.isfinite(gains).all():
        n, mean = len(gains), float(np.mean(gains))
        sd = float(np.std(gains, ddof=1)) if n > 1 else math.nan
        half = 1.96 * sd / math.sqrt(n)
        out.setdefault("forward_transfer_auc", {})[name] = {
          "mean": mean, "low": mean - half, "high": mean + half,
          "sd_runs": sd, "runs": n,
        }  # fmt: skip
  return out


def _paired(runs, others) -> list[tuple[Any, Any]]:
  """Each run beside the other stream's run of its seed, whatever its order."""
  by_seed = {seed: r for (_, seed), r in others.items()}
  return [
    (r, by_seed[seed]) for (_, seed), r in runs.items() if seed in by_seed
  ]


def _auc_gain(mine, single) -> float:
  """forward_transfer_auc on val, averaged over the domains."""
  split = "val" if "val" in mine and "val" in single else "test"
  gains = [
    metrics.forward_transfer_auc(
      _own_auc(mine, split, d), _own_auc(single, split, d)
    )
    for d in mine["domains"]
  ]
  return float(np.mean(gains))


def _own_auc(results, split: str, domain: str) -> float:
  start = 0
  for stage in results["stages"]:
    end = start + stage["steps"]
    if domain in stage["domains"]:
      points = results[split]["curves"][domain]
      return metrics.auc([p for p in points if start <= p[0] <= end])
    start = end
  return math.nan


def _own_row(runs, key: str) -> dict[str, float]:
  """Score of each domain after its own stage, mean over runs.

  Of a joint stream that is the last row; of an independent one, what a
  learner of that domain alone reaches.
  """
  panels = [r[key] for r in runs.values()]
  N = np.arange(len(panels[0].domains))
  row = np.mean([p.matrix()[p.own, N] for p in panels], axis=0)
  return dict(zip(panels[0].domains, row.tolist(), strict=True))


def _average(by_domain: Mapping[str, float]) -> float:
  known = [x for x in by_domain.values() if x is not None]
  return float(np.mean(known)) if known else math.nan


def _matrix(runs, split: str) -> dict[str, Any]:
  """Mean over seeds in the order that the first run has."""
  order = next(iter(runs))[0]
  same = [r["results"] for (o, _), r in runs.items() if o == order]
  return {
    "domains": same[0]["domains"],
    "stages": same[0]["stages"],
    "matrix": np.mean([np.array(r[split]["matrix"], float) for r in same], 0),
    "runs": len(same),
  }


def _curve(runs, split: str) -> list[list[Any]]:
  """[step, mean over all domains and runs, se over runs] at ends of stages."""
  tables = [
    np.array(r["results"][split]["matrix"], float) for r in runs.values()
  ]
  values = np.stack([t.mean(axis=1) for t in tables])  # [runs, T+1]
  stages = next(iter(runs.values()))["results"]["stages"]
  steps = np.cumsum([0] + [s["steps"] for s in stages])
  n = len(values)
  se = (
    values.std(axis=0, ddof=1) / math.sqrt(n) if n > 1 else [None] * len(steps)
  )
  return [
    [int(s), float(m), e]
    for s, m, e in zip(steps, values.mean(0), se, strict=True)
  ]


# ------------------------------------------------------------------- the shell


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, ConfigDict]:
  parser = shell.Parser(
    prog="python -m jax_cl.compare",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  listed = lambda text: [n.strip() for n in text.split(",") if n.strip()]
  parser.add_argument("--methods", type=listed, default=[])
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--orders", default="config")
  parser.add_argument("--baselines", type=listed, default=[])
  parser.add_argument("--repeat_aa", action="store_true")
  parser.add_argument("--workers", type=int, default=1)
  parser.add_argument("--split", default="test")
  parser.add_argument("--workdir")
  options, rest = parser.parse_known_args(argv)
  own = [a.option_strings[-1] for a in parser._actions]
  for arg in rest:
    if arg.startswith("--") and not arg.startswith("--config"):
      name = arg.split("=")[0]
      raise ValueError(names.unknown("option", name, own))
  for name in ("seeds", "workers"):
    if (value := getattr(options, name)) < 1:
      raise ValueError(f"--{name}={value}; it must be 1 or more")
  config, default = commandline.parse(["compare", *rest])
  if not options.methods and (own := variants(config)):
    options.methods = ["sequential", *own]
  if options.workdir is None:
    path = pathlib.Path(default)
    options.workdir = str(path.with_name(f"compare-{path.name}"))
  return options, config


def share_compiles(folder: pathlib.Path) -> None:
  """Runs of a grid compile the same programs: keep them between runs."""
  import jax

  jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@shell.command
def main(argv: Sequence[str] | None = None) -> int:
  argv = sys.argv[1:] if argv is None else list(argv)
  options, config = parse(argv)
  folder = pathlib.Path(options.workdir).absolute()
  share_compiles(folder / "compiled")
  found = compare(
    config,
    options.methods,
    range(options.seeds),
    folder,
    orders=options.orders,
    baselines=options.baselines,
    repeat_aa=options.repeat_aa,
    workers=options.workers,
    split=options.split,
    command=" ".join(["python -m jax_cl.compare", *argv]),
  )
  print_summary(found, options.workdir)
  return 1 if found["failures"] else 0


def print_summary(found: Mapping[str, Any], workdir: str) -> None:
  say = Console().say
  for heading, table in (
    (f"Reward on {found['split']}", tables.methods(found)),
    (f"Against {found['baseline']}", tables.differences(found)),
  ):
    if table.rows:
      say(f"\n{heading}")
      say(tables.plain(table))
  for f in found["failures"]:
    say(f"failed: {f['run']}: {f['error']}")
  say(f"\nFiles are in {workdir}")


if __name__ == "__main__":
  sys.exit(main())
