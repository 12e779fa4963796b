"""One row of R: the policy of a stage on every domain.

  python -m jax_cl.evaluate --workdir=runs/quickstart [--stage=k] [--split=test]

restores the checkpoint after stage k (-1: the starting policy; default: the
last one) in this process, evaluates it anew, and compares every episode with
the run's log. Exit code 1 where one differs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from jax_cl import build, checkpoint, logs, metrics, names, shell, update
from jax_cl.console import Console
from jax_cl.methods.base import Method
from jax_cl.problems.base import Problem
from jax_cl.types import Episode, Stage, TrainState

Row = dict[str, Any]


def views(
  what: Problem,
  method: Method,
  steps: update.Steps,
  state: TrainState,
  stage: int,
) -> Callable[[str], Any]:
  """domain -> the parameters that act on it after `stage`.

  One policy for all domains; a method that needs `stage_at_test` is told which
  stage a domain belongs to, which makes its scores another kind of number.
  """
  if "stage_at_test" not in method.needs:
    params = steps.view(state)
    return lambda domain: params
  return lambda d: steps.view(state, told_stage(what.stages, d, stage))


def told_stage(stages: Sequence[Stage], domain: str, stage: int) -> int:
  """The last stage so far that trained on the domain; today's if none did."""
  own = [i for i, s in enumerate(stages[: stage + 1]) if domain in s.domains]
  return own[-1] if own else max(stage, 0)


def row(
  what: Problem,
  view: Callable[[str], Any],
  frozen: Any,
  stage: int,
  step: int,
  split: str,
  trials: int,
  seed: int,
  domains: Sequence[str] | None = None,
  log: Callable[[Row, Episode], None] = lambda row, episode: None,
) -> dict[str, list[Row]]:
  """domain -> rows of `episodes.jsonl`, of the given (default: all) domains.

  `view` gives the parameters that act on a domain (`views`).
  The same `seed` at every stage: the same users and the same draws, so that
  two stages differ by their policies alone.
  """
  out = {}
  for domain in what.domains if domains is None else domains:
    episodes = what.evaluate(
      view(domain), frozen, domain, split, seed, trials, stage
    )
    out[domain] = [logs.episode_row(e, "eval", stage, step) for e in episodes]
    for one, episode in zip(out[domain], episodes, strict=True):
      log(one, episode)
  return out


def scores(rows: dict[str, list[Row]]) -> dict[str, dict[str, Any]]:
  return {domain: metrics.score(r) for domain, r in rows.items()}


def read_config(workdir) -> ConfigDict:
  """config.json as the ConfigDict that made it (lists are tuples again)."""
  import pathlib

  file = pathlib.Path(workdir) / "config.json"
  if not file.exists():
    raise ValueError(
      f"{workdir} holds no config.json: it is not a run's workdir"
    )
  config = ConfigDict(_tuples(logs.read_json(file)))
  build.check(config)
  return config


def again(
  workdir, stage: int | None = None, split: str = "test"
) -> tuple[dict[str, list[Row]], list[str]]:
  """(rows of one stage, evaluated anew; what differs from the log)."""
  config = read_config(workdir)
  what = build.problem(config)
  method = build.method(config, len(what.domains), build.trains(what))
  steps = build.steps(config, what, method)
  ends = [k - 1 for k, step in checkpoint.places(workdir) if step == 0]
  if stage is None and ends:
    stage = ends[-1]
  if stage not in ends:
    raise ValueError(
      f"{workdir} has no checkpoint after stage {stage}; it has {ends} "
      "(-1 is the starting policy)"
    )
  assert stage is not None
  host = checkpoint.host(workdir, stage + 1, 0)
  if host["fingerprint"] != what.fingerprint:
    raise ValueError(
      f"the data of {workdir} are not those here: fingerprint "
      f"{host['fingerprint']} there, {what.fingerprint} here"
    )
  like, frozen = steps.init(jax.random.key(config.seed))
  state = checkpoint.restore(workdir, stage + 1, 0, like)
  trials = config.eval.trials if split == "test" else config.eval.val_trials
  view = views(what, method, steps, state, stage)
  rows = row(
    what, view, frozen, stage, int(state.step), split, trials, config.eval.seed
  )
  logged, _ = metrics.load(workdir)
  old = metrics.final_rows(logged, split)
  wrong = []
  for domain, new in rows.items():
    before = old.get((stage, domain), [])
    if len(before) != len(new):
      wrong.append(f"{domain}: {len(before)} episodes logged, {len(new)} now")
    for a, b in zip(before, new):
      if a != b:
        keys = [k for k in {**a, **b} if a.get(k) != b.get(k)]
        wrong.append(f"{domain} {b['task_id']} trial {b['trial']}: {keys}")
  return rows, wrong


@shell.command
def main(argv: Sequence[str] | None = None) -> int:
  parser = shell.Parser(
    prog="python -m jax_cl.evaluate", description=__doc__.split("\n")[0]
  )
  parser.add_argument("--workdir", required=True)
  parser.add_argument("--stage", type=int, default=None)
  parser.add_argument("--split", default="test", help="test or val")
  args = parser.parse_args(argv)
  names.check("split", args.split, ("test", "val"))
  rows, wrong = again(args.workdir, args.stage, args.split)
  if not any(rows.values()):
    raise ValueError(
      f"this run evaluates nothing on {args.split}: see config.eval.val_trials"
    )
  stage = next(r["stage"] for some in rows.values() for r in some)
  console = Console()
  console.table(stage, scores(rows))
  n = sum(len(r) for r in rows.values())
  if wrong:
    console.say(f"{len(wrong)} differences from the log, first: {wrong[0]}")
    return 1
  console.say(f"identical to the log: {n} episodes of row {stage + 1} of R")
  return 0


def _tuples(x: Any) -> Any:
  if isinstance(x, dict):
    return {k: _tuples(v) for k, v in x.items()}
  return tuple(_tuples(v) for v in x) if isinstance(x, list) else x


if __name__ == "__main__":
  sys.exit(main())
