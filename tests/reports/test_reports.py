"""Reports from metric files alone: what they say, and that they can be read."""

import json
import struct
import subprocess
import sys
from html.parser import HTMLParser

import fake_runs
import pytest

from jax_cl import metrics, reports
from jax_cl.reports import html, markdown, plots, tables


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  folder = fake_runs.write(tmp_path_factory.mktemp("runs") / "fake")
  metrics.recompute(folder, resamples=50)
  return folder


def size_of(path):
  """(width, height) in pixels of a PNG."""
  data = path.read_bytes()
  assert data.startswith(b"\x89PNG\r\n\x1a\n")
  return struct.unpack(">II", data[16:24])


def test_write_leaves_four_files(workdir):
  paths = reports.write(workdir)
  assert [p.name for p in paths] == list(reports.FILES)
  for p in paths:
    assert p.stat().st_size > 1000
  for name in ("matrix.png", "curves.png"):
    width, height = size_of(workdir / name)
    assert width > 600 and height > 400


def test_the_report_says_what_the_results_say(workdir):
  reports.write(workdir)
  found = json.loads((workdir / "results.json").read_text())
  text = (workdir / "report.md").read_text()
  own = found["test"]["matrix"][2][1]
  se = found["test"]["se"][2][1]
  assert f"**{own:.3f} ± {se:.3f}**" in text  # retail, in its own stage
  assert "| (always_transfer) | 0.300 | 0.050 | 0.300 |" in text
  writing = found["test"]["write_only"]["tasks"]["retail"]
  assert (
    f"| tasks | {found['test']['write_only']['tasks']['airline']} |" in text
  )
  assert 0 < writing < 40
  low, high = found["test"]["intervals"]["forgetting"]
  mean = found["test"]["metrics"]["forgetting"]
  assert f"| `forgetting` | {mean:.3f} [{low:.3f}, {high:.3f}] |" in text
  assert "Protocol `tau2_cl_v1`" in text
  assert "python -m jax_cl.evaluate" in text


def test_deviations_from_the_protocol_are_said():
  blocks = tables.protocol(
    {
      "name": "tau2_cl_v1",
      "deviations": {"trials": {"protocol": 16, "run": 1}},
      "note": "Scripted user.",
    }
  )
  text = markdown.render(blocks)
  assert "with deviations: trials 1" in text and "Scripted user." in text
  assert tables.protocol(None) == []


def test_the_page_is_whole_and_alone(workdir):
  reports.write(workdir)
  page = (workdir / "report.html").read_text()
  found = {"open": [], "images": 0, "cells": 0}

  class Checker(HTMLParser):
    def handle_starttag(self, tag, attrs):
      attrs = dict(attrs)
      if tag == "img":
        found["images"] += attrs["src"].startswith("data:image/png;base64,")
      if tag in ("img", "meta"):
        return
      assert tag not in ("script", "link")  # nothing is fetched
      found["cells"] += tag == "td"
      found["open"].append(tag)

    def handle_endtag(self, tag):
      assert found["open"].pop() == tag

  Checker().feed(page)
  assert not found["open"] and found["images"] == 2 and found["cells"] > 50
  assert "**" not in page and "`" not in page


def test_text_is_escaped_in_both(tmp_path):
  blocks = [
    tables.Heading("a < b & c", 1),
    tables.Table(["`x|y`", "n"], [["<script>", "**1**"], ["(floor)", "–"]]),
  ]
  page = html.render(blocks, tmp_path)
  assert "<script>" not in page and "a &lt; b &amp; c" in page
  assert "<strong>1</strong>" in page and '<tr class="fixed">' in page
  assert "| `x\\|y` | n |" in markdown.render(blocks)


def test_joint_and_missing_cells_can_be_drawn(tmp_path):
  """One stage, no interval, a domain without a score, no floors."""
  run = fake_runs.run(curriculum="joint") | {"references": {}}
  rows = [
    r
    for r in fake_runs.rows(run, trials=1, every=300)
    if (r["stage"], r["domain"]) != (-1, "retail")
  ]
  lines = [json.dumps(r) + "\n" for r in rows]
  (tmp_path / "run.json").write_text(json.dumps(run))
  (tmp_path / "episodes.jsonl").write_text("".join(lines))
  reports.write(tmp_path)  # computes results.json itself
  text = (tmp_path / "report.md").read_text()
  assert "| start | 0." in text and " – |" in text
  assert "`average_performance`" in text and "`backward_transfer` |" in text
  assert "\n| `backward_transfer` | " not in text  # undefined: no row


def test_same_results_same_bytes(workdir, tmp_path):
  found = json.loads((workdir / "results.json").read_text())
  for name in ("a.png", "b.png"):
    plots.matrix(found, tmp_path / name)
  assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_run_never_evaluated_is_refused(tmp_path):
  (tmp_path / "run.json").write_text(json.dumps(fake_runs.run()))
  (tmp_path / "episodes.jsonl").write_text("")
  with pytest.raises(ValueError, match="never evaluated"):
    reports.write(tmp_path)


def test_plain_tables_line_up():
  table = tables.Table(["`name`", "x"], [["a", "**1.00**"], ["long", "2"]])
  assert tables.plain(table).splitlines() == [
    "name     x",
    "a     1.00",
    "long     2",
  ]


def test_command_reads_files_without_jax(workdir):
  code = (
    "import sys; from jax_cl import reports;"
    f"reports.write({str(workdir)!r});"
    "print([m for m in ('jax', 'tau2', 'flax') if m in sys.modules])"
  )
  out = subprocess.check_output([sys.executable, "-c", code], text=True)
  assert out.strip() == "[]"
  done = subprocess.run(
    [sys.executable, "-m", "jax_cl.reports", "--workdir=/nowhere"],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2 and "it is not a run's workdir" in done.stderr
  assert "Traceback" not in done.stderr
