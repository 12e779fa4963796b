"""Defaults of every experiment; `configs/*.py` start here."""

from ml_collections import ConfigDict

from jax_cl import build


def get_config() -> ConfigDict:
  return ConfigDict(
    {
      "name": "",  # shown in reports; "" is the method's name
      "seed": 0,
      # What is learned: a file of jax_cl/problems; its options are `stream`.
      "problem": "supervised",
      "stream": {},
      "agent": {"name": "mlp", "args": {}},
      # The method: a file of jax_cl/methods, or several joined by "+".
      "cl": {"name": "sequential", "args": build.method_options()},
      "optim": {
        "name": "adam",
        "lr": 1e-3,
        "pg_lr": 0.0,  # of the policy-gradient steps; 0: the same
        "schedule": "constant",
        "warmup": 0,
        "clip": 0.0,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "reset": True,  # forget moments, restart the schedule at every stage
      },
      "train": {
        "batch_size": 32,
        "shuffle": True,  # demonstrations, anew every epoch
        "save_interval": 100,  # steps between checkpoints inside a stage
        "devices": 1,  # the batch is split over this many; 0: all there are
        "fsdp": 1,  # of them, weights are split over so many, too
        "tensor": 1,  # and heads and channels over so many
      },
      "eval": {
        "seed": 0,  # of users and sampling: the same at every evaluation
        "trials": 1,  # of each test task, after each stage
        "val_trials": 1,  # of each val task; 0: none
        "interval": 0,  # steps between evaluations on val in a stage, 0: none
        "warm_start": False,  # one on val between cloning and policy gradient
        "kl_rows": 0,  # of each ended stage, whose KL to now is logged; 0: none
      },
      "verbose": False,
      "log_interval": 10,
      "use_progress_bar": True,
      "writers": (),  # "tensorboard", "wandb"
      "record": (),  # whole conversations of "train", "eval"
    }
  )
