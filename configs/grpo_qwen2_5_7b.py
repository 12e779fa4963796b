"""Qwen2.5-7B-Instruct learns tau2's domains by GRPO, on eight GPUs.

  python -m jax_cl.main --config=configs/grpo_qwen2_5_7b.py
  python -m jax_cl.plan --config=configs/grpo_qwen2_5_7b.py --devices=8

Eight GPUs of 80 GiB (PLAN). Not run yet, so its numbers are not known. As
`grpo_qwen2_5_3b`, but sequential, and weights split over eight.
"""

from configs import grpo_qwen2_5_3b


def get_config(weights: str = "full"):
  """`weights`: "full" or "lora"."""
  config = grpo_qwen2_5_3b.get_config(weights)
  config.agent.args.model = "Qwen/Qwen2.5-7B-Instruct"
  config.agent.args.micro = 8
  config.stream.slots = 16
  config.cl.name = "sequential"
  config.train.batch_size = 64
  config.train.devices = 8
  config.train.fsdp = 8
  return config
