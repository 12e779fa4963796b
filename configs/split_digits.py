"""Split digits: five tasks of two digits each, one head for all ten.

  python -m jax_cl.main --config=configs/split_digits.py \\
    --config.cl.name=replay

Two CPU cores, half a minute. Class-incremental: a task holds digits 0 and 1, 2
and 3, ..., and at test the label is one of all ten. Net, optimiser and memory
are those of configs/permuted_digits.py, and so are the strengths, which were
chosen there. Forgetting is total where nothing is remembered: sequential ends
near .20, the last two digits alone.
"""

from configs import permuted_digits


def get_config():
  config = permuted_digits.get_config()
  config.stream.tasks = "split"
  config.published = {}  # that is of the other stream
  config.log_interval = 9  # an epoch
  return config
