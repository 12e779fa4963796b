"""The README's results come out of kept raw logs as `compare` had them."""

import importlib.util
import json
import pathlib

import fake_runs

from jax_cl import compare, metrics
from jax_cl.reports import markdown, tables

ROOT = pathlib.Path(__file__).resolve().parent.parent
_spec = importlib.util.spec_from_file_location(
  "results", ROOT / "tools" / "results.py"
)
assert _spec and _spec.loader
results = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(results)
ORDER = ("airline", "retail", "telecom")


def fake(folder, name, method, seed):
  fake_runs.write(folder, method=method, seed=seed)
  stream = {"domains": ORDER, "curriculum": "sequential"}
  config = {"name": name, "seed": seed, "stream": stream}
  (folder / "config.json").write_text(json.dumps(config))


def test_a_run_is_kept_and_redrawn_between_the_marks(tmp_path):
  fake(tmp_path / "runs" / "quick", "", "replay", 0)
  kept = tmp_path / "results"
  results.keep(tmp_path / "runs" / "quick", kept)
  (kept / "quick" / "note.md").write_text("Two cores, ten minutes.\n")
  readme = tmp_path / "README.md"
  readme.write_text(f"a\n{results.BEGIN}\nold\n{results.END}\nb\n")
  results.redraw(kept, readme)
  text = readme.read_text()
  assert text.startswith(f"a\n{results.BEGIN}\n### replay on airline")
  assert text.endswith(f"\n{results.END}\nb\n") and "old" not in text
  assert "Two cores, ten minutes." in text
  found = metrics.recompute(tmp_path / "runs" / "quick")
  assert markdown.render([tables.matrix(found, "test")]).strip() in text
  assert (kept / "quick" / "matrix.png").stat().st_size > 1000
  results.redraw(kept, readme)
  assert readme.read_text() == text


def test_a_comparison_is_computed_again_from_its_runs(tmp_path):
  work = tmp_path / "cmp"
  cells = []
  for name in ("sequential", "replay", "sequential (A/A)"):
    seed = compare.AA_SEED * name.endswith(" (A/A)")
    cell = compare.Cell(name, ORDER, seed, 0)
    fake(work / cell.folder, name, name.removesuffix(" (A/A)"), seed)
    metrics.recompute(work / cell.folder, resamples=10)
    cells.append(cell)
  found = compare.summary(work, cells, ["sequential", "replay"], command="C")
  (work / "compare.json").write_text(json.dumps(found))
  text = results.section(results.keep(work, tmp_path / "results"))
  for table in (tables.methods(found), tables.differences(found)):
    assert markdown.render([table]).strip() in text
  assert "```\nC\n```" in text


def test_packed_rows_come_back_as_they_were(tmp_path):
  fake(tmp_path / "run", "", "replay", 0)
  rows, _ = metrics.load(tmp_path / "run")
  packed = results.pack(rows)
  (tmp_path / "rows.jsonl.gz").write_bytes(packed)
  assert metrics.read_rows(tmp_path / "rows.jsonl.gz") == rows
  plain = (tmp_path / "run" / results.RAW).read_bytes()
  assert len(packed) < len(plain) / 10


def test_the_test_rows_alone_give_the_same_figures_of_test(tmp_path):
  fake(tmp_path / "runs" / "quick", "", "replay", 0)
  kept = results.keep(tmp_path / "runs" / "quick", tmp_path, test_alone=True)
  rows, _ = metrics.load(kept)
  assert {r["split"] for r in rows} == {"test"}
  found = metrics.recompute(kept)
  whole = metrics.recompute(tmp_path / "runs" / "quick")
  assert found["test"] == whole["test"] and "val" not in found
