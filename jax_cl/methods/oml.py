"""OML on a stream: a representation that a head can learn online upon.

  W_0 = W;  W_{i+1} = W_i - alpha dL(phi, W_i; i-th part of the new rows)/dW
  g = dL(phi, W_k; new and old)/d(phi, W)

Only the head W takes the inner steps, one part of the batch after another, as
a learner would who sees the rows in turn. The outer gradient asks of the
representation phi that such steps disturb nothing old.

Javed & White 2019, https://arxiv.org/abs/1905.12588, algorithm 2.

Deviations: there, phi is learned beforehand on many tasks and then frozen;
here one stream is all there is, so phi and W follow the outer gradient in
every batch, and the rows of other tasks come from a memory (`replay`'s).
`head` is a regular expression of the leaves' whole paths; "" takes the last
entry of the tree, the output layer of an MLP (of the scorer, its tool head).
"""

from __future__ import annotations

import jax

from jax_cl import tree
from jax_cl.methods import _meta, replay
from jax_cl.methods.base import Method

OFF = {"alpha": 0.0, "ratio": 0.0}


def make(
  *,
  batch_size: int,
  alpha: float = 0.1,
  steps: int = 4,
  head: str = "",
  ratio: float = 0.2,
  strategy: str = "random",
  min_buffer_size: int = 20,
  capacity: int = 1000,
) -> Method:
  """`alpha` and `steps` are of the inner loop; the memory is `replay`'s."""
  if alpha < 0 or steps < 1:
    raise ValueError(
      f"oml needs alpha >= 0 and steps >= 1; got alpha {alpha}, steps {steps}"
    )
  if batch_size % steps:
    raise ValueError(
      f"oml cuts the batch into {steps} parts, and {batch_size} rows do not "
      "divide: change cl.args.oml.steps or train.batch_size"
    )
  kept = replay.make(
    batch_size=batch_size,
    ratio=ratio,
    strategy=strategy,
    min_buffer_size=min_buffer_size,
    capacity=capacity,
  )

  def inner(obj, p, batch, key):
    fast = fast_leaves(p, head)
    cut = lambda x: x.reshape(steps, -1, *x.shape[1:])

    def one(p, part):
      return _meta.descend(obj, p, part, key, alpha, fast)

    p, g = jax.lax.scan(one, p, jax.tree.map(cut, batch))
    return p, jax.tree.map(lambda x: x.mean(0), g)

  if alpha == 0:
    return kept

  def init(p, n_stages, key):
    fast_leaves(p, head)  # what it refuses, it refuses before anything runs
    return ()

  return _meta.method(inner, kept)._replace(init=init)


def fast_leaves(p, head: str):
  """Booleans like p: what takes inner steps."""
  paths = tree.paths(p)
  if not head:
    last = paths[-1].split("/")[0]
    return tree.map_with_path(lambda k, _: k.split("/")[0] == last, p)
  fast = tree.select(p, head)
  if not any(jax.tree.leaves(fast)):
    raise ValueError(
      f"oml's head {head!r} matches no leaf; there are {', '.join(paths)}"
    )
  return fast
