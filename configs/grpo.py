"""Defaults of the policy layer's experiments; `configs/grpo_*.py` start here.

python -m jax_cl.main --config=configs/grpo_smoke.py
"""

from ml_collections.config_dict import placeholder

from configs import common


def get_config():
  config = common.get_config()
  config.problem = "tau2_llm"
  config.stream = {
    "domains": ("telecom", "airline", "retail"),
    "curriculum": "sequential",  # interleaved | joint | independent
    "rounds": 5,  # visits to each domain, interleaved
    "solo": ("telecom", "mock"),  # where no user speaks: the agent acts alone
    "clone_steps": 100,  # SFT updates a domain
    "pg_steps": 20,  # GRPO updates a domain
    "prompt": "name",  # tools | policy
    "length": 2048,  # tokens of a conversation
    "max_new_tokens": 96,  # of one answer
    "sampler": "without_replacement",  # tasks.stream.batches
    "tasks_per_step": 4,
    "group": 4,
    "baseline": "group",  # group_sd | leave_one_out
    "mask_truncated": False,  # learn nothing where a limit of tokens ended it
    "greedy": True,  # at evaluation
    "slots": 16,  # conversations sampled at a time
    "decode_steps": 16,  # tokens sampled at a time
    "env_workers": 0,  # processes that step environments; 0: this one does
    "max_turns": 60,
    "user": "scripted",
    "user_args": {},
    "pool": "official",  # telecom: "full"
    "train_split": 0.8,  # of domains without official splits
    "data_dir": placeholder(str),
    "max_tasks_per_domain": placeholder(int),
    "max_eval_tasks": placeholder(int),
    "references": True,
    "demonstrations": placeholder(str),  # a file of recorded conversations
  }
  config.agent.name = "llm"
  config.agent.args = {
    "model": "tiny",  # smollm2-135m, or a hub folder
    "model_args": {},  # sizes of a new model: layers, width, heads, ...
    "form": "",  # of calls and schemas, `chat.FORMS`; "": the model's own
    "dtype": "float32",
    "remat": "",
    "attention_block": 0,  # queries whose scores exist at a time; 0: all
    "frozen_dtype": "float32",  # of weights that do not learn
    "lora_rank": 0,  # 0: the whole tree learns
    "lora_alpha": 16.0,
    "lora_targets": "layers/.*",
    "temperature": 1.0,
    "constrained": False,  # answers are words or calls that parse (slower)
    "supports": 0,  # sampled tokens of a row to learn from, constrained; 0: all
    "loss": "grpo",  # bnpo | dapo | dr_grpo | gspo | cispo
    "loss_args": {},
    "kl": 0.0,  # pull to the base model
    "kl_estimator": "k3",
    "entropy_bonus": 0.0,
    "geometric": (),  # (low, high) of pi / mu, else a row is left out
    "micro": 0,  # rows of a micro-batch
    "buckets": (),  # lengths that micro-batches are cut to
    "chunk": 256,
    "shared": 0,  # tokens of the prompt that are computed once for all rows
    "prompts": 1,  # how many prompts a micro-batch may have then
    "top_k": 0,
  }
  config.optim.name = "adamw"
  config.optim.lr = 1e-3
  config.optim.pg_lr = 1e-4
  config.optim.clip = 1.0
  config.train.batch_size = 16
  config.train.save_interval = 20
  # Rows of the Fisher information are what the policy itself sampled.
  config.cl.args.ewc.fisher = "empirical"
  config.cl.args.online_ewc.fisher = "empirical"
  # Old tasks are rolled out again. Where SFT opens every stage (grpo_tiny),
  # that replays nothing while it lasts, and stored rows are cloned instead.
  config.cl.args.replay.kind = "replay_env"
  config.eval.warm_start = True
  config.log_interval = 10
  config.record = ("train",)
  return config
