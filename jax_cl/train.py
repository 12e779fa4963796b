"""The experiment, top to bottom.

`run(config, workdir)` trains one method on one stream and returns the metrics.
The row R[0, .] is measured before any demonstration is seen; after each stage
val is read first (a method may observe it), then test, which chooses nothing.

All randomness is a pure function of (seed, stage, step), on the host and on the
device, and every checkpoint knows how long the logs were: after a kill at any
moment the same call goes on and ends with the same logs, bit for bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from jax_cl import (
  batching,
  build,
  checkpoint,
  evaluate,
  leaks,
  logs,
  metrics,
  reports,
  sharding,
  update,
  writers,
)
from jax_cl.console import Console
from jax_cl.problems import base as problems
from jax_cl.types import Episode, Stage

# Streams of host seeds below one (seed, stage, step).
_ROLLOUT, _ROWS, _DEMOS = range(3)


class Place(NamedTuple):
  """Where in the stream a run stands; what a checkpoint's host side holds."""

  stage: int = 0
  step: int = 0  # done in this stage
  pending: tuple = ()  # scalars of steps that no interval row holds yet


def run(
  config: ConfigDict,
  workdir: str | os.PathLike,
  known: dict[Any, Any] | None = None,
) -> dict[str, Any]:
  """Runs, or goes on with, the experiment in `workdir`; returns `results.json`.

  `known` carries compiled functions from run to run (`build.shared`).
  Ctrl-C saves where it stands and raises KeyboardInterrupt; on many hosts it
  goes back to the last save.
  """
  build.check(config)
  what = build.problem(config)
  method, steps = build.shared(config, what, {} if known is None else known)
  build.check_needs(what, method)
  speaks = None if sharding.first() else io.StringIO()
  console = Console(
    config.verbose, config.log_interval, config.use_progress_bar, speaks
  )
  console.say(build.describe(config.cl.name, method, steps))
  steps = update.loud(steps)
  if sharding.first():
    files = logs.Workdir(workdir, _plain(config))
  else:
    files = logs.Shown(workdir)
  with contextlib.closing(files):
    one = _Run(config, what, method, steps, files, console)
    with _deferred_interrupts() as hold:
      try:
        one.stream(hold)
        one.summary()
      except KeyboardInterrupt:
        console.say(
          f"\nInterrupted; saved in {files.path}. The same command goes on "
          f"from stage {one.place.stage}, step {one.place.step}."
        )
        raise
      finally:
        one.close()
    if sharding.first():
      results = metrics.recompute(files.path)
      reports.write(files.path)  # matrix.png, curves.png, report.html, .md
      console.final(results, files.path)
    sharding.wait("results")
    return logs.read_json(files.path / "results.json")


@dataclasses.dataclass
class Spent:
  """Wall time since the last interval, for timing.jsonl."""

  began: float = dataclasses.field(default_factory=time.monotonic)
  rollout: float = 0.0  # of episodes
  aside: float = 0.0  # of evaluations and saves
  tokens: int = 0  # sampled in the episodes

  @contextlib.contextmanager
  def time(self, what: str) -> Iterator[None]:
    began = time.monotonic()
    try:
      yield
    finally:
      setattr(self, what, getattr(self, what) + time.monotonic() - began)

  def row(self) -> dict[str, float]:
    """Updates are the rest, since the device works while the host goes on."""
    whole = time.monotonic() - self.began - self.aside
    out = {"rollout_s": self.rollout, "update_s": whole - self.rollout}
    if self.rollout and self.tokens:
      out |= {"tokens": self.tokens, "tokens_per_s": self.tokens / self.rollout}
    return out


