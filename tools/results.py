"""The results in the README, from raw logs alone.

  python tools/results.py keep runs/quickstart    # archive a run or comparison
  python tools/results.py                         # redraw: `make results`

`keep` copies what cannot be computed again: config.json, run.json and
episodes.jsonl (packed, see `metrics`) of a run, or of every run of a
comparison, whose command goes to grid.json. With `--test` only evaluations on
test are kept, which is all that the tables of a comparison read. The name in
`results/` is the folder's. A `note.md` written there by hand is printed before
the tables.

Redrawing computes every number and picture anew and replaces what stands
between the two marks of README.md.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import pathlib
import shutil
import tempfile
from collections.abc import Sequence

from jax_cl import compare, metrics, reports
from jax_cl.reports import markdown, tables

ROOT = pathlib.Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
RAW = "episodes.jsonl"
# What the README shows first; any others follow by name.
ORDER = (
  "methods",
  "spaces",
  "appended",
  "joint",
  "grpo_tiny",
  "grpo_ewc",
  "grpo_replay",
  "grpo_families",
  "grpo_families_replay",
  "grpo_families_online_ewc",
  "control",
)


def keep(
  workdir: pathlib.Path, results: pathlib.Path, test_alone: bool = False
) -> pathlib.Path:
  """Copies the raw logs of a run or a comparison below `results`."""
  folder = results / workdir.resolve().name
  runs = sorted(p.parent for p in workdir.rglob("run.json"))
  if not runs:
    raise ValueError(f"{workdir} holds no run.json: it is not a workdir")
  for run in runs:
    to = folder / run.relative_to(workdir)
    to.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "run.json"):
      shutil.copyfile(run / name, to / name)
    rows = metrics.read_rows(run / RAW)
    if test_alone:
      rows = [r for r in rows if r["split"] == "test"]
    (to / f"{RAW}.gz").write_bytes(pack(rows))
  if (workdir / "compare.json").is_file():
    found = json.loads((workdir / "compare.json").read_text())
    ranked = [r for m in found["methods"].values() for r in m["runs"]]
    ranked = [r["workdir"] for r in ranked]
    others = {str(r.relative_to(workdir)) for r in runs} - set(ranked)
    grid = {
      "command": found["command"],
      "methods": [m for m in found["methods"] if not m.endswith(" (A/A)")],
      "runs": ranked + sorted(others),  # in order: it seeds the bootstrap
    }
    (folder / "grid.json").write_text(json.dumps(grid, indent=1) + "\n")
  return folder


def pack(rows: Sequence[metrics.Row]) -> bytes:
  """Rows as `metrics.read_rows` takes them: a line for rows that follow each
  other and are of one evaluation."""
  of = lambda r: (*(r[k] for k in ("phase", "stage", "step", "domain")), *r)
  lines = []
  for _, some in itertools.groupby(rows, of):
    some = list(some)
    columns = {k: [r[k] for r in some] for k in some[0]}
    alike = {k for k, v in columns.items() if all(x == v[0] for x in v)}
    same = {k: v[0] for k, v in columns.items() if k in alike}
    each = {k: v for k, v in columns.items() if k not in alike}
    line = {"same": same, "each": each} if each else some[0]
    lines.append(json.dumps(line, separators=(",", ":")))
  # No time and no name inside, so that equal logs are equal files.
  return gzip.compress("".join(f"{x}\n" for x in lines).encode(), mtime=0)


def redraw(results: pathlib.Path, readme: pathlib.Path) -> None:
  """Rewrites pictures below `results`, and the README between its marks."""
  parts = [section(p, pictures=True) for p in _kept(results)]
  before, rest = readme.read_text().split(BEGIN)
  after = rest.split(END)[1]
  text = "".join(f"\n{p}\n" for p in parts) or "\n"
  readme.write_text(f"{before}{BEGIN}\n{text.lstrip()}{END}{after}")


def section(folder: pathlib.Path, pictures: bool = False) -> str:
  """One kept run or comparison as Markdown."""
  with tempfile.TemporaryDirectory() as scratch:
    work = pathlib.Path(scratch, folder.name)
    shutil.copytree(folder, work)
    comparison = (folder / "grid.json").is_file()
    for packed in work.rglob(f"{RAW}.gz"):
      # Intervals of single runs stand in no table of a comparison.
      metrics.recompute(packed.parent, resamples=1 if comparison else 1000)
    if comparison:
      found, blocks = _comparison(work)
      draw = lambda: reports.write_comparison(found, work)
    else:
      blocks = _run(work)
      draw = lambda: reports.write(work)
    if pictures:
      draw()
    shown = [b for b in blocks if isinstance(b, tables.Image)]
    for image in shown if pictures else ():
      shutil.copyfile(work / image.file, folder / image.file)
  note = folder / "note.md"
  if note.is_file():
    blocks = [blocks[0], tables.Text(note.read_text().strip()), *blocks[1:]]
  place = f"results/{folder.name}"
  blocks = [
    b._replace(file=f"{place}/{b.file}") if isinstance(b, tables.Image) else b
    for b in blocks
  ]
  return markdown.render([*blocks, tables.Text(f"Raw logs: `{place}`.")])


def _kept(results: pathlib.Path) -> list[pathlib.Path]:
  names = ("run.json", "grid.json")
  place = lambda p: ORDER.index(p.name) if p.name in ORDER else len(ORDER)
  return sorted(
    (p for p in results.iterdir() if any((p / n).is_file() for n in names)),
    key=lambda p: (place(p), p.name),
  )


def _run(work: pathlib.Path) -> list[tables.Block]:
  found = json.loads((work / "results.json").read_text())
  split = "test" if "test" in found else "val"
  return [
    tables.Heading(tables.title(found), 3),
    *tables.protocol(found.get("protocol")),
    tables.Image("matrix.png", f"reward on {split} after each stage"),
    tables.matrix(found, split),
    tables.metric_table(found[split]),
    *tables.warm_starts(found.get("warm_starts") or (), level=4),
  ]


def _comparison(work: pathlib.Path):
  grid = json.loads((work / "grid.json").read_text())
  cells, baselines = [], []
  for run in grid["runs"]:
    config = json.loads((work / run / "config.json").read_text())
    name, seed = config["name"], config["seed"]
    curriculum = config["stream"].get("curriculum")
    if name == curriculum and name not in grid["methods"]:
      baselines.append(name)
    order = tuple(config["stream"].get("domains", ()))
    pair = seed - compare.AA_SEED if name.endswith(" (A/A)") else seed
    cells.append(compare.Cell(name, order, seed, pair))
  found = compare.summary(
    work, cells, grid["methods"], baselines, command=grid["command"]
  )
  shown = len(found["matrices"]) <= 9  # of more, none can be read
  image = tables.Image("matrices.png", "reward after each stage, by method")
  return found, [
    tables.Heading(found["title"], 3),
    *tables.protocol(found.get("protocol")),
    tables.Image("methods.png", "average performance and forgetting by method"),
    tables.methods(found),
    *_by_domain(found),
    *_differences(found),
    *([image] if shown else []),
    tables.Code(found["command"]),
  ]


def _by_domain(found) -> list[tables.Block]:
  if not found["references_by_domain"]:  # domains that are one as the other
    return []
  return [
    tables.Text("The final policy, domain by domain:"),
    tables.method_domains(found),
  ]


def _differences(found) -> list[tables.Block]:
  table = tables.differences(found)
  if not table.rows:
    return []
  return [
    tables.Text(f"Paired differences from `{found['baseline']}`:"),
    table,
  ]


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
  commands = parser.add_subparsers(dest="command")
  keep_ = commands.add_parser("keep")
  keep_.add_argument("workdir", type=pathlib.Path)
  keep_.add_argument("--test", action="store_true", help="test rows alone")
  args = parser.parse_args(argv)
  try:
    if args.command == "keep":
      print(keep(args.workdir, ROOT / "results", args.test))
    else:
      redraw(ROOT / "results", ROOT / "README.md")
  except ValueError as e:
    raise SystemExit(str(e)) from None


if __name__ == "__main__":
  main()
