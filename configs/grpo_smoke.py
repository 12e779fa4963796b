"""The policy layer in under two minutes: does every part of a run work?

  python -m jax_cl.main --config=configs/grpo_smoke.py

Two CPU cores, under two minutes. A model of two layers clones a handful of
telecom's demonstrations without a user, then mock's, with two GRPO updates
each. Nothing is learned to speak of: expect 0.000 everywhere, below the floor
of transferring every customer (.5 on these two tasks of mock).
"""

from configs import grpo


def get_config():
  config = grpo.get_config()
  config.agent.args.model_args = {
    "layers": 2, "width": 64, "heads": 4, "kv_heads": 2, "head_width": 16,
    "ff_width": 128,
  }  # fmt: skip
  config.stream.domains = ("telecom", "mock")
  config.stream.clone_steps = 4
  config.stream.pg_steps = 2
  config.stream.tasks_per_step = 2
  config.stream.group = 2
  config.stream.length = 1024
  config.stream.max_new_tokens = 48
  config.stream.max_turns = 60
  config.stream.max_tasks_per_domain = 4
  config.stream.max_eval_tasks = 2
  config.stream.slots = 4
  config.train.batch_size = 4
  config.cl.args.replay.kind = "replay_bc"
  config.cl.args.replay.ratio = 0.25  # one row of four
  config.cl.args.replay.min_buffer_size = 1
  config.train.save_interval = 3
  config.log_interval = 2
  return config