class _Run:
  """What the functions of one run share: the state and where it stands."""

  def __init__(self, config, what, method, steps, files, console):
    self.config, self.what, self.method = config, what, method
    self.steps, self.files, self.console = steps, files, console
    self.batch_size = config.train.batch_size
    self.guard = leaks.Guard(what.tasks)
    self.place = Place()
    self.layout = build.layout(config)
    self._restore()
    self.trackers = [
      writers.make(w, files.path, _plain(config), self.total())
      for w in config.writers
      if sharding.first()
    ]

  # ------------------------------------------------------------ the experiment

  def stream(self, hold) -> None:
    """Start row, then stage after stage."""
    if self.fresh:
      self.files.write("run.json", self.about)
      self.rows(-1)
      with hold():
        self.save()
    while self.place.stage < len(self.what.stages):
      self.stage(hold)

  def stage(self, hold) -> None:
    k, n = self.place.stage, self.place.step
    stage, what = self.what.stages[k], self.what
    sizes = [what.sizes[d] for d in stage.domains]
    self.console.stage(
      k,
      stage.name,
      *(sum(s[x] for s in sizes) for x in ("train", "val", "test")),
    )
    demos = None
    if stage.clone_steps:
      demos = what.demos(k)
      self.guard.batch(demos, f"demonstrations of stage {k}")
      demos = jax.device_put(demos)
    self.spent = Spent()
    began = time.monotonic()
    try:
      with self.console.bar(k, stage.name, stage.steps, n) as bar:
        for n in range(n, stage.steps):
          if n == 0:
            with hold():
              if stage.fresh:
                self.state = self.new_learner()
              self.state = self.steps.start(self.state, k)
          batch, episodes = self.experience(k, n, demos)
          with hold():
            self.learn(k, n, demos, batch, episodes, bar)
    except KeyboardInterrupt:  # state, logs and place are of one step
      if sharding.alone():  # others may stand at another step
        with hold():
          self.save()
      raise
    with hold():
      self.save()
    self.timing("train", k, began)

    began = time.monotonic()
    if self.method.capacity:
      self.guard.buffer(self.state.buffer)
    if self.method.rows or self.steps.keep:
      self.end(self.last_rows(k, demos))
    self.rows(k)
    with hold():
      self.place = Place(k + 1)
      self.save()
    self.timing("evaluate", k, began)

  def end(self, batches) -> None:
    """What a method, and the metric of change, take from a stage's rows."""
    if self.method.rows:
      self.state = self.steps.end(self.state, self.frozen, batches)
    if self.steps.keep:
      self.state = self.steps.keep(self.state, self.frozen, batches)

  def summary(self) -> None:
    """What the problem says of the whole run, and of this process's work."""
    values = self.what.summary(self.view(), self.frozen)
    if values:
      self.write({"phase": "run", "step": self.total(), "summary": values})
      self.files.flush()
    if note := self.what.note():
      self.console.say(note)

  def experience(self, k: int, n: int, demos):
    """(batch, episodes) of a step: demonstrations first, then its own."""
    what, stage = self.what, self.what.stages[k]
    if n < stage.clone_steps:
      visit = _visit(what.stages, k)
      seed, i = self.seed(visit.first, 0, _DEMOS), visit.before + n
      shuffle = self.config.train.shuffle
      return problems.minibatch(demos, self.batch_size, i, seed, shuffle), ()
    mix = self.method.mix(self.state.cl, self.state.stage)
    mix = None if mix is None else np.asarray(mix)
    seed = self.seed(k, n, _ROLLOUT)
    params = jax.block_until_ready(self.view())
    with self.spent.time("rollout"):
      episodes = what.collect(params, self.frozen, k, n, seed, mix)
    tokens = (e.info.get("tokens_sampled", 0) for e in episodes)
    self.spent.tokens += sum(tokens)
    return self.taken(k, n, episodes), episodes

  def new_learner(self):
    """The state before any training, at today's step: independent training."""
    state, _ = self.steps.init(jax.random.key(self.config.seed))
    return state._replace(step=self.state.step, kept=self.state.kept)

  def learn(self, k: int, n: int, demos, batch, episodes, bar) -> None:
    """One update, and what is written down about it."""
    stage, config = self.what.stages[k], self.config
    batch = sharding.place(batch, self.layout.rows)
    self.state, aux = self.steps.update(self.state, self.frozen, batch)
    self.remember(k, n, demos, batch, episodes)
    for fraction, phase in self.steps.phases:
      if n + 1 == update.phase_step(fraction, stage.steps):
        self.state = phase(self.state)

    self.log_episodes(episodes, k, self.total(k, n + 1))
    values = {**aux, **_summary(episodes)}
    self.place = Place(k, n + 1, (*self.place.pending, values))
    bar.step(values)
    if (n + 1) % config.log_interval == 0 or n + 1 == stage.steps:
      self.interval()
    every = config.eval.interval
    due = every and (n + 1) % every == 0
    if config.eval.get("warm_start", False):
      due = due or n + 1 == stage.clone_steps
    if due and n + 1 < stage.steps:
      self.look(k, n + 1)
    if (n + 1) % config.train.save_interval == 0 and n + 1 < stage.steps:
      with self.spent.time("aside"):
        self.save()

  def look(self, k: int, n: int) -> None:
    """Val within a stage: of its domains; of all seen if the method follows."""
    domains, follows = self.what.stages[k].domains, "val" in self.method.needs
    seen = [d for d in self.what.domains if self._seen(d, k)]
    rows = self.evaluate("val", seen if follows else domains, k)
    score = metrics.score([r for d in domains for r in rows[d]])
    self.console.evaluation(k, n, score)
    if follows:
      self.observe(evaluate.scores(rows))

  def observe(self, scores) -> None:
    """Tells the method the scores on val; NaN where there is none."""
    row = [
      scores[d]["reward"] if d in scores else None for d in self.what.domains
    ]
    row = [np.nan if x is None else x for x in row]
    self.state = self.steps.observe(self.state, np.asarray(row, np.float32))

  def remember(self, k: int, n: int, demos, batch, episodes) -> None:
    """Hands the memory each demonstration once a run, and all that was done."""
    if self.steps.remember is None:
      return
    if n < self.what.stages[k].clone_steps:
      _, before, total = _visit(self.what.stages, k)
      epoch = problems.per_epoch(demos, self.batch_size)
      first = 0
      if self.method.demos == "last":
        first = max(total // epoch - 1, 0) * epoch
      place = before + n
      if self.method.demos == "none" or not first <= place < first + epoch:
        return
    else:
      batch = self.everything(k, n, episodes)
    self.state = self.steps.remember(self.state, self.frozen, batch)

  def everything(self, k: int, n: int, episodes):
    """A batch that leaves no group out: for memory and Fisher."""
    batch = self.taken(k, n, episodes, every=True)
    return sharding.place(batch, self.layout.rows)

  def taken(self, k: int, n: int, episodes, every: bool = False):
    """Episodes as a batch, which no held-out task is in."""
    batch = self.what.batch(episodes, self.seed(k, n, _ROWS), every=every)
    self.guard.batch(batch, f"stage {k}, step {n + 1}")
    return batch

  def last_rows(self, k: int, demos):
    """Batches for `Method.end`, [n, B, ...]: on-policy where possible."""
    stage, size = self.what.stages[k], self.batch_size
    batches = []
    for i in range(max(-(-self.method.rows // size), 1)):
      n = stage.steps + i
      if stage.clone_steps == stage.steps:
        seed = self.seed(k, n, _DEMOS)
        batches.append(problems.minibatch(demos, size, i, seed))
      else:
        _, episodes = self.experience(k, n, demos)
        self.log_episodes(episodes, k, self.total())
        batches.append(self.taken(k, n, episodes, every=True))
    batches = jax.tree.map(lambda *xs: np.stack(xs), *batches)
    return sharding.place(batches, sharding.stacked(self.layout.rows))

  # ---------------------------------------------------------------- evaluation

  def rows(self, k: int) -> None:
    """Val for the method, then the stage's row of R."""
    what, console = self.what, self.console
    if self.config.eval.val_trials:
      scores = evaluate.scores(self.evaluate("val", what.domains, k))
      if k >= 0:
        self.observe(scores)
    scores = evaluate.scores(self.evaluate("test", what.domains, k))
    self.matrix.append([scores[d]["reward"] for d in what.domains])
    seen = [d for d in what.domains if self._seen(d, k)] or what.domains
    console.table(k, {d: scores[d] for d in seen})
    if k < 0:
      return
    values = metrics.after_stage(
      np.array(self.matrix, float), metrics.own_stages(self.about)
    )
    console.transfer(k, values)
    report = self.report()
    console.replay(what.stages[k].name, report)
    row = {
      "phase": "stage",
      "stage": k,
      "step": self.total(),
      "metrics": values,
    }
    self.write({**row, **report})

  def evaluate(self, split: str, domains, k: int):
    trials = self.config.eval.trials
    if split == "val":
      trials = self.config.eval.val_trials
    step = self.total() if k >= 0 else 0

    def log(row, episode):
      self.files.append("episodes.jsonl", row)
      self.trajectory(episode, "eval", k, step)

    view = evaluate.views(self.what, self.method, self.steps, self.state, k)
    rows = evaluate.row(
      self.what, view, self.frozen, k, step, split, trials,
      self.config.eval.seed, domains, log,
    )  # fmt: skip
    for domain, score in evaluate.scores(rows).items():
      self.write({
        "phase": "eval", "stage": k, "step": step, "split": split,
        "domain": domain, **score,
      })  # fmt: skip
    return rows

  # ------------------------------------------------------------- state on disk

  def _restore(self) -> None:
    """The newest checkpoint's state, or a new one."""
    files = self.files
    self.state, self.frozen = self.steps.init(jax.random.key(self.config.seed))
    self.matrix: list[list[float | None]] = []
    checkpoint.clean(files.path)
    places = checkpoint.places(files.path)
    self.fresh = not places
    if self.fresh:
      files.cut({})
      self.about = self._about()
      return
    self.about = logs.read_json(files.path / "run.json")
    host = checkpoint.host(files.path, *places[-1])
    if host["fingerprint"] != self.what.fingerprint:
      raise ValueError(
        f"the data of {files.path} are not those here (fingerprint "
        f"{host['fingerprint']} there, {self.what.fingerprint} here): name "
        "another --workdir"
      )
    self.state = checkpoint.restore(files.path, *places[-1], self.state)
    if self.method.capacity:
      self.guard.buffer(self.state.buffer)
    if self.steps.keep:
      self.guard.batch(self.state.kept.rows, "the rows kept of ended stages")
    self.place = Place(*places[-1], tuple(host["pending"]))
    self.matrix = host["matrix"]
    files.cut(host["logs"])
    self.console.say(
      f"Resuming {files.path} at stage {self.place.stage}, step "
      f"{self.place.step}"
    )

  def save(self) -> None:
    """State and place, unless a NaN is among the pending scalars."""
    self._settle()
    host = {
      "fingerprint": self.what.fingerprint,
      "pending": self.place.pending,
      "matrix": self.matrix,
      "logs": self.files.flush(),
    }
    at = self.place.stage, self.place.step
    checkpoint.save(self.files.path, *at, self.state, host)

  def _settle(self) -> None:
    """Fetches pending scalars; a loss that is no number stops the run."""
    k = self.place.stage
    pending = [_floats(v) for v in jax.device_get(self.place.pending)]
    self.place = self.place._replace(pending=tuple(pending))
    first = self.place.step - len(pending)
    for i, values in enumerate(pending):
      if not np.isfinite(values["loss"]):
        raise FloatingPointError(
          f"loss is {values['loss']} at stage {k} "
          f"({self.what.stages[k].name}), step {first + i + 1}: lower "
          "config.optim.lr or set config.optim.clip"
        )

  def interval(self) -> None:
    """One row of metrics.jsonl: means over the steps since the last one."""
    self._settle()
    pending, k = self.place.pending, self.place.stage
    names = sorted({n for v in pending for n in v})
    means = {
      n: float(np.mean([v[n] for v in pending if n in v])) for n in names
    } | self.moved(k)
    self.write({"phase": "train", "stage": k, "step": self.total(), **means})
    self.place = self.place._replace(pending=())
    row = {"what": "steps", "stage": k, "step": self.total()}
    self.files.append("timing.jsonl", {**row, **self.spent.row()})
    self.spent = Spent()

  def moved(self, k: int) -> dict[str, float]:
    """KL to the policy at each earlier stage's end, by the stages' names."""
    if self.steps.moved is None or not k:
      return {}
    values = np.asarray(self.steps.moved(self.state, self.frozen))
    names = [s.name for s in self.what.stages[:k]]
    out = {"kl_earlier": float(values[:k].mean())}
    for name in dict.fromkeys(names):
      same = [v for n, v in zip(names, values) if n == name]
      out[f"kl_{name}"] = float(np.mean(same))
    return out

  def log_episodes(self, episodes: Sequence[Episode], k: int, step: int):
    for e in episodes:
      row = logs.episode_row(e, "train", k, step)
      self.files.append("episodes.jsonl", row)
      self.trajectory(e, "train", k, step)

  def trajectory(self, e: Episode, phase: str, k: int, step: int) -> None:
    """The whole conversation, where it is asked for."""
    if phase in self.config.get("record", ()):
      row = logs.trajectory_row(e, phase, k, step)
      self.files.append("trajectories.jsonl", row)

  def write(self, row: dict[str, Any]) -> None:
    self.files.append("metrics.jsonl", row)
    flat = {k: v for k, v in row.items() if k not in ("phase", "stage", "step")}
    split = f"/{row['split']}/{row['domain']}" if row["phase"] == "eval" else ""
    for tracker in getattr(self, "trackers", ()):
      tracker.log(row["step"], {row["phase"] + split: flat})

  def timing(self, what: str, k: int, began: float) -> None:
    row = {"what": what, "stage": k, "seconds": time.monotonic() - began}
    self.files.append("timing.jsonl", row)

  def close(self) -> None:
    for tracker in self.trackers:
      tracker.close()

  # --------------------------------------------------------------------- small

  def view(self):
    return self.steps.view(self.state)

  def seed(self, stage: int, step: int, use: int) -> int:
    entropy = (self.config.seed, stage, step, use)
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])

  def total(self, stage: int | None = None, step: int | None = None) -> int:
    """Optimiser steps since the stream began."""
    k = self.place.stage if stage is None else stage
    n = self.place.step if step is None else step
    return sum(s.steps for s in self.what.stages[:k]) + n

  def report(self) -> dict[str, Any]:
    """The method's statistics; leaves of one number a domain are named."""
    out = {}
    report = self.method.report(self.state.cl, self.state.buffer)
    for name, x in jax.device_get(report).items():
      x = np.asarray(x).tolist()
      if isinstance(x, list) and len(x) == len(self.what.domains):
        x = dict(zip(self.what.domains, x))
      out[name] = x
    return out

  def _seen(self, domain: str, k: int) -> bool:
    return any(domain in s.domains for s in self.what.stages[: k + 1])

  def _about(self) -> dict[str, Any]:
    """`run.json`; the format is told in `metrics`."""
    config = self.config
    return {
      "name": config.name or config.cl.name,
      "method": config.cl.name,
      "stage_at_test": "stage_at_test" in self.method.needs,
      "seed": config.seed,
      "domains": list(self.what.domains),
      "stages": [
        {
          "name": s.name,
          "domains": list(s.domains),
          "steps": s.steps,
          "clone_steps": s.clone_steps,
        }
        for s in self.what.stages
      ],
      **self.what.about,
    }


@contextlib.contextmanager
def _deferred_interrupts() -> Iterator[Any]:
  """Gives `hold`: a Ctrl-C inside `with hold():` is raised at its end.

  So state, logs and place never part. In another thread, where signals do not
  arrive, nothing is changed.
  """
  held, waiting = [False], [False]

  def handler(signum, frame):
    if held[0]:
      waiting[0] = True
    else:
      raise KeyboardInterrupt

  @contextlib.contextmanager
  def hold():
    held[0] = True
    try:
      yield
    finally:
      held[0] = False
    if waiting[0]:
      waiting[0] = False
      raise KeyboardInterrupt

  if threading.current_thread() is not threading.main_thread():
    yield hold
    return
  before = signal.signal(signal.SIGINT, handler)
  try:
    yield hold
  finally:
    signal.signal(signal.SIGINT, before)


class _Visit(NamedTuple):
  """A stage among all those on the same tasks: interleaved ones come back."""

  first: int  # the first such stage
  before: int  # cloning steps of those before this one
  total: int  # cloning steps of all


def _visit(stages: Sequence[Stage], k: int) -> _Visit:
  """So that a stage that comes back goes on in its epoch of demonstrations."""
  same = [i for i, s in enumerate(stages) if s.train == stages[k].train]
  cloned = [stages[i].clone_steps for i in same]
  return _Visit(same[0], sum(cloned[: same.index(k)]), sum(cloned))


def _summary(episodes: Sequence[Episode]) -> dict[str, float]:
  """Scalars of one step's episodes; failed ones are counted apart.

  A mean for each number that `info["figures"]` names; groups whose rewards are
  all equal teach nothing, and are counted by what they are equal in.
  """
  if not episodes:
    return {}
  ok = [e for e in episodes if not e.failure]
  out = {"failures": float(len(episodes) - len(ok))}
  if not ok:
    return out
  rewards = np.array([e.reward for e in ok])
  groups = batching.groups(episodes).values()
  equal = [r for g in groups if len(r := {episodes[i].reward for i in g}) == 1]
  figures = [e.info.get("figures", {}) for e in ok]
  return out | {
    "reward": float(rewards.mean()),
    "reward_max": float(rewards.max()),
    "reward_sd": float(rewards.std()),
    "pass": float(np.mean(rewards > 0.5)),
    "turns": float(np.mean([len(e.turns) for e in ok])),
    "groups": float(len(groups)),
    "groups_all_pass": float(sum(min(r) > 0.5 for r in equal)),
    "groups_all_fail": float(sum(min(r) <= 0.5 for r in equal)),
    **{
      name: float(np.mean([f[name] for f in figures if name in f]))
      for name in sorted({name for f in figures for name in f})
    },
  }


def _floats(values: dict[str, Any]) -> dict[str, float]:
  return {k: float(v) for k, v in values.items()}


def _plain(config: ConfigDict) -> dict[str, Any]:
  return json.loads(config.to_json())
