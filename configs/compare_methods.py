"""The methods on the main job: equal rollouts, equal updates.

  python -m jax_cl.compare --config=configs/compare_methods.py --workers=2 \\
    --methods=sequential,$METHODS --seeds=3 --orders=latin \\
    --baselines=joint,independent --repeat_aa
  METHODS=replay_20,replay_50,adaptive_replay,online_ewc,agem,derpp

The quickstart's stream (airline, retail, telecom; all tools in one action
space) at half its updates and twice its rate, so that a run takes less than a
minute of one core. Replay takes its share out of the batch (`within`), so that
every method does the same number of updates on the same number of new episodes;
A-GEM and DER++ read their memory beside the batch, as their papers do.

  --config=configs/compare_methods.py:tune       four settings of every method
  --config=configs/compare_methods.py:spaces     action spaces domain and seen
  --config=configs/compare_methods.py:appended   replayed rows beside the batch

`tune` is one order and one seed (`--seeds=1 --split=val`). Highest there, by
average_performance, is what `CHOSEN` holds (of equals the first); test is not
looked at. Two CPU cores, about 35 s a run. Measured on val, seed 0, setting by
setting: replay_20 .60 .24 .69 .34 (the last with `surprise`), replay_50 .44 .58
.58 .26, adaptive_replay .60 .60 .49 .49, online_ewc .61 .64 .64 .64, agem .60
.56 .51 .60, derpp .69 .62 .64 .62; sequential .29. One seed: what two settings
differ by, two seeds of one may, too. What is chosen reaches on test: see
results/methods.
"""

import itertools

from configs import quickstart
from jax_cl import names

REPLAY = [
  {"capacity": 1000, "strategy": "random"},
  {"capacity": 250, "strategy": "random"},
  {"capacity": 1000, "strategy": "balanced"},
  {"capacity": 1000, "strategy": "surprise"},
]
# Four settings of each method, an equal budget.
SETTINGS = {
  "replay_20": [{"ratio": 0.2, "mode": "within", **x} for x in REPLAY],
  "replay_50": [{"ratio": 0.5, "mode": "within", **x} for x in REPLAY],
  "adaptive_replay": [
    {"initial_ratio": r, "max_ratio": top, "mode": "within"}
    for r, top in itertools.product((0.2, 0.4), (0.5, 0.8))
  ],
  "online_ewc": [{"lam": x} for x in (1.0, 10.0, 100.0, 1000.0)],
  "agem": [
    {"ratio": r, "capacity": n}
    for r, n in itertools.product((1.0, 0.5), (1000, 250))
  ],
  "derpp": [
    {"alpha": a, "beta": b}
    for a, b in ((0.5, 0.5), (0.1, 0.5), (0.5, 1.0), (1.0, 1.0))
  ],
}
CHOSEN = {  # place in SETTINGS
  "replay_20": 2, "replay_50": 1, "adaptive_replay": 0, "online_ewc": 1,
  "agem": 0, "derpp": 0,
}  # fmt: skip


def short():
  """The quickstart at half its updates and twice its rate."""
  config = quickstart.get_config()
  config.stream.clone_steps, config.optim.lr = 400, 0.02
  config.stream.pg_steps = 3
  config.train.save_interval = 1000  # at the ends of stages
  config.eval.interval = 0
  return config


def get_config(what: str = "methods"):
  names.check("comparison", what, COMPARISONS)
  config = short()
  if what != "tune":
    config.eval.val_trials = 0
  config.variants = COMPARISONS[what]()
  return config


def methods():
  """One variant a method, at the setting chosen on val."""
  return {name: _variant(name, CHOSEN[name]) for name in SETTINGS}


def tune():
  return {
    f"{name}_{i}": _variant(name, i)
    for name, some in SETTINGS.items()
    for i in range(len(some))
  }


def spaces():
  """Sequential, replay and EWC where each domain has its own tools, and where
  those of the domains seen so far are in one space."""
  return {
    f"{name}_{tools}": {
      **({} if name == "sequential" else _variant(name, CHOSEN[name])),
      "stream": {"tools": tools},
    }
    for name in ("sequential", "replay_20", "online_ewc")
    for tools in ("domain", "seen")
  }


def appended():
  """Replay as used, its rows beside the batch: more compute an update."""
  out = {}
  for name in ("replay_20", "replay_50"):
    one = _variant(name, CHOSEN[name])
    one["cl"]["args"]["replay"]["mode"] = "appended"
    out[f"{name}_appended"] = one
  return out


def _variant(name: str, i: int):
  method = "replay" if name.startswith("replay_") else name
  one = {"cl": {"name": method, "args": {method: dict(SETTINGS[name][i])}}}
  if method == "adaptive_replay":  # it follows the scores on val
    one["eval"] = {"val_trials": 1}
  return one


COMPARISONS = {f.__name__: f for f in (methods, tune, spaces, appended)}
