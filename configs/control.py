"""The positive control: supervised, a high learning rate, one action space.

  python -m jax_cl.main --config=configs/control.py

Demonstrations alone, so that a domain's weights are driven hard: forgetting
has to appear here, or "method X prevents it" would say nothing. Two CPU cores,
hashed features, about five minutes.
"""

from configs import quickstart


def get_config():
  config = quickstart.get_config()
  config.stream.embedder = "hashed"
  config.stream.pg_steps = 0
  config.optim.lr = 0.05
  return config
