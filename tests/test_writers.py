"""Trackers by name, offline."""

import struct
import sys
import types

import numpy as np
import pytest

from jax_cl import writers

ROW = {
  "loss": np.float32(0.5),
  "note": "text",
  "bad": float("nan"),
  "none": None,
  "list": [1, 2],
  "test": {"airline": {"reward": 0.25}},
}


def test_scalars_are_flattened_and_only_numbers_are_kept():
  assert writers.scalars(ROW) == {"loss": 0.5, "test/airline/reward": 0.25}


def test_tensorboard_writes_events_that_can_be_read_back(tmp_path):
  pytest.importorskip("tensorboardX")
  writer = writers.make("tensorboard", tmp_path, {"seed": 0})
  writer.log(1, ROW)
  writer.log(2, ROW)
  writer.close()
  (file,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
  assert _events(file) == [
    (1, "loss", 0.5),
    (1, "test/airline/reward", 0.25),
    (2, "loss", 0.5),
    (2, "test/airline/reward", 0.25),
  ]


def _events(file):
  """(step, name, value) of a file of records: length, crc, bytes, crc."""
  from tensorboardX.proto.event_pb2 import Event

  data, out = file.read_bytes(), []
  while data:
    (n,) = struct.unpack("<Q", data[:8])
    event = Event.FromString(data[12 : 12 + n])
    out += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
    data = data[16 + n :]
  return out


def test_wandb_is_offline_and_resumes_under_one_id(tmp_path, monkeypatch):
  calls = []

  class Run:
    def log(self, values, step):
      calls.append(("log", step, values))

    def finish(self):
      calls.append(("finish",))

  fake = types.ModuleType("wandb")
  fake.init = lambda **args: calls.append(("init", args)) or Run()
  monkeypatch.setitem(sys.modules, "wandb", fake)
  monkeypatch.delenv("WANDB_MODE", raising=False)
  writer = writers.make("wandb", tmp_path / "mine", {"seed": 3})
  writer.log(7, ROW)
  writer.close()
  (_, init), log, finish = calls
  assert init["mode"] == "offline" and init["config"] == {"seed": 3}
  assert init["name"] == "mine" and init["resume"] == "allow"
  for folder in ("mine", "other/mine"):  # cells of a grid share a last name
    writers.make("wandb", tmp_path / folder, {}).close()
  again, other = (c[1]["id"] for c in calls[3:] if c[0] == "init")
  assert again == init["id"] != other
  assert init["dir"] == str(tmp_path / "mine")
  assert log == ("log", 7, {"loss": 0.5, "test/airline/reward": 0.25})
  assert finish == ("finish",)


@pytest.mark.parametrize(
  ("name", "package"), [("wandb", "wandb"), ("tensorboard", "tensorboardX")]
)
def test_a_missing_package_is_named_with_the_remedy(
  name, package, tmp_path, monkeypatch
):
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(
    ValueError, match=f"{package}.*pip install 'jax_cl.trackers"
  ):
    writers.make(name, tmp_path)


def test_unknown_names_list_the_known():
  with pytest.raises(ValueError, match="did you mean 'tensorboard'.*known: "):
    writers.make("tensorbord", ".")
