"""At learning rate 0 trainer and sampler say the same of a token: how nearly?

The engine samples conversations in turns, behind a prefix that all share, and
the trainer reads them again, whole rows at once: the same weights, sums taken
in another order. In float32 the bound is 1e-5 nats for `tiny` (a test). In
bfloat16 an activation has 8 bits, and the gap is what this prints; the policy's
ratio is to the sampler's own log-probabilities, so it is part of every update.

  max, mean  of |log pi_trainer - log pi_sampler| over sampled tokens, nats
  kl         mean of k3: KL(sampler, trainer) a token
  clipped    share of tokens whose ratio is outside of 1 +- .2, so that they
             would be clipped without having been trained
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_cl import engine, names, tree
from jax_cl.agents import llm
from jax_cl.losses import grpo
from jax_cl.policies import base, weights
from jax_cl.types import Batch

DTYPES = ("float32", "bfloat16")


class Sizes(NamedTuple):
  conversations: int
  prefix: int  # tokens
  turns: int
  read: int  # tokens a turn
  sampled: int

  @property
  def length(self) -> int:
    return self.prefix + self.turns * (self.read + self.sampled)


def run(
  models: Sequence[str] | str = ("tiny", "smollm2-135m"),
  dtypes: Sequence[str] | str = DTYPES,
  conversations: int = 4,
  prefix: int = 128,
  turns: int = 2,
  read: int = 32,
  sampled: int = 32,
) -> Iterator[dict[str, Any]]:
  """Rows {model, dtype, tokens, max, mean, kl, clipped}.

  `models` are names or folders that `policies.weights` reads; "tiny" and
  "new:NAME" have random weights, whose logits are flatter than a trained one's.
  """
  sizes = Sizes(conversations, prefix, turns, read, sampled)
  dtypes = names.several("dtype", dtypes, DTYPES)
  for model in models.split(",") if isinstance(models, str) else models:
    for dtype in dtypes:
      policy, params = weights.load(model, dtype=dtype)
      yield {"model": model, "dtype": dtype, **gaps(policy, params, sizes)}


def gaps(policy: base.Policy, params, sizes: Sizes) -> dict[str, float]:
  """The figures of a row, for one model in its config's dtype."""
  talks = _sampled(policy, params, sizes)
  agent = llm.make(model=policy, length=sizes.length)
  p, rest = tree.split(params, tree.select(params, ".*"))
  objective = agent.objective({"rest": rest, "base": None})
  n = len(talks)
  rows = Batch(
    **llm.rows(talks, sizes.length),
    adv=np.ones(n, np.float32),
    weight=np.ones(n, np.float32),
    domain=np.zeros(n, np.int32),
    task=np.zeros(n, np.int32),
    reward=np.ones(n, np.float32),
  )
  logp = np.asarray(jax.jit(objective.logp)(p, rows), np.float64)
  own = rows.mask > 0
  gap = (logp - rows.logp_old)[own]
  return {
    "tokens": int(own.sum()),
    "max": float(np.abs(gap).max()),
    "mean": float(np.abs(gap).mean()),
    "kl": float(np.mean(grpo.k3(jnp.zeros(gap.size), jnp.asarray(gap)))),
    "clipped": float(np.mean(np.abs(np.exp(gap) - 1) > 0.2)),
  }


def _sampled(policy: base.Policy, params, z: Sizes) -> list[tuple]:
  """(ids, mask, log-probabilities) of conversations as the engine has them."""
  rng = np.random.default_rng(0)
  ids = lambda n: rng.integers(1, policy.config.vocab, n).tolist()
  eng = engine.make(
    policy, stops=(), slots=z.conversations, context=z.length, steps=z.sampled
  )
  eng.swap(params, 0)
  prefix = ids(z.prefix)
  talks = [
    ([*prefix], [0] * z.prefix, [0.0] * z.prefix)
    for _ in range(z.conversations)
  ]

  def say(key: int) -> list[int]:
    new = ids(z.read)
    _append(talks[key], new, 0, [0.0] * z.read)
    return new

  for key in range(z.conversations):
    eng.submit(
      key, prefix, say(key),
      seed=key, sampling=engine.Sampling(), max_tokens=z.sampled,
    )  # fmt: skip
  for turn in range(1, z.turns + 1):
    for answer in eng.step():
      _append(talks[answer.key], answer.ids, 1, answer.logprobs)
      if turn < z.turns:
        eng.reply(answer.key, say(answer.key), z.sampled)
  return [tuple(map(np.asarray, talk)) for talk in talks]


def _append(talk, ids, mask: int, logprobs) -> None:
  for held, new in zip(talk, (ids, [mask] * len(ids), logprobs), strict=True):
    held += new
