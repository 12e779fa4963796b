"""Qwen2.5-7B-Instruct learns tau2's domains by GRPO, on eight GPUs.

  python -m jax_cl.main --config=configs/grpo_qwen2_5_7b.py
  python -m jax_cl.plan --config=configs/grpo_qwen2_5_7b.py --devices=8

Eight GPUs of 48 GiB or more: by the plan an update takes 31 GiB on each, and
sampling 41 on the first; with fsdp and micro 4, four of 80 GiB (51 and 57). Not
run yet: how many hours it takes is not known, nor what it reaches beyond the
floors of doing nothing, .30 on airline's test tasks and .05 on retail's. As
`grpo_qwen2_5_3b`, but sequential, and weights split over eight. `:lora` trains
adapters of rank 16 alone.
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
