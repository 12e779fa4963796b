"""The quickstart's pipeline in small: hashed features, few steps.

  python -m jax_cl.main --config=configs/smoke.py

Two CPU cores, under 40 seconds. It shows that everything runs, not a score.
"""

from configs import quickstart


def get_config():
  config = quickstart.get_config()
  config.stream.embedder = "hashed"
  config.stream.max_tasks_per_domain = 6
  config.stream.max_eval_tasks = 3
  config.stream.max_turns = 100  # an aimless policy talks on
  config.stream.clone_steps = 40
  config.stream.pg_steps = 2
  config.stream.tasks_per_step = 2
  config.train.save_interval = 20
  config.eval.interval = 20
  config.log_interval = 20
  return config
