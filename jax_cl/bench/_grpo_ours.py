"""Our side of `bench grpo`: a process that updates once for each line read.

Its argument is a `grpo.Case` as JSON; it answers {s, loss, norm}.
"""

from __future__ import annotations

import json
import sys
import time

import jax
import numpy as np

from jax_cl import optim, update
from jax_cl.agents import llm
from jax_cl.bench.grpo import Case
from jax_cl.methods import sequential
from jax_cl.policies import weights
from jax_cl.types import Agent, Batch

CHUNK = 16  # positions of all rows whose logits exist at a time


def main() -> None:
  case = Case(**json.loads(sys.argv[1]))
  batch = read(case)
  agent = make(case, batch.mask.shape[1])
  optimiser = optim.make(name="adamw", lr=case.lr, clip=case.clip)
  trains = np.ones((1, 1), bool)
  steps = update.make(agent, sequential.make(), optimiser, trains, batch)
  state, frozen = steps.init(jax.random.key(0))
  state = steps.start(state, 0)
  batch = jax.device_put(batch)
  for _ in sys.stdin:
    start = time.perf_counter()
    state, metrics = steps.update(state, frozen, batch)
    jax.block_until_ready((state, metrics))
    seconds = time.perf_counter() - start
    loss, norm = float(metrics["loss"]), float(metrics["grad_norm"])
    print(json.dumps({"s": seconds, "loss": loss, "norm": norm}), flush=True)


def make(case: Case, length: int) -> Agent:
  """An agent that reads the case's weights, with a whole tree to train."""
  return llm.make(
    model=weights.policy(case.model),
    length=length,
    load=lambda key, layout: weights.load(case.model)[1],
    chunk=CHUNK,
    shared=case.prompt - 1 if case.shared else 0,
    micro=case.micro,
  )


def read(case: Case) -> Batch:
  """The rows: a prompt, of which nothing was sampled, and an answer."""
  with np.load(case.rows) as file:
    ids, logp_old, adv = file["ids"], file["logp_old"], file["adv"]
  sampled = np.arange(ids.shape[1]) >= case.prompt
  logp = np.pad(logp_old, ((0, 0), (case.prompt, 0)))
  talks = [(i, sampled, l) for i, l in zip(ids, logp)]
  n = len(ids)
  return Batch(
    **llm.rows(talks, ids.shape[1] - 1),
    adv=adv,
    weight=np.ones(n, np.float32),
    domain=np.zeros(n, np.int32),
    task=np.zeros(n, np.int32),
    reward=np.zeros(n, np.float32),
  )


if __name__ == "__main__":
  main()
