import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import NEW, OBJ, P, gradient, rows, sample

from jax_cl import tree
from jax_cl.methods import mir

# Candidates that the new batch (which teaches x = (1, 0) -> 0) leaves alone,
# hurts a little, hurts most; the last one has no weight.
TEACH = rows([[1, 0], [1, 0]], [0, 0])
POOL = rows(
  [[0, 1], [0.2, 0], [1, 0], [2, 0]], [1, 1, 1, 1], weight=[1.0, 1, 1, 0]
)
KEY = jax.random.key(0)


def test_the_row_whose_loss_a_virtual_step_raises_most():
  virtual = tree.axpy(-1.0, {"w": gradient(TEACH)}, P)
  loss = lambda p: np.asarray(-OBJ.logp(p, POOL))[:, 0]
  rise = loss(virtual) - loss(P)
  assert rise[2] > rise[1] > rise[0] == 0
  picked = mir.most_hurt(OBJ, P, virtual, POOL, 2)
  assert picked.tolist() == [2, 1]


def test_what_is_picked_joins_the_batch_and_is_counted():
  method = mir.make(batch_size=2, lr=1.0, ratio=0.5, pool=4)
  g, aux = method.grads(OBJ, (), P, TEACH, sample(POOL), 1, KEY)
  both = rows([[1, 0], [1, 0], [1, 0]], [0, 0, 1])
  np.testing.assert_allclose(g["w"], gradient(both), rtol=1e-5, atol=1e-7)
  assert aux["replayed"].tolist() == [[False, False, True, False]]
  assert aux["replay_ratio"] == 0.5


def test_an_empty_memory_changes_nothing():
  none = sample(POOL._replace(weight=jnp.zeros(4)))
  method = mir.make(batch_size=4, lr=1.0, ratio=0.25, pool=4)
  g, aux = method.grads(OBJ, (), P, NEW, none, 0, KEY)
  np.testing.assert_allclose(g["w"], gradient(NEW), rtol=1e-6)
  assert aux["replay_ratio"] == 0


def test_refused():
  with pytest.raises(ValueError, match="pool is 0"):
    mir.make(batch_size=4, lr=0.1, pool=0, ratio=0.5)
