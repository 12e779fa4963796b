import shutil

import pytest

from jax_cl import checkpoint, evaluate


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
  first, second, third = capsys.readouterr().err.splitlines()
  assert "no config.json" in first
  assert "no checkpoint after stage 7; it has [-1, 0, 1, 2]" in second
  assert "unknown split 'tets' (did you mean 'test'?)" in third


def test_a_damaged_checkpoint_of_an_old_stage(finished, tmp_path, capsys):
  workdir = shutil.copytree(finished[0], tmp_path / "run")
  damaged = checkpoint.path_of(workdir, 1, 0)
  (damaged / "state" / "_METADATA").write_text("{")
  assert evaluate.main([f"--workdir={workdir}", "--stage=0"]) == 2
  err = capsys.readouterr().err
  assert f"{damaged} is damaged" in err
  assert "delete it and any later one, and the run's command makes" in err
