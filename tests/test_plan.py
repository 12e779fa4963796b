"""A plan tells what a run then holds, and makes nothing."""

import json
import pathlib

import jax
import pytest

import jax_cl
from configs import grpo_qwen2_5_7b
from jax_cl import build, commandline, plan
from jax_cl.policies import weights

ROOT = pathlib.Path(jax_cl.__file__).parents[1]
SMALL = (
  "--config=configs/grpo_smoke.py",
  "--config.agent.args.model_args.layers=1",
  "--config.agent.args.model_args.width=32",
  "--config.stream.domains=('mock',)",
  "--config.stream.length=128",
  "--config.train.batch_size=8",
  "--config.train.fsdp=2",
  "--config.train.tensor=2",
)


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
  monkeypatch.chdir(ROOT)


def held(of):
  """Bytes on the first device."""
  shards = (x.addressable_shards for x in jax.tree.leaves(of))
  here = jax.devices()[0]
  return sum(s.data.nbytes for x in shards for s in x if s.device == here)


def test_what_is_planned_is_what_is_held(tmp_path, capsys):
  out = tmp_path / "plan.json"
  assert plan.main([*SMALL, "--devices=8", f"--out={out}"]) == 0
  told = json.loads(out.read_text())
  assert told["mesh"] == {"data": 2, "fsdp": 2, "tensor": 2}

  config, _ = commandline.parse(["main", *SMALL])
  config.train.devices = 8
  what = build.problem(config)
  how = build.method(config, 1, build.trains(what))
  state, frozen = build.steps(config, what, how).init(jax.random.key(0))
  real = {k: held(getattr(state, k)) for k in ("params", "opt", "cl")}
  assert real["params"] > 0 and real["opt"] > 2 * real["params"] * 0.99
  assert {k: told["held"][k] for k in real} == real
  assert told["held"]["frozen"] == held(frozen) == 0
  at_weights = told["weights"]["layers/mlp/up/kernel"]
  assert at_weights["split"] == [None, "fsdp", "tensor"]
  assert at_weights["bytes"] == 4 * 1 * 32 * 128 / 4
  step = told["steps"]["update"]
  assert step["arguments"] >= sum(told["held"].values())
  assert told["peak"] >= sum(step.values()) > 0
  printed = capsys.readouterr().out
  assert "data 2 x fsdp 2 x tensor 2, 8 rows of 128" in printed
  assert "layers/mlp/up/kernel" in printed and "GiB a device" in printed


def test_a_model_of_the_hub_is_planned_without_a_file(monkeypatch):
  refuse = lambda *a, **k: pytest.fail("a file was asked for")
  monkeypatch.setattr(weights, "find", refuse)
  monkeypatch.setattr(weights, "load", refuse)
  monkeypatch.setattr(plan, "_programs", lambda *a: [("update", None)])
  monkeypatch.setattr(plan, "_measured", lambda _: {"temporaries": 0})
  told = plan.plan(grpo_qwen2_5_7b.get_config().lock())
  # 7,615,616,512 float32 numbers over eight devices; norms and biases whole.
  assert told["held"]["params"] == pytest.approx(4 * 7615616512 / 8, rel=1e-3)
  assert told["held"]["frozen"] == pytest.approx(2 * 7615616512 / 8, rel=1e-3)
  assert told["sampling"]["weights"] == 2 * 7615616512
  lora = plan.plan(grpo_qwen2_5_7b.get_config("lora").lock())
  learns = [k for k, x in lora["weights"].items() if x["trained"]]
  assert learns and all("/lora_" in k for k in learns)
  assert lora["held"]["params"] < told["held"]["params"] / 20


def test_more_devices_than_are_simulated(capsys):
  assert plan.main([*SMALL, "--devices=16"]) == 2
  assert "there are 8 (cpu)" in capsys.readouterr().err
