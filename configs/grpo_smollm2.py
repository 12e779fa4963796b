"""SmolLM2-135M-Instruct learns tau2's domains: SFT, then GRPO, all weights.

  python -m jax_cl.main --config=configs/grpo_smollm2.py
  python -m jax_cl.plan --config=configs/grpo_smollm2.py --devices=1

One GPU of 16 GiB (by the plan an update takes 11.1), or all there are: rows are
split over them. Not run yet: how many hours it takes is not known, nor what it
reaches beyond the floors of doing nothing, .30 on airline's test tasks and .05
on retail's.

Its context is 8,192 tokens, of which policy and schemas of telecom alone would
be 7,900: calls and schemas are in the compact form (240 to 390 tokens a
domain), and policies are left out. Demonstrations are 1,600 to 6,500 tokens.
"""

from configs import grpo


def get_config():
  config = grpo.get_config()
  config.agent.args.model = "smollm2-135m"
  config.agent.args.form = "compact"
  config.agent.args.dtype = "bfloat16"
  config.agent.args.remat = "full"
  config.agent.args.attention_block = 512
  config.agent.args.micro = 8
  config.stream.domains = ("airline", "retail", "telecom")
  config.stream.solo = ()
  config.stream.prompt = "tools"
  config.stream.length = 6144
  config.stream.clone_steps = 100
  config.stream.pg_steps = 50
  config.stream.max_new_tokens = 256
  config.stream.max_turns = 100
  config.stream.tasks_per_step = 4
  config.stream.group = 8
  config.stream.slots = 32
  config.optim.lr = 1e-4
  config.optim.pg_lr = 1e-6
  config.train.batch_size = 32
  config.train.devices = 0
  config.cl.args.replay.kind = "replay_bc"
  config.eval.trials = 4
  config.stream.greedy = False
  return config
