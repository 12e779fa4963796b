"""One row of R: the policy of a stage on every domain.

  python -m jax_cl.evaluate --workdir=runs/quickstart [--stage=k] [--split=test]

restores the checkpoint after stage k (-1: the starting policy; default: the
last one) in this process, evaluates it anew, and compares every episode with
the run's log. Exit code 1 where one differs.

  python -m jax_cl.evaluate --workdir=runs/grpo_tiny --trials=4 --sample
  python -m jax_cl.evaluate --model=FOLDER --trials=4
      --config=configs/grpo_qwen2_5_3b.py [--config.stream.length=8192]

do not compare, but try every task so many times, and give pass^1 to pass^4 of
each domain with intervals over its tasks: of a checkpoint, or of any model of
the hub's form under a config's protocol (prompt, user, turns, sampling).
  python -m jax_cl.evaluate --workdir=runs/grpo_tiny --stage=0 --export=FOLDER

writes the LLM as it stood after a stage as a hub folder, which transformers and
`agent.args.model=FOLDER` read; adapters are merged, or, with `--adapter`,
written alone as PEFT reads them.

`--sample` draws answers where the config takes the most probable ones, of which
one trial is like the other. `--out=FILE.json` keeps scores and episodes.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from jax_cl import (
  build,
  checkpoint,
  commandline,
  logs,
  metrics,
  names,
  shell,
  update,
)
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
  file = pathlib.Path(workdir) / "config.json"
  if not file.exists():
    raise ValueError(
      f"{workdir} holds no config.json: it is not a run's workdir"
    )
  config = ConfigDict(_tuples(logs.read_json(file)))
  build.check(config)
  return config


class Restored(NamedTuple):
  """A run as it stood after a stage, ready to act."""

  config: ConfigDict
  what: Problem
  view: Callable[[str], Any]
  frozen: Any
  stage: int
  step: int

  def rows(self, split: str, trials: int) -> dict[str, list[Row]]:
    return row(
      self.what, self.view, self.frozen, self.stage, self.step, split, trials,
      self.config.eval.seed,
    )  # fmt: skip


def restore(
  workdir, stage: int | None = None, sample: bool = False
) -> Restored:
  """The checkpoint after `stage`; `sample`: answers are drawn."""
  config = read_config(workdir)
  if sample:
    config.stream.greedy = False
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
  view = views(what, method, steps, state, stage)
  return Restored(config, what, view, frozen, stage, int(state.step))


def pretrained(config: ConfigDict, model: str, sample: bool) -> Restored:
  """A model by name or place, under the settings of a config; untrained."""
  if "model" not in config.agent.args:
    raise ValueError(
      f"--model={model} needs a config in which an LLM acts, as those of "
      "configs/grpo_*.py do"
    )
  # Nothing learns: no adapters, no reference, no floors to be measured. Sizes
  # are the model's own.
  config.agent.args.update({"model": model, "lora_rank": 0, "kl": 0.0})
  config.agent.args.model_args = ConfigDict()
  config.stream.references = False
  config.stream.greedy = config.stream.greedy and not sample
  build.check(config)
  what, key = build.problem(config), jax.random.key(config.seed)
  params, frozen = update.weights(what.agent, key, build.layout(config))
  return Restored(config, what, lambda domain: params, frozen, -1, 0)


def again(
  workdir, stage: int | None = None, split: str = "test"
) -> tuple[dict[str, list[Row]], list[str]]:
  """(rows of one stage, evaluated anew; what differs from the log)."""
  found = restore(workdir, stage)
  stage, asked = found.stage, found.config.eval
  trials = asked.trials if split == "test" else asked.val_trials
  rows = found.rows(split, trials)
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
    prog="python -m jax_cl.evaluate",
    description=__doc__.split("\n")[0],
    allow_abbrev=False,
  )
  parser.add_argument("--workdir", help="a run's folder")
  parser.add_argument("--stage", type=int, default=None)
  parser.add_argument("--split", default="test", help="test or val")
  parser.add_argument("--trials", type=int, help="of each task: gives pass^k")
  parser.add_argument("--sample", action="store_true", help="answers are drawn")
  parser.add_argument("--model", help="a hub folder or id, for --config")
  parser.add_argument("--out", help="a file for scores and episodes as JSON")
  parser.add_argument("--export", help="a folder for the LLM's weights")
  parser.add_argument("--adapter", action="store_true", help="its LoRA alone")
  args, rest = parser.parse_known_args(argv)
  names.check("split", args.split, ("test", "val"))
  if bool(args.model) == bool(args.workdir):
    raise ValueError(
      "give --workdir=RUN, or --model=FOLDER with --config=configs/NAME.py"
    )
  if args.workdir and rest:
    parser.error(f"unrecognized arguments: {' '.join(rest)}")
  if args.export:
    if args.model:
      parser.error("--export is of a run: give --workdir")
    return export(args)
  if args.adapter:
    parser.error("--adapter says what to write: give --export=FOLDER")
  if args.model or args.trials is not None or args.sample or args.out:
    return tries(args, rest)
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


def export(args: argparse.Namespace) -> int:
  """Writes a checkpoint's LLM as a hub folder."""
  if pathlib.Path(args.export).exists():
    raise ValueError(f"{args.export} exists: name a folder that does not")
  found = restore(args.workdir, args.stage)
  write = getattr(found.what, "export", None)
  if write is None:
    raise ValueError(
      f"no LLM learns in {args.workdir} (config.problem "
      f"{found.config.problem!r}): there is nothing to export"
    )
  domains = found.what.stages[max(found.stage, 0)].domains
  write(found.view(domains[-1]), found.frozen, args.export, args.adapter)
  Console().say(f"the LLM after stage {found.stage} is in {args.export}")
  return 0


