"""The files of a run: who owns a workdir, raw logs, and how they are cut back.

  config.json     the whole config        run.json   what the run is (`metrics`)
  metrics.jsonl   scalars an interval and a stage, no wall times
  episodes.jsonl  one row an episode      timing.jsonl  wall times, apart
  trajectories.jsonl  whole conversations (`config.record`)
  checkpoints/    see `checkpoint`        results.json  computed at the end

A checkpoint records the length of each log at its moment. A resumed run cuts
the logs back to it, and so writes, to the bit, what an undisturbed run writes.
"""

from __future__ import annotations

import datetime
import fcntl
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from jax_cl import types

CUT = ("metrics.jsonl", "episodes.jsonl", "trajectories.jsonl")
# May change on resume: no number depends on them.
FREE = (
  "verbose", "use_progress_bar", "writers", "record", "stream.env_workers",
)  # fmt: skip
PHASES = ("train", "eval")  # whose conversations may be recorded


class Workdir:
  """A run's folder, held by one process at a time."""

  def __init__(self, path: str | os.PathLike, config: Mapping[str, Any]):
    self.path = pathlib.Path(path).absolute()
    try:
      self.path.mkdir(parents=True, exist_ok=True)
      self._lock = open(self.path / ".lock", "w")
    except OSError as e:
      raise ValueError(
        f"{self.path} cannot be a workdir ({e.strerror}): name another "
        "--workdir"
      ) from e
    try:
      fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
      self._lock.close()
      raise ValueError(
        f"{self.path} is in use by another process: wait for it to end, or "
        "name another --workdir"
      ) from None
    self._files: dict[str, Any] = {}
    try:
      self._claim(config)
    except BaseException:
      self.close()
      raise

  def _claim(self, config: Mapping[str, Any]) -> None:
    """Writes config.json, or checks that the folder is this config's."""
    file = self.path / "config.json"
    new = json.loads(json.dumps(config))
    kept = ("checkpoints", "results.json")  # without them nothing is lost
    started = any((self.path / name).exists() for name in kept)
    if file.exists() and started:
      changed = differences(read_json(file), new)
      if changed:
        raise ValueError(
          f"{self.path} belongs to another run ({'; '.join(changed[:3])}): "
          "name another --workdir, or delete this one"
        )
    elif not file.exists() and set(os.listdir(self.path)) - {".lock"}:
      raise ValueError(
        f"{self.path} holds other files and no config.json: name another "
        "--workdir"
      )
    write_json(file, new)

  def write(self, name: str, value: Mapping[str, Any]) -> None:
    write_json(self.path / name, value)

  def append(self, name: str, row: Mapping[str, Any]) -> None:
    """One row at the end of a log; what cannot be a JSON number is null."""
    text = json.dumps(_plain(row), allow_nan=False)
    self._open(name).write(text.encode() + b"\n")

  def flush(self) -> dict[str, int]:
    """Forces the logs to disk; name -> bytes, for the checkpoint."""
    lengths = {}
    for name in filter(self._exists, CUT):
      file = self._open(name)
      file.flush()
      os.fsync(file.fileno())
      lengths[name] = file.tell()
    return lengths

  def cut(self, lengths: Mapping[str, int]) -> None:
    """Drops what was logged after the checkpoint that recorded `lengths`."""
    for name in CUT:
      if not lengths.get(name) and not self._exists(name):
        continue
      file, length = self._open(name), lengths.get(name, 0)
      if file.tell() < length:
        raise ValueError(
          f"{self.path / name} has {file.tell()} bytes, its checkpoint says "
          f"{length}: the log was changed; name another --workdir"
        )
      file.truncate(length)
      file.seek(length)

  def close(self) -> None:
    for file in self._files.values():
      file.close()
    self._files.clear()
    self._lock.close()

  def _exists(self, name: str) -> bool:
    return (self.path / name).exists()

  def _open(self, name: str):
    if name not in self._files:
      file = open(self.path / name, "ab")
      file.seek(0, os.SEEK_END)
      self._files[name] = file
    return self._files[name]


class Shown:
  """A run's folder for the processes after the first, which write nothing."""

  def __init__(self, path: str | os.PathLike):
    self.path = pathlib.Path(path).absolute()

  def write(self, name: str, value: Mapping[str, Any]) -> None:
    pass

  def append(self, name: str, row: Mapping[str, Any]) -> None:
    pass

  def flush(self) -> dict[str, int]:
    return {}

  def cut(self, lengths: Mapping[str, int]) -> None:
    pass

  def close(self) -> None:
    pass


