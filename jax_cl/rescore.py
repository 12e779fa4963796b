"""Judges recorded conversations anew.

    python -m jax_cl.rescore FILE [--evaluation=all] [--judge=MODEL]
                             [--export=FOLDER]

Drops the recorded rewards, replays every tool call, and compares. Reads tau2's
results files, the trajectory files of `tests/data` and a run's
`trajectories.jsonl`, gzipped or not. Exits with 1 if any reward differs, or if
any answer of a tool is not what the replay gives. `--export` writes what was
read as tau2's results, a file a domain, which `tau2 view` opens.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence

from jax_cl import names, shell
from jax_cl.tasks import export, recorded, rewards
from jax_cl.types import Episode


@shell.command
def main(argv: Sequence[str] | None = None) -> int:
  parser = shell.Parser(
    prog="python -m jax_cl.rescore", description="Judges conversations anew."
  )
  parser.add_argument("file", help="tau2 results or trajectories, .json[.gz]")
  parser.add_argument(
    "--evaluation", default="all", help=", ".join(rewards.EVALUATIONS)
  )
  parser.add_argument("--judge", help="litellm model for NL assertions")
  parser.add_argument("--export", help="folder for tau2's results files")
  parser.add_argument("--data_dir", help="tau2's data, if not the installed")
  args = parser.parse_args(argv)
  names.check("evaluation", args.evaluation, rewards.EVALUATIONS)
  return rescore(
    args.file, args.evaluation, args.judge, args.data_dir, args.export
  )


def rescore(
  path: str,
  evaluation: str = "all",
  judge: str | None = None,
  data_dir: str | None = None,
  folder: str | None = None,
) -> int:
  """Prints what differs and a closing line; 1 if anything does, else 0."""
  from jax_cl.tasks import store

  store.use_data_dir(data_dir)
  nl_judge = rewards.litellm_judge(judge, temperature=0.0) if judge else None
  recordings = recorded.read(path)
  mismatches, total = 0, 0.0
  kinds: dict[str, list[Episode]] = {}
  for i, r in enumerate(recordings):
    judged = recorded.judge(r, evaluation, nl_judge)
    total += judged.verdict.reward
    kind = f"{r.domain}_solo" if r.solo else r.domain
    kinds.setdefault(kind, []).append(recorded.episode(r, judged))
    trouble = _trouble(r, judged)
    mismatches += bool(trouble)
    if trouble:
      print(f"simulation {i} ({r.domain} task {r.task.id}): {trouble}")
  if folder:
    for kind, episodes in kinds.items():
      export.save(episodes, pathlib.Path(folder) / f"{kind}.json")
  if recordings:
    print(f"mean reward {total / len(recordings):.4f}")
  print(f"{len(recordings)} simulations, {mismatches} mismatches")
  return int(mismatches > 0)


def _trouble(r: recorded.Recording, judged: recorded.Judged) -> str:
  found = []
  reward = judged.verdict.reward
  if r.reward is not None and abs(r.reward - reward) > 1e-6:
    parts = dict(judged.verdict.parts)
    found.append(f"recorded reward {r.reward}, replayed {reward} {parts}")
  if judged.diverged is not None:
    found.append(f"message {judged.diverged} is not what the tool answers")
  return "; ".join(found)


if __name__ == "__main__":
  sys.exit(main())
