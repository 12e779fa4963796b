"""Episodes -> `Batch`: advantages, masks, padding to one shape.

The only door from host records to device arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_cl import names
from jax_cl.types import Batch, Episode

BASELINES = ("group", "group_sd", "leave_one_out", "running")
SD_FLOOR = 1e-4  # TRL's, beside a group's standard deviation


def check_baseline(name: str) -> None:
  names.check("baseline", name, BASELINES)


def advantages(
  episodes: Sequence[Episode], baseline: str = "group", running: float = 0.0
) -> np.ndarray:
  """float32[n], reward minus baseline; NaN marks an episode to leave out.

  A group is the episodes of the same task in this step (`info["group"]`).

  group:         r - mean(group): Dr. GRPO, https://arxiv.org/abs/2503.20783.
  group_sd:      (r - mean) / (sd + 1e-4), sd with ddof 1: GRPO,
                 https://arxiv.org/abs/2402.03300, sec. 4.1.2, as in TRL.
  leave_one_out: r - mean(the others), n / (n - 1) times "group": RLOO,
                 https://arxiv.org/abs/2402.14740.
  running:       r - `running`, a running mean, as the design's agent loop has.

  Groups whose rewards are all equal carry no signal and are left out, but by
  "running"; failed episodes are left out, and move no mean, in all.
  """
  check_baseline(baseline)
  adv = np.full(len(episodes), np.nan, np.float32)
  for members in groups(episodes).values():
    r = np.array([episodes[i].reward for i in members], np.float32)
    if baseline == "running":
      adv[members] = r - running
    elif (r != r[0]).any():
      adv[members] = (r - r.mean()) * _scale(r, baseline)
  return adv


def groups(episodes: Sequence[Episode]) -> dict[Any, list[int]]:
  """`info["group"]` -> places of its episodes that did not fail."""
  out: dict[Any, list[int]] = {}
  for i, e in enumerate(episodes):
    if not e.failure:
      out.setdefault(e.info["group"], []).append(i)
  return out


def _scale(r: np.ndarray, baseline: str) -> float:
  """What a group's deviations from its mean are multiplied by."""
  if baseline == "group_sd":
    return 1 / (float(r.std(ddof=1)) + SD_FLOOR)
  return len(r) / (len(r) - 1) if baseline == "leave_one_out" else 1.0


def rows(
  episodes: Sequence[Episode],
  adv: Sequence[float] | np.ndarray,
  domains: Mapping[str, int],
  tasks: Mapping[tuple[str, str], int],
  obs_spec: Mapping[str, Any],
) -> Batch:
  """All decisions of the episodes whose advantage is not NaN; any length.

  `domains` and `tasks` give the places of a domain and of (domain, task id).
  """
  kept = [
    (e, d, a)
    for e, a in zip(episodes, adv, strict=True)
    if not np.isnan(a)
    for d in e.decisions
  ]
  n = len(kept)
  obs = {
    k: np.stack([d.obs[k] for _, d, _ in kept]).astype(dtype)
    if n
    else np.zeros((0, *shape), dtype)
    for k, (shape, dtype) in obs_spec.items()
  }
  column = lambda xs, dtype: np.array(list(xs), dtype).reshape(n)
  return Batch(
    obs=obs,
    action=column((d.action for _, d, _ in kept), np.int32)[:, None],
    mask=np.ones((n, 1), np.float32),
    logp_old=column((d.logp for _, d, _ in kept), np.float32)[:, None],
    adv=column((a for _, _, a in kept), np.float32),
    weight=np.ones(n, np.float32),
    domain=column((domains[e.task.domain] for e, _, _ in kept), np.int32),
    task=column(
      (tasks[e.task.domain, e.task.task_id] for e, _, _ in kept), np.int32
    ),
    reward=column((e.reward for e, _, _ in kept), np.float32),
  )


def fit(batch: Batch, size: int, seed: int) -> Batch:
  """Exactly `size` rows: a uniform sample of too many, padding of too few.

  A sample keeps the expectation of the mean over rows. Padding rows have
  weight 0, mask 0 and task -1, and repeat the shape of real ones; their legal
  mask is all True, so that no softmax over nothing is ever taken.
  """
  n = len(batch.weight)
  if n > size:
    keep = np.random.default_rng(seed).choice(n, size, replace=False)
    return take(batch, np.sort(keep))
  short = size - n
  pad = lambda x: np.concatenate(
    [x, np.zeros((short, *x.shape[1:]), x.dtype)], axis=0
  )
  out = Batch(*(
    {k: pad(v) for k, v in x.items()} if isinstance(x, dict) else pad(x)
    for x in batch
  ))  # fmt: skip
  out.task[n:] = -1
  if "mask" in out.obs:
    out.obs["mask"][n:] = True
  return out


def take(batch: Batch, index: np.ndarray) -> Batch:
  """Rows by number."""
  return Batch(*(
    {k: v[index] for k, v in x.items()} if isinstance(x, dict) else x[index]
    for x in batch
  ))  # fmt: skip
