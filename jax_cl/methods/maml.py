"""MAML on a stream: the gradient of the loss after a step on the new rows.

  theta' = theta - alpha dL(theta; new)/dtheta
  g      = dL(theta'; new and old)/dtheta

The outer loss asks of a step on new rows that it leaves old ones in place:
expanded in alpha, it raises the inner product of new and old gradients.

Finn et al. 2017, https://arxiv.org/abs/1703.03400, eq. 1; on a stream with a
memory as Gupta et al. 2020 (La-MAML), https://arxiv.org/abs/2007.13904, whose
C-MAML is this with one inner step.

The outer gradient's norm is cut to `clip`, as in La-MAML's code (2): a step on
few rows may leave theta' where the loss is steep, and one such gradient can
throw the net off for good. 0 leaves it as it is.

Deviations: the optimiser is the run's (theirs is SGD), the step sizes are not
learned, and the inner gradient is not clipped (theirs is). `first_order` leaves
out the second derivative (FOMAML), which about halves the time. alpha 0 is
`replay`; without its ratio, `sequential`.
"""

from __future__ import annotations

import jax

from jax_cl.methods import _meta, replay
from jax_cl.methods.base import Method

OFF = {"alpha": 0.0, "ratio": 0.0}


def make(
  *,
  batch_size: int,
  alpha: float = 0.1,
  first_order: bool = False,
  clip: float = 2.0,
  ratio: float = 0.2,
  strategy: str = "random",
  min_buffer_size: int = 20,
  capacity: int = 1000,
) -> Method:
  """`alpha` is the inner step; the memory's options are those of `replay`."""
  if alpha < 0 or clip < 0:
    raise ValueError(
      f"maml needs alpha >= 0 and clip >= 0; got alpha {alpha}, clip {clip}"
    )
  kept = replay.make(
    batch_size=batch_size,
    ratio=ratio,
    strategy=strategy,
    min_buffer_size=min_buffer_size,
    capacity=capacity,
  )

  def inner(obj, p, batch, key):
    new, g = _meta.descend(obj, p, batch, key, alpha)
    if first_order:  # as if the step did not depend on theta
      new = jax.tree.map(lambda x, y: x + jax.lax.stop_gradient(y - x), p, new)
    return new, g

  return _meta.method(inner, kept, clip) if alpha else kept
