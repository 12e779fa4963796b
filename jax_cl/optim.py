"""Optimisers from plain arguments: clip -> rule -> schedule."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import optax

from jax_cl import names

RULES = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "linear", "cosine")


def make(
  *,
  name: str = "adam",
  lr: float = 1e-3,
  steps: int = 1,
  schedule: str = "constant",
  warmup: int = 0,
  clip: float = 0.0,
  momentum: float = 0.0,
  weight_decay: float = 0.0,
  pg_lr: float = 0.0,
  clone_steps: int = 0,
) -> optax.GradientTransformation:
  """`clip` bounds the global norm of the gradient, 0: no bound.

  The schedule falls from `lr` to 0 over `steps` after `warmup` linear steps;
  `steps` is the longest stage, since a stage starts its optimiser anew.
  `pg_lr` > 0 is the rate once `clone_steps` are done, over which the schedule
  then falls: a policy gradient of a few hundred noisy rows undoes in ten steps
  what a rate that is right for cloning has learned in hundreds.
  """
  names.check("optimiser", name, RULES)
  names.check("schedule", schedule, SCHEDULES)
  if lr < 0 or clip < 0 or warmup < 0 or pg_lr < 0:
    raise ValueError(
      f"lr {lr}, pg_lr {pg_lr}, clip {clip} and warmup {warmup} must not be "
      "negative"
    )
  apart = pg_lr and clone_steps < steps
  rate = _schedule(lr, clone_steps if apart else steps, schedule, warmup)
  if apart:
    rate = optax.join_schedules([_rate(rate), _rate(pg_lr)], [clone_steps])
  if name == "sgd":
    rule = optax.sgd(rate, momentum or None)
    if weight_decay:
      rule = optax.chain(optax.add_decayed_weights(weight_decay), rule)
  elif name == "adamw":
    rule = optax.adamw(rate, weight_decay=weight_decay)
  else:
    if weight_decay:
      raise ValueError("adam has no weight decay; use optim.name = 'adamw'")
    rule = optax.adam(rate)
  return optax.chain(optax.clip_by_global_norm(clip), rule) if clip else rule


def _schedule(lr, steps, schedule, warmup):
  if schedule == "constant" and not warmup:
    return lr

  def rate(count):
    t = jnp.clip((count - warmup) / max(steps - warmup, 1), 0.0, 1.0)
    fall = {
      "constant": jnp.float32(1),
      "linear": 1 - t,
      "cosine": 0.5 * (1 + jnp.cos(jnp.pi * t)),
    }[schedule]
    return lr * fall * jnp.minimum(1.0, (count + 1) / (warmup + 1))

  return rate


def _rate(x) -> Any:
  return x if callable(x) else optax.constant_schedule(x)
