"""`grpo_tiny` with online EWC: the Fisher information of own conversations.

  python -m jax_cl.main --config=configs/grpo_ewc.py
  python -m jax_cl.main --config=configs/grpo_ewc.py --config.cl.name=replay

The run of `grpo_tiny` and 3 x 64 conversations more, which the Fisher
information is taken from. Two CPU cores, 35 to 40 minutes. Measured (one seed,
results/grpo_ewc): stage 0 is `grpo_tiny`'s, so GRPO adds +.217 [.083, .358] to
telecom's val; on test telecom stands at .400, after mock at .450, after airline
at .325, where `sequential` has .000: forgetting .063 [.025, .113] against .200
[.125, .275]. Mock and airline are not learned (.000; doing nothing earns .30 on
airline). With replay it is .175 and .075, forgetting .163 [.087, .238]
(results/grpo_replay). Strength and ratio are the methods' defaults, not chosen
on val.
Adapters alone: --config.agent.args.lora_rank=8.
"""

from configs import grpo_tiny


def get_config():
  config = grpo_tiny.get_config()
  config.cl.name = "online_ewc"
  config.cl.args.online_ewc.samples = 64
  return config
