"""TRL's side of `bench grpo`: a process that updates once for each line read.

Runs in the environment of `make peers` and imports nothing of ours. Its first
argument is a `grpo.Case` as JSON; it answers {s, loss, norm}. With `lean` as
the second, TRL's head scores the answers alone, as it does on GPUs; left as it
is, it scores prompts, too, wherever there is no Triton, and drops the result.
"""

# What it imports is in .venv-peers alone.
# pyright: reportMissingImports=false

from __future__ import annotations

import json
import os
import sys
import tempfile
import time

import datasets
import numpy as np
import tokenizers
import torch
import transformers
from trl import GRPOConfig, GRPOTrainer
from trl.trainer import utils

out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what libraries print is no answer


class Trainer(GRPOTrainer):
  """GRPOTrainer, given what was sampled."""

  def _prepare_inputs(self, inputs):
    return inputs


def main() -> None:
  case = json.loads(sys.argv[1])
  if sys.argv[2:] == ["lean"]:
    utils._use_triton = lambda device: True  # decides what is scored, no more
  inputs = read(case)
  with tempfile.TemporaryDirectory() as folder:
    trainer = make(case, inputs, folder)
  for _ in sys.stdin:
    start = time.perf_counter()
    loss = trainer.training_step(trainer.model, inputs, None)
    norm = trainer.accelerator.clip_grad_norm_(
      trainer.model.parameters(), case["clip"]
    )
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    loss, norm = float(loss), float(norm)
    answer = {"s": time.perf_counter() - start, "loss": loss, "norm": norm}
    print(json.dumps(answer), file=out, flush=True)


def make(case, inputs, folder: str) -> Trainer:
  """A trainer in float32 with its optimiser; defaults, where nothing is said.

  Without checkpoints of activations, which are its default and cost a second
  forward pass.
  """
  rows, new = inputs["completion_ids"].shape
  config = GRPOConfig(
    folder,
    per_device_train_batch_size=rows,
    num_generations=rows,
    max_completion_length=new,
    learning_rate=case["lr"],
    loss_type="grpo",
    bf16=False,
    gradient_checkpointing=False,
    report_to="none",
  )
  model = transformers.AutoModelForCausalLM.from_pretrained(
    case["model"], dtype=torch.float32
  )
  trainer = Trainer(
    model=model,
    reward_funcs=lambda completions, **_: [0.0] * len(completions),
    args=config,
    train_dataset=datasets.Dataset.from_dict({"prompt": ["a"] * rows}),
    processing_class=tokenizer(),
  )
  trainer.create_optimizer()
  trainer.current_gradient_accumulation_steps = 1  # what `train` would set
  return trainer


def tokenizer() -> transformers.PreTrainedTokenizerFast:
  """Of two words: the trainer asks for one, and nothing is read with it."""
  words = tokenizers.models.WordLevel({"<pad>": 0, "<eos>": 1}, "<pad>")
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizers.Tokenizer(words),
    pad_token="<pad>",
    eos_token="<eos>",
    padding_side="left",
  )


def read(case) -> dict[str, torch.Tensor]:
  """The rows, under TRL's names."""
  with np.load(case["rows"]) as file:
    ids, logp_old, adv = (
      torch.tensor(file[k]) for k in ("ids", "logp_old", "adv")
    )
  prompt, completion = ids[:, : case["prompt"]], ids[:, case["prompt"] :]
  return {
    "prompt_ids": prompt,
    "prompt_mask": torch.ones_like(prompt),
    "completion_ids": completion,
    "completion_mask": torch.ones_like(completion),
    "advantages": adv,
    "old_per_token_logps": logp_old,
  }


if __name__ == "__main__":
  main()
