"""The grid of methods, orders and seeds: what runs, what resumes, what is said.

`fake` stands for `train.run`: it writes made-up logs in a run's format, so
that the grid, its statistics and its report are tested in seconds; one test
runs the real thing on two tiny runs.
"""

import json
import pathlib

import fake_runs
import numpy as np
import pytest

from configs import blobs, common
from jax_cl import compare, logs, metrics
from jax_cl.reports import tables

DOMAINS = ("airline", "retail", "telecom")
ROOT = pathlib.Path(compare.__file__).parents[1]


@pytest.fixture
def config():
  config = common.get_config()
  config.stream = {"domains": DOMAINS, "curriculum": "sequential"}
  return config


class Fake:
  """`train.run`'s place; remembers what it was asked for."""

  def __init__(self, broken=()):
    self.asked, self.broken = [], broken

  def __call__(self, config, folder):
    self.asked.append((config.name, tuple(config.stream.domains), config.seed))
    if config.name in self.broken:
      raise FloatingPointError("loss is nan at stage 1")
    fake_runs.write(
      folder,
      method=config.cl.name,
      seed=config.seed,
      order=config.stream.domains,
      curriculum=config.stream.curriculum,
    )
    logs.write_json(folder / "config.json", json.loads(config.to_json()))
    return metrics.recompute(folder, resamples=20)


def test_the_whole_grid(config, tmp_path):
  fake = Fake()
  found = compare.compare(
    config,
    ["sequential", "replay"],
    range(2),
    tmp_path,
    orders="latin",
    baselines=["joint", "independent"],
    repeat_aa=True,
    command="python -m jax_cl.compare ...",
    run=fake,
  )
  # 3 orders x 2 seeds x (2 methods + A/A), and two baselines a seed.
  assert len(fake.asked) == len(set(fake.asked)) == 3 * 2 * 3 + 2 * 2
  assert ("sequential (A/A)", DOMAINS, 1000) in fake.asked
  assert ("replay", ("telecom", "airline", "retail"), 1) in fake.asked

  replay = found["methods"]["replay"]
  assert replay["metrics"]["forgetting"]["runs"] == 6
  average = [r["metrics"]["forgetting"] for r in replay["runs"]]
  got = replay["metrics"]["forgetting"]
  assert got["mean"] == pytest.approx(np.mean(average))
  assert got["low"] < got["mean"] < got["high"]

  # The made-up replay keeps .9 of a skill and sequential .45: so large a
  # difference is found, with six pairs that all agree; A/A shows none.
  gap = found["differences"]["replay"]["forgetting"]
  assert gap["high"] < 0 and gap["p"] == pytest.approx(2 / 64)
  noise = found["differences"]["sequential (A/A)"]["forgetting"]
  assert noise["low"] < 0 < noise["high"] and abs(noise["mean"]) < 0.1

  def matrices(name):
    folders = [tmp_path / name / "-".join(DOMAINS) / f"seed{s}" for s in (0, 1)]
    load = lambda f: json.loads((f / "results.json").read_text())
    return [np.array(load(f)["test"]["matrix"]) for f in folders]

  top = np.mean([R[-1].mean() for R in matrices("joint")])
  assert found["references"]["joint"] == pytest.approx(top)
  # Alone, a domain counts by its own stage, not by what the next one left.
  alone = np.mean([np.diag(R[1:]).mean() for R in matrices("independent")])
  assert found["references"]["independent"] == pytest.approx(alone)
  # Floors and other streams stand below the table of writing tasks, too.
  assert found["references_write"]["do_nothing"] == 0.0
  assert 0 < found["references_write"]["joint"] <= 1
  # Domains are matched by name although the orders differ.
  ends = [
    json.loads((tmp_path / r["workdir"] / "results.json").read_text())
    for r in replay["runs"]
  ]
  telecom = [
    r["test"]["matrix"][-1][r["domains"].index("telecom")] for r in ends
  ]
  got = replay["domains"]["telecom"]["mean"]
  assert got == pytest.approx(np.mean(telecom))

  own = np.mean([r["metrics"]["plasticity"] for r in replay["runs"]])
  other = found["other_streams"]
  assert other["intransigence"]["replay"]["mean"] == pytest.approx(top - own)
  got = other["transfer_vs_independent"]["replay"]["mean"]
  assert got == pytest.approx(own - alone)
  assert other["forward_transfer_auc"]["replay"]["runs"] == 6

  assert json.loads((tmp_path / "compare.json").read_text()) == found
  report = (tmp_path / "report.md").read_text()
  for text in (
    "| replay | 6 | ",
    "| (always_transfer) |  | 0.217 |",
    "| sequential (A/A) | `forgetting` | ",
    "`intransigence`",
    "python -m jax_cl.compare ...",
    "tau2_cl_v1",
  ):
    assert text in report
  for name in ("methods.png", "matrices.png", "curves.png"):
    assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_settings_are_compared_on_val_alone(config, tmp_path):
  found = {}
  for split in ("val", "test"):  # the second goes on from the same runs
    out = compare.compare(
      config, ["sequential", "replay"], range(2), tmp_path, split=split,
      run=(fake := Fake()),
    )  # fmt: skip
    assert bool(fake.asked) == (split == "val")
    assert out["split"] == out["curves_split"] == split
    found[split] = out["methods"]["replay"]
  for split, method in found.items():
    for told in method["runs"]:
      results = json.loads(
        (tmp_path / told["workdir"] / "results.json").read_text()
      )
      assert told["metrics"] == results[split]["metrics"]
  assert found["val"]["metrics"] != found["test"]["metrics"]


