"""Metrics of a stream, in numpy, from raw logs: no JAX, no rerun.

  python -m jax_cl.metrics --workdir=runs/quickstart   # redo results.json

**Matrix.** R[i, j] is the score on domain j after stage i = 1..T; R[0, j] is
the starting policy. Code, screens and `--stage` count stages from 0, so stage
k is row k + 1 and the starting row is stage -1. `own[j]` is the row of the
first stage that trains on domain j (0: none does). A metric is a function
`(matrix [..., T+1, N], own) -> [...]` over the domains seen so far; it is NaN
where it is undefined (joint and interleaved streams have no earlier domain)
and null in JSON. A missing evaluation makes what needs it NaN, never a guess.

**Files of a run**, all written by `train`:

`run.json` says what the run is, before its first step:
  {"name": ..., "method": "replay", "seed": 0, "curriculum": "sequential",
   "domains": ["airline", "retail"],              # columns of R
   "stages": [{"name": "airline", "domains": ["airline"], "steps": 100}, ...],
   "protocol": {...},                             # tasks.protocol.describe()
   "references": {"do_nothing": {"test": {"airline": .3}}, "oracle": ...}}
`references` are scores of fixed policies by split and domain: floors (do
nothing, always transfer) and ceilings (oracle). Other keys are carried along.

`episodes.jsonl` has one row an episode:
  {"phase": "eval" | "train", "stage": int,       # -1: before any training
   "step": int,                                   # since the stream began
   "domain": str, "split": "train" | "val" | "test", "task_id": str,
   "trial": int, "reward": float, "parts": {...}, "pass": bool,
   "requires_write": bool, "termination": str, "failure": str,
   "tool_calls": int, "tool_hits": int, "arg_hits": int,  # `tool_counts`
   "n_turns": int, ...}
R's row k + 1 comes from the "eval" rows of stage k with that split's largest
`step` in that stage; earlier steps of a stage only make curves. A row whose
`failure` is set (user or environment broke) is counted and left out, never 0.

`results.json` is what this module makes of the two (`results`).
"""
