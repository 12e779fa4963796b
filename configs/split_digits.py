"""Split digits: five tasks of two digits each, one head for all ten.

  python -m jax_cl.compare --config=configs/split_digits.py --workers=2 \\
    --methods=sequential,ewc,lwf,replay,derpp

One run: `python -m jax_cl.main --config=... --config.cl.name=replay`, some
seconds on two CPU cores. Class-incremental: a task holds digits 0 and 1, 2 and
3, ..., and at test the label is one of all ten. Forgetting is total where
nothing is remembered: sequential ends at .19, the last two digits alone.

Net, optimiser, memory and strengths are those of configs/permuted_digits.py,
where they were chosen, but for what is set below by val (seeds 0 to 2).
Stronger pulls do not help EWC (val .19 at lam 1, .18 at 10, .15 at 100), SI and
MAS here: they only keep the last task from being learnt.
"""

from configs import permuted_digits


def get_config():
  config = permuted_digits.get_config()
  config.stream.tasks = "split"
  config.published = {}  # that is of the other stream
  config.log_interval = 9  # an epoch
  config.cl.args.maml.alpha = 0.05  # val .87; .80 at .1
  return config
