"""The notebooks run as they stand, one on what the other leaves."""

import ast
import importlib.util
import json
import os
import pathlib
import sys
import types

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = pathlib.Path(__file__).parent.parent / "notebooks"
NAMES = ("quickstart", "restore_and_evaluate", "grpo")


def read(name):
  return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def execute(name, workdir, monkeypatch, config="smoke"):
  monkeypatch.setenv("JAX_CL_CONFIG", config)
  monkeypatch.setenv("JAX_CL_WORKDIR", str(workdir))
  monkeypatch.setenv("XLA_FLAGS", "")  # one device, as people have
  where = {"metadata": {"path": str(FOLDER)}}
  client = NotebookClient(read(name), timeout=900, resources=where)
  return client.execute()


def outputs(notebook, kind):
  return [
    o.data[kind]
    for c in notebook.cells
    if c.cell_type == "code"
    for o in c.outputs
    if kind in o.get("data", {})
  ]


def test_both_run_on_the_smoke_config(tmp_path, monkeypatch):
  workdir = tmp_path / "run"
  first = execute("quickstart", workdir, monkeypatch)
  results = json.loads((workdir / "results.json").read_text())
  average = results["test"]["metrics"]["average_performance"]
  assert len(outputs(first, "image/png")) == 2
  table, *_ = outputs(first, "text/markdown")
  assert f"| `average_performance` | {average:.3f} [" in table

  second = execute("restore_and_evaluate", workdir, monkeypatch)
  (table,) = outputs(second, "text/markdown")
  assert f"{average:.3f}" in table
  assert len(outputs(second, "image/png")) == 1
  scores = ast.literal_eval(outputs(second, "text/plain")[1])
  row = [scores[d]["reward"] for d in results["domains"]]
  assert row == results["test"]["matrix"][1]


@pytest.mark.slow  # a minute of CPU
def test_opened_alone_it_restores_a_run_of_its_own(tmp_path, monkeypatch):
  notebook = execute("restore_and_evaluate", tmp_path / "none", monkeypatch)
  assert (tmp_path / "none_smoke" / "results.json").is_file()
  assert len(outputs(notebook, "image/png")) == 1


@pytest.mark.slow  # 60 s of CPU
def test_the_policy_layer_s_runs_on_its_smoke_config(tmp_path, monkeypatch):
  workdir = tmp_path / "run"
  done = execute("grpo", workdir, monkeypatch, "grpo_smoke")
  results = json.loads((workdir / "results.json").read_text())
  assert len(outputs(done, "image/png")) == 1
  average = results["test"]["metrics"]["average_performance"]
  (table,) = outputs(done, "text/markdown")
  assert f"| `average_performance` | {average:.3f} [" in table
  _, steps, last, tried = outputs(done, "text/plain")[-4:]
  lines = (workdir / "trajectories.jsonl").read_text().splitlines()
  told = json.loads(lines[-1])
  said = ast.literal_eval(last)
  assert said == {k: told[k] for k in said} and said["tokens_sampled"] > 0
  assert len(ast.literal_eval(steps)) == len(results["domains"])
  assert all(f"'{d}': {{1: Estimate(" in tried for d in results["domains"])


@pytest.mark.parametrize("name", NAMES)
def test_they_define_nothing_and_carry_no_outputs(name):
  notebook = read(name)
  code = [c for c in notebook.cells if c.cell_type == "code"]
  for cell in code:
    assert cell.outputs == [] and cell.execution_count is None
    lines = [x for x in cell.source.split("\n") if "%pip" not in x]
    source = "\n".join(lines).replace("is None:\n", "is None:\n  pass\n")
    for node in ast.walk(ast.parse(source)):
      assert not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda)
  assert "%pip install" in code[0].source
  assert os.path.getsize(FOLDER / f"{name}.ipynb") < 20_000


@pytest.mark.parametrize("name", NAMES)
def test_alone_it_asks_for_the_repository(name, tmp_path, monkeypatch):
  """As in Colab: no clone around it, jax_cl not installed, no address."""
  cell = next(c for c in read(name).cells if "REPOSITORY" in c.source)
  assert "%pip install -q $source" in cell.source
  code = cell.source.replace("%pip install -q $source", "found.append(source)")
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(SystemExit, match="into REPOSITORY"):
    exec(code, {"found": []})
  files = types.SimpleNamespace(upload=lambda: {"jax_cl.zip": b""})
  colab = types.SimpleNamespace(files=files)
  monkeypatch.setitem(sys.modules, "google.colab", colab)
  found = []
  exec(code, {"found": found})
  exec(code.replace('= ""', '= "git+https://x/y"'), {"found": found})
  assert found == ["jax_cl.zip", "git+https://x/y"]