def tries(args: argparse.Namespace, rest: Sequence[str]) -> int:
  """Tells pass^k of a model or of a checkpoint."""
  trials = 4 if args.trials is None else args.trials
  if trials < 1:
    raise ValueError(f"--trials={trials}: it must be 1 or more")
  if args.model:
    config, _ = commandline.parse(["evaluate", *rest])
    found = pretrained(config, args.model, args.sample)
  else:
    found = restore(args.workdir, args.stage, args.sample)
  rows = found.rows(args.split, trials)
  passed = {d: metrics.pass_estimates(some) for d, some in rows.items()}
  console = Console()
  console.table(found.stage, scores(rows))
  for domain, ks in passed.items():
    console.say(f"{domain:<10} | {_passes(ks)}")
  if trials > 1 and found.config.stream.get("greedy"):
    console.say("Answers are the most probable ones: --sample draws them")
  if args.out:
    told = {
      "of": args.model or args.workdir,
      "stage": found.stage,
      "split": args.split,
      "protocol": _protocol(args.workdir, found.what),
      "pass_hat_k": {
        d: {k: [e.mean, e.low, e.high] for k, e in ks.items()}
        for d, ks in passed.items()
      },
      "scores": scores(rows),
      "episodes": rows,
    }
    logs.write_json(pathlib.Path(args.out), metrics.jsonable(told))
  return 0


def _passes(ks: Mapping[int, metrics.Estimate]) -> str:
  one = lambda k, e: f"pass^{k} {e.mean:.3f} [{e.low:.3f}, {e.high:.3f}]"
  return "  ".join(one(k, e) for k, e in ks.items())


def _protocol(workdir: str | None, what: Problem) -> Any:
  """Under what a score is one; a run has told it, with its floors."""
  if workdir:
    return logs.read_json(pathlib.Path(workdir) / "run.json").get("protocol")
  return what.about.get("protocol")


def _tuples(x: Any) -> Any:
  if isinstance(x, dict):
    return {k: _tuples(v) for k, v in x.items()}
  return tuple(_tuples(v) for v in x) if isinstance(x, list) else x


if __name__ == "__main__":
  sys.exit(main())
