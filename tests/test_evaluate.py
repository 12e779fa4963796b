import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

import jax_cl
from configs import grpo_smoke
from jax_cl import checkpoint, evaluate
from jax_cl.policies import hub, tiny

# One worker makes what these share.
pytestmark = pytest.mark.xdist_group("evaluate")

ROOT = pathlib.Path(jax_cl.__file__).parents[1]


@pytest.mark.parametrize("split", ["test", "val"])
@pytest.mark.parametrize("stage", [None, 0, -1])
def test_a_row_is_reproduced_exactly(finished, stage, split):
  rows, wrong = evaluate.again(finished[0], stage, split)
  assert wrong == []
  wanted = 2 if stage is None else stage
  assert {r["stage"] for some in rows.values() for r in some} == {wanted}
  assert [len(r) for r in rows.values()] == [12 if split == "test" else 8] * 3


def test_a_difference_from_the_log_is_told(finished, tmp_path, capsys):
  workdir = shutil.copytree(finished[0], tmp_path / "run")
  log = workdir / "episodes.jsonl"
  lines = log.read_text().splitlines()
  flip = {'"reward": 1.0': '"reward": 0.0', '"reward": 0.0': '"reward": 1.0'}
  old = next(k for k in flip if k in lines[-1])
  lines[-1] = lines[-1].replace(old, flip[old])
  log.write_text("\n".join(lines) + "\n")
  assert evaluate.main([f"--workdir={workdir}"]) == 1
  assert (
    "1 differences from the log, first: perm2 test11" in capsys.readouterr().out
  )


def test_mistakes_are_answered_in_a_line(finished, tmp_path, capsys):
  assert evaluate.main([f"--workdir={tmp_path}"]) == 2
  assert evaluate.main([f"--workdir={finished[0]}", "--stage=7"]) == 2
  assert evaluate.main([f"--workdir={finished[0]}", "--split=tets"]) == 2
  out = f"--export={tmp_path / 'hub'}"
  assert evaluate.main([f"--workdir={finished[0]}", out]) == 2
  first, second, third, fourth = capsys.readouterr().err.splitlines()
  assert "no config.json" in first
  assert "no checkpoint after stage 7; it has [-1, 0, 1, 2]" in second
  assert "unknown split 'tets' (did you mean 'test'?)" in third
  assert "no LLM learns in" in fourth


def test_a_damaged_checkpoint_of_an_old_stage(finished, tmp_path, capsys):
  workdir = shutil.copytree(finished[0], tmp_path / "run")
  damaged = checkpoint.path_of(workdir, 1, 0)
  (damaged / "state" / "_METADATA").write_text("{")
  assert evaluate.main([f"--workdir={workdir}", "--stage=0"]) == 2
  err = capsys.readouterr().err
  assert f"{damaged} is damaged" in err
  assert "delete it and any later one, and the run's command makes" in err


def test_a_checkpoint_is_tried_several_times(finished, tmp_path, capsys):
  out = tmp_path / "tried.json"
  command = [f"--workdir={finished[0]}", "--trials=2", f"--out={out}"]
  assert evaluate.main(command) == 0
  told = json.loads(out.read_text())
  logged = finished[1]["test"]["matrix"][-1]
  for domain, reward in zip(finished[1]["domains"], logged, strict=True):
    assert len(told["episodes"][domain]) == 2 * 12
    # Rows are classified without chance: both trials pass, or none.
    one, two = (told["pass_hat_k"][domain][k] for k in "12")
    assert one == two and one[0] == reward and one[1] <= reward <= one[2]
  assert "pass^1" in capsys.readouterr().out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """(a model of one layer as the hub has them, its parameters)."""
  path = tmp_path_factory.mktemp("hub") / "model"
  policy = tiny.make(
    layers=1, width=32, heads=2, kv_heads=1, head_width=16, ff_width=64
  )
  params = jax.jit(policy.init)(jax.random.key(3))
  hub.write(path, policy.config, params, tokenizer=tiny.tokenizer())
  return path, params


def test_any_hub_folder_is_tried_under_a_config(folder):
  config = grpo_smoke.get_config()
  config.agent.args.form = "compact"
  config.stream.update({
    "domains": ("mock",), "length": 256, "max_new_tokens": 4,
    "max_eval_tasks": 1,
  })  # fmt: skip
  found = evaluate.pretrained(config.lock(), str(folder[0]), sample=True)
  assert not found.config.stream.greedy
  read = jax.tree.leaves(found.view("mock"))
  for a, b in zip(read, jax.tree.leaves(folder[1]), strict=True):
    np.testing.assert_array_equal(a, b)
  rows = found.rows("test", trials=2)["mock"]
  assert [r["trial"] for r in rows] == [0, 1]
  assert len({r["task_id"] for r in rows}) == 1


@pytest.mark.parametrize(
  "command, words",
  [
    ([], "give --workdir=RUN, or --model=FOLDER"),
    (["--workdir=x", "--stagee=1"], "unrecognized arguments: --stagee=1"),
    (["--workdir=x", "--trials=0"], "--trials=0: it must be 1 or more"),
    (["--model=x", "--config=configs/blobs.py"], "an LLM acts"),
    (["--model=x"], "which experiment?"),
    (["--model=x", "--config=configs/grpo_smoke.py"], "no folder or file x"),
  ],
)
def test_what_is_to_be_tried_must_be_clear(command, words, capsys, monkeypatch):
  monkeypatch.chdir(ROOT)
  assert evaluate.main(command) == 2
  assert words in capsys.readouterr().err
