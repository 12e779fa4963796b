"""Logs as a run writes them, made up: skill that is learnt and then fades."""

import json
import pathlib

import numpy as np

SIZES = {"airline": (20, 6), "retail": (40, 15), "telecom": (40, 15)}
PEAK = {"airline": 0.52, "retail": 0.43, "telecom": 0.88}
START = {"airline": 0.2, "retail": 0.03, "telecom": 0.05}
KEEP = {"sequential": 0.45, "replay": 0.9, "online_ewc": 0.75}
REFERENCES = {
  name: {
    split: dict(zip(PEAK, values, strict=True)) for split in ("test", "val")
  }
  for name, values in {
    "do_nothing": (0.3, 0.05, 0.0),
    "always_transfer": (0.3, 0.05, 0.3),
    "oracle": (1.0, 1.0, 1.0),
  }.items()
}


def run(
  method="sequential",
  seed=0,
  order=("airline", "retail", "telecom"),
  curriculum="sequential",
):
  """What `run.json` holds."""
  groups = [list(order)] if curriculum == "joint" else [[d] for d in order]
  return {
    "name": "fake",
    "method": method,
    "seed": seed,
    "curriculum": curriculum,
    "domains": list(order),
    "stages": [
      {"name": "+".join(g), "domains": g, "steps": 100 * len(g)} for g in groups
    ],
    "protocol": {"name": "tau2_cl_v1", "data_hash": "0123456789abcdef01"},
    "references": REFERENCES,
    "references_write": {
      "do_nothing": {k: dict.fromkeys(PEAK, 0.0) for k in ("test", "val")}
    },
  }


def rows(run, trials=2, every=25):
  """Rows of `episodes.jsonl`: test at the ends of stages, val within them."""
  rng = np.random.default_rng([run["seed"], len(run["method"])])
  keep = KEEP.get(run["method"], 0.5)
  skill = dict(START)
  out = []

  def evaluate(stage, step, split):
    for d in run["domains"]:
      n = SIZES[d][split == "val"]
      hard = np.random.default_rng(len(d)).uniform(-0.3, 0.3, n)
      for task in range(n):
        for trial in range(trials):
          reward = float(rng.random() < np.clip(skill[d] + hard[task], 0, 1))
          calls = int(rng.integers(1, 5))
          hits = int(rng.binomial(calls, 0.4 + 0.5 * skill[d]))
          out.append(
            {
              "phase": "eval",
              "stage": stage,
              "step": step,
              "domain": d,
              "split": split,
              "task_id": f"{d}{task}",
              "trial": trial,
              "reward": reward,
              "parts": {"DB": reward},
              "pass": reward > 0.5,
              "requires_write": task % 5 > 0,
              "termination": "user_stop",
              "failure": "",
              "tool_calls": calls,
              "tool_hits": hits,
              "arg_hits": int(rng.binomial(hits, 0.8)),
              "n_turns": 12,
            }
          )

  evaluate(-1, 0, "val")
  evaluate(-1, 0, "test")
  step = 0
  for i, stage in enumerate(run["stages"]):
    before = dict(skill)
    if run["curriculum"] == "independent":
      before = dict(START)
    for at in range(every, stage["steps"] + 1, every):
      share = at / stage["steps"]
      for d in skill:
        goal = PEAK[d] if d in stage["domains"] else keep * before[d]
        skill[d] = before[d] + (goal - before[d]) * (1 - (1 - share) ** 2)
      evaluate(i, step + at, "val")
    step += stage["steps"]
    evaluate(i, step, "test")
  return out


def write(workdir, **args):
  """A finished run's raw logs below `workdir`."""
  workdir = pathlib.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  found = run(**args)
  (workdir / "run.json").write_text(json.dumps(found))
  lines = [json.dumps(r) + "\n" for r in rows(found)]
  (workdir / "episodes.jsonl").write_text("".join(lines))
  return workdir
