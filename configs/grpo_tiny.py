"""A small LLM learns telecom, then mock, then airline: SFT, then GRPO.

  python -m jax_cl.main --config=configs/grpo_tiny.py

A model of 820,000 weights, from nothing. Telecom has no user here: the agent
holds the phone. In `tiny`'s compact form its conversations have 305 to 1131
tokens, half of them below 515; an airline conversation has 972 and more, so
that of airline little but the beginning is learned. Mock has one val task.
`results.json` says under "warm_starts" what GRPO added to SFT on val, eight
trials a task, with an interval over tasks.

Two CPU cores, 35 minutes, most of them GRPO on telecom. Measured (one seed,
results/grpo_tiny): on telecom's 15 val tasks SFT alone earns .375, and GRPO
brings that to .592, +.217 [.083, .358]; greedy, SFT alone earns .60. On test
telecom ends at .400. Mock's SFT, full rank at a high rate, then erases it: .400
to .000, the control in which forgetting must appear. What GRPO itself forgets
cannot be seen behind that: `grpo_families` shows it. Mock and airline are not
learned.
Floors: doing nothing earns 0 on telecom and .30 on airline (test), transferring
every customer .30 on both (telecom val: .13); telecom's manual earns 1.
"""

from configs import grpo


def get_config():
  config = grpo.get_config()
  config.agent.args.model_args = {
    "layers": 2, "width": 128, "heads": 4, "kv_heads": 2, "head_width": 32,
    "ff_width": 256,
  }  # fmt: skip
  config.agent.args.micro = 1
  config.agent.args.buckets = (128, 384, 512, 640)
  config.agent.args.chunk = 64  # an answer's tokens are few: 125 a conversation
  config.stream.domains = ("telecom", "mock", "airline")
  config.stream.solo = ("telecom", "mock")
  config.stream.pool = "full"  # 2,230 train tasks of telecom; val, test stay
  config.stream.clone_steps = 150
  with config.ignore_type():
    config.stream.pg_steps = (200, 4, 4)  # nothing is earned but in telecom
  config.stream.tasks_per_step = 2
  config.stream.group = 8
  config.stream.baseline = "group_sd"
  config.stream.greedy = False  # pass^k is about trials that differ
  config.stream.length = 1024
  config.stream.max_new_tokens = 40
  config.stream.slots = 16
  config.stream.decode_steps = 8
  config.cl.args.replay.kind = "replay_bc"
  config.eval.val_trials = 8
  config.optim.lr = 4e-3
  config.optim.pg_lr = 2e-4
  config.optim.schedule = "linear"  # of SFT, towards the end of the stage
  config.optim.warmup = 10
  config.train.batch_size = 16
  config.train.save_interval = 20
  config.log_interval = 4
  return config
