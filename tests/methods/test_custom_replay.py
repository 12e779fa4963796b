import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import NEW, OBJ, P

from jax_cl import memory
from jax_cl.methods import custom_replay, selective_replay

TRAINS = np.eye(2, dtype=bool)


def drawn(method, reward, steps=3):
  """Rewards of the rows that are replayed, step after step."""
  rows = NEW._replace(reward=jnp.asarray(reward, jnp.float32))
  items = method.store(OBJ, (), P, rows, jax.random.key(0))
  buffer = memory.add(memory.init(items, TRAINS, 8), items, jnp.int32(0))
  out = []
  for step in range(steps):
    mem = method.draw((), buffer, jnp.int32(1), jax.random.key(step))
    buffer = method.touch(buffer, mem, {})
    out.append(sorted(round(x, 2) for x in mem.rows.reward[0].tolist()))
  return out


def test_the_default_takes_everything_in_turn():
  method = custom_replay.make(batch_size=4, ratio=0.5, min_buffer_size=1)
  first, second, third = drawn(method, [0.6, 0.7, 0.8, 0.9])
  assert sorted(first + second) == [0.6, 0.7, 0.8, 0.9] and len(third) == 2


def test_a_function_in_a_file_of_ones_own(tmp_path):
  file = tmp_path / "mine.py"
  file.write_text("def worst(key, buffer):\n  return -buffer.rows.reward\n")
  method = custom_replay.make(
    batch_size=4, ratio=0.5, min_buffer_size=1, select=f"{file}:worst"
  )
  assert drawn(method, [0.6, 0.7, 0.8, 0.9], steps=1) == [[0.6, 0.7]]


@pytest.mark.parametrize(
  "select, message",
  [
    ("least_used", "write package.module:function"),
    ("no_such_package.x:f", "no 'no_such_package.x'"),
    ("missing.py:f", "no 'missing.py'"),
    ("jax_cl.memory:nothing", "jax_cl.memory has no 'nothing'"),
  ],
)
def test_names_that_lead_nowhere(select, message):
  with pytest.raises(ValueError, match=message):
    custom_replay.make(batch_size=4, ratio=0.5, select=select)


def test_a_score_of_the_wrong_shape_is_named():
  def one(key, buffer):
    return jnp.zeros(3)

  custom_replay.one_too_few = one
  method = custom_replay.make(
    batch_size=4, ratio=0.5, select="jax_cl.methods.custom_replay:one_too_few"
  )
  with pytest.raises(TypeError, match=r"gives \(3,\).*slot, \(2, 8\)"):
    drawn(method, [1, 1, 1, 1])


def test_selective_remembers_the_best_alone():
  rows = NEW._replace(reward=jnp.array([0.6, 0.7, 0.71, 1.0]))
  kept = lambda **kw: (
    selective_replay.make(batch_size=4, ratio=0.5, **kw)
    .store(OBJ, (), P, rows, jax.random.key(0))
    .keep.tolist()
  )
  assert kept() == [False, False, True, True]
  assert kept(threshold=0.65) == [False, True, True, True]
