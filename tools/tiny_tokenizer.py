"""Trains the tokenizer of `tiny`: writes jax_cl/policies/tiny_merges.txt.

  python tools/tiny_tokenizer.py

Byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909) on what an agent of the
train split reads and writes: the domains' rules, the tools' schemas, tickets,
and whole conversations of train tasks: telecom's by its manual, others by the
oracle with the scripted user.
Val and test tasks are not read, and neither are task ids and descriptions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from tokenizers import Tokenizer, models, trainers

from jax_cl import chat
from jax_cl.policies import tiny
from jax_cl.tasks import env as env_lib
from jax_cl.tasks import reference, stream, users
from jax_cl.types import TaskSpec, Turn

DOMAINS = (
  ("airline", False),
  ("retail", False),
  ("telecom", False),
  ("telecom", True),
)


def texts() -> Iterator[str]:
  """What the merges are counted on."""
  for name, solo in DOMAINS:
    domain = stream.load(name, solo=solo)
    yield domain.policy
    yield from (
      chat.signature(t["function"]) for t in chat.functions(domain.tools)
    )
    for spec in domain.splits["train"]:
      if solo:
        yield stream.ticket(spec)
      yield from said(conversation(spec))


def conversation(spec: TaskSpec) -> list[Turn]:
  """One train task, played by telecom's manual or by the oracle."""
  if spec.split != "train":
    raise ValueError(
      f"{spec.task_id!r} of {spec.domain} is a {spec.split} task"
    )
  env = env_lib.Env(spec, None if spec.solo else users.make("scripted")())
  manual = spec.domain == "telecom"
  policy = reference.make("telecom_manual" if manual else "oracle")()
  env.reset()
  while not env.done:
    env.step(policy(env))
  return list(env.turns)


def said(turns: Sequence[Turn]) -> list[str]:
  """A conversation in `chat`'s compact form, cut at control tokens: no merge
  crosses one."""
  messages = [chat.message(t) for t in turns if chat.heard(t)]
  text = chat.FORMS["compact"].render(messages, [], False)
  return [
    x for x in re.split("|".join(map(re.escape, tiny.SPECIAL)), text) if x
  ]


def train() -> list[str]:
  """The merges, in order, each two tokens with a blank between."""
  tokenizer = Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = tiny.pre_tokenizer()
  trainer = trainers.BpeTrainer(
    vocab_size=tiny.VOCAB,
    special_tokens=list(tiny.SPECIAL),
    initial_alphabet=tiny.alphabet(),
    show_progress=False,
  )
  tokenizer.train_from_iterator(texts(), trainer)
  merges = json.loads(tokenizer.to_str())["model"]["merges"]
  return [" ".join(pair) for pair in merges]


if __name__ == "__main__":
  tiny.MERGES.write_text("\n".join(train()) + "\n")
