import json

import pytest

from jax_cl import memory
from jax_cl.bench import __main__ as bench
from jax_cl.bench import memory as bench_memory


def test_rows_are_printed_and_written(tmp_path, capsys):
  out = tmp_path / "deep" / "rows.json"
  flags = ["--episodes={'mock': 4}", "--policies=('oracle', 'random')"]
  assert bench.main(["env", f"--out={out}", *flags]) == 0
  rows = json.loads(out.read_text())
  assert [r["policy"] for r in rows] == ["oracle", "random"]
  for row in rows:
    assert row["domain"] == "mock" and row["mismatches"] == 0
    assert row["episodes"] + row["unjudged"] == 4
    assert row["ratio"] == pytest.approx(row["fast_eps"] / row["stock_eps"])
  printed = capsys.readouterr().out.splitlines()
  assert printed[0].startswith("domain mock  policy oracle")
  assert printed[-1].startswith("2 rows in")


def test_the_memory_is_timed_by_strategy():
  rows = list(bench_memory.run(entries=40, domains=2, b=4, repeats=3))
  assert {r["strategy"] for r in rows} > set(memory.STRATEGIES)
  assert all(0 < r["ms_min"] <= r["ms"] and r["entries"] == 40 for r in rows)


@pytest.mark.parametrize(
  "argv,words",
  [
    ([], "usage"),
    (["evn"], "did you mean 'env'?"),
    (["env", "--polices=x"], "did you mean 'policies'?"),
    (["env", "--seed"], "--seed=VALUE"),
  ],
)
def test_mistakes_are_answered_in_a_line(argv, words, capsys):
  assert bench.main(argv) == 2
  err = capsys.readouterr().err
  assert words in err and err.count("\n") == 1
