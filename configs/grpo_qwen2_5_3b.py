"""Qwen2.5-3B-Instruct learns tau2's domains by GRPO, with replay, on four GPUs.

  python -m jax_cl.main --config=configs/grpo_qwen2_5_3b.py
  python -m jax_cl.plan --config=configs/grpo_qwen2_5_3b.py --devices=4

Four GPUs of 48 GiB or more: by the plan an update takes 23 GiB on each, and
sampling 32 on the first. Not run yet: how many hours it takes is not known, nor
what it reaches beyond the floors of doing nothing, .30 on airline's test tasks
and .05 on retail's. Old domains' tasks are rolled out again, a fifth as many as
new ones. Weights come from the hub, or from a folder:
--config.agent.args.model=FOLDER. `--config=configs/grpo_qwen2_5_3b.py:lora`
trains adapters of rank 16 alone.

Rows of 12,288 tokens hold policy, schemas and conversation: 7,300 to 10,400 in
demonstrations of airline and telecom, up to 13,000 in retail's longest.
"""

from configs import grpo


def get_config(weights: str = "full"):
  """`weights`: "full" or "lora"."""
  config = grpo.get_config()
  config.agent.args.model = "Qwen/Qwen2.5-3B-Instruct"
  config.agent.args.dtype = "bfloat16"
  config.agent.args.frozen_dtype = "bfloat16"
  config.agent.args.remat = "full"
  config.agent.args.attention_block = 512
  config.agent.args.micro = 4  # a row a device
  config.agent.args.temperature = 0.7
  config.agent.args.kl = 0.1
  if weights == "lora":
    config.agent.args.lora_rank = 16
    config.agent.args.lora_alpha = 32.0
  config.stream.domains = ("airline", "retail", "telecom")
  config.stream.solo = ()
  config.stream.prompt = "policy"
  config.stream.length = 12288
  config.stream.clone_steps = 0
  config.stream.pg_steps = 100
  config.stream.max_new_tokens = 2048
  config.stream.max_turns = 200
  config.stream.tasks_per_step = 16
  config.stream.group = 4
  config.stream.slots = 32
  config.stream.env_workers = 8
  config.stream.greedy = False
  config.cl.name = "replay"
  config.optim.lr = 1e-6 if weights == "full" else 2e-5
  config.optim.pg_lr = 0.0
  config.train.batch_size = 80  # 16 new tasks and 3 old ones, 4 rows each
  config.train.devices = 4
  config.train.fsdp = 4
  config.eval.trials = 4
  return config
