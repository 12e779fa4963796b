"""A small LLM learns telecom, then mock, then airline: SFT, then GRPO.

  python -m jax_cl.main --config=configs/grpo_tiny.py

Two idle CPU cores, 40 minutes by arithmetic: an update of 8 rows of 1792 tokens
takes 9.2 CPU-seconds, so 306 of them take 24 minutes; rollouts and evaluations
are assumed to take 15. The run was not made yet: its numbers are not known.

Telecom has no user here: the agent holds the phone. Its demonstrations are 865
to 2846 tokens long, half of them below 1568; 1792 hold most, and whatever goes
on for longer ends with reward 0. Demonstrations of airline are 1915 tokens and
more, so only their beginnings are learned: expect no more than its floor, .30
of the test split for doing nothing.
Mock's conversations are short, and its splits tiny.
"""

from configs import grpo


def get_config():
  config = grpo.get_config()
  config.agent.args.model_args = {
    "layers": 2, "width": 128, "heads": 2, "kv_heads": 1, "head_width": 64,
    "ff_width": 384,
  }  # fmt: skip
  config.stream.domains = ("telecom", "mock", "airline")
  config.stream.solo = ("telecom",)
  config.stream.clone_steps = 90
  config.stream.pg_steps = 12
  config.stream.tasks_per_step = 2
  config.stream.group = 4
  config.stream.length = 1792
  config.stream.max_new_tokens = 64  # answers of telecom: 39 at most
  config.stream.max_turns = 60
  config.optim.lr = 3e-3
  config.optim.pg_lr = 3e-4
  config.train.batch_size = 8
  config.train.save_interval = 30
  config.log_interval = 6
  return config