def episode_row(
  episode: types.Episode, phase: str, stage: int, step: int
) -> dict[str, Any]:
  """A row of `episodes.jsonl`; the format is told in `metrics`."""
  extra = {
    k: v
    for k, v in episode.info.items()
    if isinstance(v, bool | int | float | str)
  }
  row = {
    "phase": phase,
    "stage": stage,
    "step": step,
    "domain": episode.task.domain,
    "split": episode.task.split,
    "task_id": episode.task.task_id,
    "trial": 0,
    "reward": float(episode.reward),
    "parts": dict(episode.verdict.parts),
    "pass": episode.reward > 0.5,
    "termination": episode.termination,
    "failure": episode.failure,
    **extra,
  }
  return _plain(row)


def trajectory_row(
  episode: types.Episode, phase: str, stage: int, step: int
) -> dict[str, Any]:
  """A row of `trajectories.jsonl`: the episode's row and all that was said.

  `tasks.recorded` reads it. `messages` are tau2's. `rows`, where an LLM acted,
  are its tokens: `ids`, `mask` (1: sampled) and `logprobs`, of one length;
  `weights` tells the version and the checksum that sampled them.
  """
  info = episode.info
  row = {
    **episode_row(episode, phase, stage, step),
    "solo": episode.task.solo,
    "termination_reason": episode.termination,
    "messages": [_message(t, i) for i, t in enumerate(episode.turns)],
    "rows": [
      {
        "ids": r.ids,
        "mask": r.mask,
        "logprobs": [float(f"{x:.9g}") for x in r.logprobs],  # float32, whole
      }
      for r in info.get("rows", ())
    ],
    "weights": info.get("weights", {}),
    "events": info.get("events", {}),
  }
  return _plain(row)


def _message(turn: types.Turn, place: int) -> dict[str, Any]:
  """A turn as tau2's results files write it.

  tau2 sorts messages by their time, which is their place here: a run that is
  repeated writes the same.
  """
  time = datetime.datetime(2000, 1, 1) + datetime.timedelta(seconds=place)
  out: dict[str, Any] = {
    "role": turn.role, "content": turn.content, "timestamp": time.isoformat(),
  }  # fmt: skip
  if turn.role == "tool":
    return out | {
      "id": turn.call_id, "requestor": turn.requestor, "error": turn.error,
    }  # fmt: skip
  calls = [
    {
      "id": c.id,
      "name": c.name,
      "arguments": c.arguments,
      "requestor": c.requestor,
    }
    for c in turn.tool_calls
  ]
  return out | {"tool_calls": calls or None}


def _asked(config: Mapping[str, Any]) -> dict[str, Any]:
  """The config without options of methods it does not name.

  So a new method, or a new option of another one, orphans no run.
  """
  cl = config.get("cl", {})
  named = str(cl.get("name", "")).split("+")
  args = {k: v for k, v in cl.get("args", {}).items() if k in named}
  return {**config, "cl": {**cl, "args": args}}


def differences(old: Any, new: Any, path: str = "") -> list[str]:
  """`key: old -> new` for every leaf that differs, FREE ones left out."""
  if isinstance(old, dict) and isinstance(new, dict):
    if not path:
      old, new = _asked(old), _asked(new)
    dot = path + "." if path else ""
    keys = [k for k in {**old, **new} if dot + k not in FREE]
    return [
      text
      for k in keys
      for text in differences(old.get(k), new.get(k), f"{dot}{k}")
    ]
  return [] if old == new else [f"{path}: {old!r} there, {new!r} here"]


def read_json(path: pathlib.Path) -> Any:
  try:
    return json.loads(path.read_text())
  except (OSError, json.JSONDecodeError) as e:
    raise ValueError(f"{path} cannot be read ({e})") from e


def write_json(path: pathlib.Path, value: Any) -> None:
  """Whole or not at all."""
  part = path.with_name(path.name + ".part")
  part.write_text(json.dumps(value, indent=1) + "\n")
  part.replace(path)


def _plain(x: Any) -> Any:
  if type(x) in (str, int, bool):  # most are, and the tests below are slow
    return x
  if isinstance(x, Mapping):
    return {str(k): _plain(v) for k, v in x.items()}
  if isinstance(x, list | tuple):
    return [_plain(v) for v in x]
  if hasattr(x, "tolist"):
    return _plain(x.tolist())
  if isinstance(x, float) and not math.isfinite(x):
    return None
  return x