def test_variants_of_a_config_stand_beside_methods(config, tmp_path):
  half = {"cl": {"name": "replay", "args": {"replay": {"ratio": 0.5}}}}
  config.variants = {"half": half}
  methods = ["sequential", "half"]
  found = compare.compare(config, methods, [0], tmp_path, run=Fake())
  assert list(found["methods"]) == methods
  folder = tmp_path / "half" / "-".join(DOMAINS) / "seed0"
  ran = json.loads((folder / "config.json").read_text())
  assert ran["cl"]["name"] == "replay" and ran["name"] == "half"
  assert ran["cl"]["args"]["replay"]["ratio"] == 0.5
  assert "variants" not in ran and "variants" in config
  with pytest.raises(ValueError, match="did you mean 'half'"):
    compare.compare(config, ["hlaf"], [0], tmp_path, run=Fake())


def test_finished_runs_are_skipped_and_others_are_not(config, tmp_path):
  args = (["sequential"], range(2), tmp_path)
  compare.compare(config, *args, run=Fake())
  gone = tmp_path / "sequential" / "-".join(DOMAINS) / "seed1/results.json"
  gone.unlink()
  fake = Fake()
  compare.compare(config, *args, run=fake)
  assert fake.asked == [("sequential", DOMAINS, 1)]


def test_another_configs_runs_are_refused(config, tmp_path):
  compare.compare(config, ["sequential"], [0], tmp_path, run=Fake())
  config.optim.lr = 0.5
  with pytest.raises(ValueError, match="belongs to another run .optim.lr"):
    compare.compare(config, ["sequential"], [0], tmp_path, run=Fake())


def test_one_failure_is_named_and_the_rest_kept(config, tmp_path):
  found = compare.compare(
    config,
    ["sequential", "replay"],
    [0],
    tmp_path,
    run=Fake(broken=["replay"]),
  )
  assert list(found["methods"]) == ["sequential"]
  (failure,) = found["failures"]
  assert failure["run"].startswith("replay/")
  assert failure["error"] == "FloatingPointError: loss is nan at stage 1"
  assert "loss is nan" in (tmp_path / "report.md").read_text()
  (log,) = (tmp_path / "errors").iterdir()
  assert "Traceback" in log.read_text()


def test_a_broken_baseline_leaves_a_report_without_differences(
  config, tmp_path
):
  found = compare.compare(
    config, ["sequential", "replay"], [0], tmp_path,
    run=Fake(broken=["sequential"]),
  )  # fmt: skip
  assert list(found["methods"]) == ["replay"] and not found["differences"]


def test_nothing_finished_says_why(config, tmp_path):
  with pytest.raises(ValueError, match="no run finished: .*loss is nan"):
    compare.compare(
      config, ["replay"], [0], tmp_path, run=Fake(broken=["replay"])
    )


def test_auc_gain_by_hand():
  curve = lambda *ys: [[10 * i, y, None] for i, y in enumerate(ys)]
  make = lambda ys: {
    "domains": ["a"],
    "stages": [{"domains": ["a"], "steps": 20}],
    "val": {"curves": {"a": curve(*ys)}},
  }
  # Areas .5 and .25; the last point is outside the domain's own stage.
  gain = compare._auc_gain(make([0.5, 0.5, 0.5, 0]), make([0, 0.25, 0.5, 1]))
  assert gain == pytest.approx((0.5 - 0.25) / 0.75)


def test_orders(config):
  assert compare.parse_orders(config, "config") == [DOMAINS]
  latin = compare.parse_orders(config, "latin")
  assert latin == [
    ("airline", "retail", "telecom"),
    ("retail", "telecom", "airline"),
    ("telecom", "airline", "retail"),
  ]
  named = compare.parse_orders(
    config, "retail,airline,telecom;" + ",".join(DOMAINS)
  )
  assert named == [("retail", "airline", "telecom"), DOMAINS]
  with pytest.raises(ValueError, match="no order of airline, retail, telecom"):
    compare.parse_orders(config, "airline,retail")
  with pytest.raises(ValueError, match="did you mean 'latin'"):
    compare.parse_orders(config, "latn")
  assert compare.parse_orders(blobs.get_config(), "config") == [()]
  with pytest.raises(ValueError, match="no domains to put in order"):
    compare.parse_orders(blobs.get_config(), "latin")


