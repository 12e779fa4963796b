"""The positive control: supervised, a high learning rate, one action space.

  python -m jax_cl.main --config=configs/control.py

Demonstrations alone, and telecom first, the domain that is learned best and
shares least with the others: what is learned of it has to be forgotten here, or
"method X prevents it" would say nothing. Two CPU cores, hashed features, about
three minutes. Measured with seed 0: telecom falls from .73 to .30, what
transferring everybody earns; backward_transfer -.24 [-.33, -.15].
"""

from configs import quickstart


def get_config():
  config = quickstart.get_config()
  config.stream.domains = ("telecom", "retail", "airline")
  config.stream.embedder = "hashed"
  config.stream.reading = False
  config.stream.pool = "official"
  config.stream.pg_steps = 0
  config.optim.lr = 0.05
  config.eval.interval = 0
  return config
