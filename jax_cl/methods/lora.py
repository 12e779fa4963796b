"""LoRA per stage: a fresh adapter each stage, the others kept in a bank.

  W_s = W + A_s B_s, with A_s, B_s learned in stage s alone.

Nothing is forgotten, and nothing but W is shared. The stage must be told at
test time: a domain is played with the adapter of its own stage, so scores are
not ranked with those of methods that find out by themselves.

Hu et al. 2021, https://arxiv.org/abs/2106.09685; one adapter a task is the
upper line of most comparisons, e.g. Wang et al. 2023 (O-LoRA, "PerTaskFT").

Where the learner brings adapters (an LLM: leaves `lora_a`, `lora_b`), these and
every other trainable leaf belong to a stage, and the frozen weights are W.
Where it brings none (a scorer, an MLP), deltas of `rank` are put beside every
matrix, one of its own size beside every other leaf; there is nothing
pretrained then, so stage 0 learns W itself, and W is frozen afterwards.

Deviations: every stage's A starts from the same draw. A domain that comes back
(an interleaved stream) gets a new adapter and is played with its last one.
"""

from __future__ import annotations

from jax_cl.methods import _bank, _deltas
from jax_cl.methods.base import Method

OFF = None  # a fresh adapter is no matter of strength


def make(*, rank: int = 4) -> Method:
  """`rank` of the deltas where the learner brings no adapters of its own."""
  if rank < 1:
    raise ValueError(f"lora rank is {rank}; it must be 1 or more")

  def init(p, n_stages, key):
    return _bank.init(_own(p), n_stages)

  def start(cl, p, stage, key):
    cl, fresh = _bank.swap(cl, _own(p), stage)
    return cl, _with(p, fresh)

  def view(cl, p, stage):
    p = _with(p, _bank.seen(cl, _own(p), stage))
    return _deltas.merge(p) if isinstance(p, _deltas.Adapted) else p

  def update(cl, p, u, stage):
    if not isinstance(u, _deltas.Adapted):
      return u
    first = stage == 0
    return _deltas.Adapted(
      _deltas.where(first, u.base), _deltas.where(~first, u.delta)
    )

  return Method(
    extend=lambda p, n_stages, key: _deltas.extend(p, rank, key),
    init=init,
    start=start,
    view=view,
    update=update,
    needs=frozenset({"stage_at_test"}),
  )


def _own(p):
  """What belongs to one stage."""
  return p.delta if isinstance(p, _deltas.Adapted) else p


def _with(p, own):
  return p._replace(delta=own) if isinstance(p, _deltas.Adapted) else own
