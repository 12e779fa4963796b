"""`grpo_tiny` with online EWC: the Fisher information of own conversations.

  python -m jax_cl.main --config=configs/grpo_ewc.py
  python -m jax_cl.main --config=configs/grpo_ewc.py --config.cl.name=replay

The run of `grpo_tiny` and 3 x 64 conversations more, which the Fisher
information is taken from. Two CPU cores; not run, so that neither its minutes
nor its numbers are known beyond a floor (.30 on airline, doing nothing). The
strength is the method's default, not one that was chosen on val.
Adapters alone: --config.agent.args.lora_rank=8.
"""

from configs import grpo_tiny


def get_config():
  config = grpo_tiny.get_config()
  config.cl.name = "online_ewc"
  config.cl.args.online_ewc.samples = 64
  return config
