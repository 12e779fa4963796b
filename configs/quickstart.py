"""The main job: airline, then retail, then telecom, with a frozen real LLM.

  python -m jax_cl.main --config=configs/quickstart.py

Two CPU cores, at most 15 minutes the first time, 5 with a warm cache. Expected
with seed 0 on test, after the last stage: airline near .05 after .35 in its own
stage, retail near .18, telecom near .6. The floors of doing nothing are .30,
.05 and .00; of always transferring .30, .05 and .30.
"""

from configs import common


def get_config():
  config = common.get_config()
  config.problem = "tau2"
  config.stream = {
    "domains": ("airline", "retail", "telecom"),
    "curriculum": "sequential",  # interleaved | joint | independent
    "tools": "all",  # domain | seen | all: the action space
    "reading": True,  # rules of language as features beside the LLM's
    "clone_steps": 800,  # updates a domain on its demonstrations
    "pg_steps": 10,  # updates a domain on its own episodes
    "tasks_per_step": 8,
    "group": 4,
    "embedder": "smollm2",  # or "hashed"
    "max_tasks_per_domain": None,
    "solo": False,
    "pool": "official",  # telecom: "full"
    "user": "scripted",
  }
  config.agent.name = "scorer"
  config.agent.args = {"head": "per_tool"}
  config.optim.name = "adam"
  config.optim.lr = 0.01
  config.optim.pg_lr = 0.001
  config.train.batch_size = 256
  config.train.save_interval = 200
  config.log_interval = 100
  return config