@pytest.mark.parametrize(
  ("args", "said"),
  [
    (["--methods=sequental"], "did you mean 'sequential'"),
    (["--methods=replay+onlin_ewc"], "did you mean 'online_ewc'"),
    (["--methods=replay,replay"], "names replay twice"),
    ([], "--methods is empty"),
    (["--method=replay"], "did you mean '--methods'"),
    (["--methods=replay", "--config.cl.nam=x"], "did you mean 'name'"),
    (["--methods=replay", "--seeds=0"], "must be 1 or more"),
    (["--methods=replay", "--orders=latin"], "no domains"),
    (["--methods=replay", "--split=vall"], "did you mean 'val'"),
    (
      ["--methods=replay", "--split=val", "--config.eval.val_trials=0"],
      "replay does not read val",
    ),
    (["--methods=replay", "--seeds=x"], "invalid int value: 'x'"),
  ],
)
def test_mistakes_are_answered_in_one_line(args, said, capsys, tmp_path):
  argv = ["--config=configs/blobs.py", f"--workdir={tmp_path}", *args]
  assert compare.main(argv) == 2
  err = capsys.readouterr().err
  assert said in err and err.startswith("error: ") and err.count("\n") == 1


def test_processes_find_what_one_finds(config, tmp_path):
  names, found = ["sequential", "replay", "online_ewc"], []
  fake = Fake(broken=("online_ewc",))
  for workers in (1, 2):
    folder = tmp_path / str(workers)
    found.append(
      compare.compare(
        config, names, range(2), folder, workers=workers, run=fake
      )
    )
  one, two = found
  assert one["methods"] == two["methods"]
  assert one["differences"] == two["differences"]
  assert len(two["failures"]) == 2 and one["failures"] == two["failures"]


def test_options_reach_the_grid(tmp_path, monkeypatch):
  asked = {}

  def grid(*args, **options):
    asked.update(options)
    raise ValueError("seen")

  monkeypatch.setattr(compare, "compare", grid)
  monkeypatch.setattr(compare, "share_compiles", lambda folder: None)
  argv = ["--config=configs/blobs.py", f"--workdir={tmp_path}", "--workers=3"]
  argv.append("--split=val")
  with pytest.raises(ValueError, match="seen"):
    compare.main([*argv, "--methods=replay", "--orders=latin", "--repeat_aa"])
  command = asked.pop("command")
  assert command.startswith("python -m jax_cl.compare --config=configs/blobs")
  assert asked == {
    "orders": "latin", "baselines": [], "repeat_aa": True, "workers": 3,
    "split": "val",
  }  # fmt: skip


def test_published_figures_stand_beside_ours(config, tmp_path):
  config.published = {"source": "Elsewhere 1.0", "replay": (0.4, 0.05)}
  names = ["sequential", "replay"]
  found = compare.compare(config, names, range(2), tmp_path, run=Fake())
  table = tables.methods(found)
  assert table.header[-2:] == ["mean ± sd", "Elsewhere 1.0"]
  rows = {row[0]: row for row in table.rows}
  assert all(len(row) == len(table.header) for row in table.rows)
  assert rows["replay"][-1] == "0.400 ± 0.050"
  assert rows["sequential"][-1] == "–"
  runs = found["methods"]["replay"]["runs"]
  ours = [r["metrics"]["average_performance"] for r in runs]
  want = f"{np.mean(ours):.3f} ± {np.std(ours, ddof=1):.3f}"
  assert rows["replay"][-2] == want


def test_the_real_thing(tmp_path, capsys, monkeypatch):
  shared = []  # the cache of compiled programs is the process's: leave it
  monkeypatch.setattr(compare, "share_compiles", shared.append)
  argv = [
    "--config=configs/blobs.py",
    "--config.stream.n_domains=2",
    "--config.stream.epochs=1",
    "--config.log_interval=100",
    "--methods=sequential",
    "--repeat_aa",
    "--seeds=1",
    f"--workdir={tmp_path}",
  ]
  assert compare.main(argv) == 0
  out = capsys.readouterr().out
  assert "Against sequential" in out and f"Files are in {tmp_path}" in out
  assert shared == [tmp_path / "compiled"]
  found = json.loads((tmp_path / "compare.json").read_text())
  first, second = found["methods"].values()
  assert first["metrics"]["plasticity"]["runs"] == 1
  # Other seeds are other runs, or A/A would show no noise.
  assert first["runs"][0]["metrics"] != second["runs"][0]["metrics"]
  assert compare.main(argv) == 0
  assert capsys.readouterr().out.count("finished before") == 2
