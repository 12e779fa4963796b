"""Test tasks may be deleted from the data: what acts does not change."""

import json
import pathlib
import shutil
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys
from jax_cl.tasks import actions, demos, stream
name, data_dir = sys.argv[1], sys.argv[2] or None
domain = stream.load(name, data_dir=data_dir, pool="extended")
words = demos.vocabulary(domain)
space = actions.ActSpace([domain], {name: words})
print(json.dumps({
  "vocabulary": words,
  "acts": [[a.name, [str(s) for s in a.slots]] for a in space.acts],
  "train": [s.task_id for s in domain.splits["train"]],
  "val": [s.task_id for s in domain.splits["val"]],
  "test": len(domain.splits["test"]),
}))
"""


def _facts(name, data_dir=""):
  out = subprocess.run(
    [sys.executable, "-c", SCRIPT, name, str(data_dir)],
    capture_output=True,
    text=True,
    check=True,
  )
  return json.loads(out.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["airline", "retail", "telecom"])
def test_without_test_tasks_nothing_that_acts_is_different(name, tmp_path):
  import tau2

  source = pathlib.Path(tau2.__file__).parent / "data"
  for folder in (name, "mock"):
    inside = pathlib.Path("tau2") / "domains" / folder
    shutil.copytree(source / inside, tmp_path / inside)
  folder = tmp_path / "tau2" / "domains" / name
  held_out = set(json.loads((folder / "split_tasks.json").read_text())["test"])
  tasks = json.loads((folder / "tasks.json").read_text())
  left = [t for t in tasks if t["id"] not in held_out]
  assert len(left) == len(tasks) - len(held_out)
  (folder / "tasks.json").write_text(json.dumps(left))

  whole, without = _facts(name), _facts(name, tmp_path)
  assert whole.pop("test") == len(held_out) and without.pop("test") == 0
  assert whole == without
