import json

import jax.numpy as jnp
import numpy as np
import pytest

from jax_cl import checkpoint
from jax_cl.types import TrainState


def state(x, n=3):
  return TrainState(
    params={"w": jnp.full(n, x, jnp.float32)}, opt=(), cl=(), buffer=(),
    key=jnp.zeros(2, jnp.uint32), step=jnp.int32(x), stage=jnp.int32(0),
  )  # fmt: skip


def test_only_the_newest_inside_a_stage_stays(tmp_path):
  for place in [(0, 0), (0, 5), (0, 10), (1, 0), (1, 5)]:
    checkpoint.save(tmp_path, *place, state(1), {})
  assert checkpoint.places(tmp_path) == [(0, 0), (1, 0), (1, 5)]


def test_round_trip_of_arrays_and_json(tmp_path):
  host = {"a": [0.1, None, {"b": "text"}], "n": 2**40, "empty": []}
  checkpoint.save(tmp_path, 0, 1, state(0.1), host)
  assert checkpoint.host(tmp_path, 0, 1) == host
  again = checkpoint.restore(tmp_path, 0, 1, state(7))
  np.testing.assert_array_equal(again.params["w"], state(0.1).params["w"])
  assert isinstance(again, TrainState) and again.step == 0


def test_what_a_kill_left_is_no_checkpoint_and_is_cleaned(tmp_path):
  checkpoint.save(tmp_path, 0, 0, state(1), {})
  part = tmp_path / "checkpoints" / "stage000-step000005.orbax-checkpoint-tmp"
  part.mkdir()
  assert checkpoint.places(tmp_path) == [(0, 0)]
  checkpoint.clean(tmp_path)
  assert not part.exists() and checkpoint.places(tmp_path) == [(0, 0)]


def test_another_config_is_refused(tmp_path):
  checkpoint.save(tmp_path, 0, 0, state(1), {})
  with pytest.raises(ValueError, match="another config"):
    checkpoint.restore(tmp_path, 0, 0, state(1, n=4))
  other = state(1)._replace(params={"v": jnp.zeros(3)})
  with pytest.raises(ValueError, match="another config"):
    checkpoint.restore(tmp_path, 0, 0, other)


def test_a_damaged_file_is_named(tmp_path):
  checkpoint.save(tmp_path, 0, 0, state(1), {"x": 1})
  path = checkpoint.path_of(tmp_path, 0, 0)
  files = [f for f in (path / "state").rglob("d/*") if f.is_file()]
  for f in files:
    f.write_bytes(b"\0" * f.stat().st_size)
  assert files
  with pytest.raises(ValueError, match="damaged.*delete it"):
    checkpoint.restore(tmp_path, 0, 0, state(1))
  host = next(f for f in (path / "host").iterdir() if f.is_file())
  host.write_text(json.dumps({"x": 1})[:-3])
  with pytest.raises(ValueError, match="damaged"):
    checkpoint.host(tmp_path, 0, 0)


def test_a_missing_one_names_those_that_are_there(tmp_path):
  checkpoint.save(tmp_path, 2, 0, state(1), {})
  with pytest.raises(ValueError, match=r"stages there: 2 \(step 0\)"):
    checkpoint.host(tmp_path, 3, 0)
