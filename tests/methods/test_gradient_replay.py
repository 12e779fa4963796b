import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import NEW, OBJ, OLD, P, gradient, sample

from jax_cl import memory
from jax_cl.methods import gradient_replay

KEY = jax.random.key(0)
CLONED = OLD._replace(adv=jnp.ones(2))


def run(method, updates=0, stage=1, old=OLD):
  cl = {"updates": jnp.int32(updates)}
  return method.grads(OBJ, cl, P, NEW, sample(old), jnp.int32(stage), KEY)


def test_it_is_the_gradient_of_the_weighted_losses():
  a = 0.3
  loss = lambda b: lambda p: OBJ.loss(p, b, None)[0]
  mixed = lambda p: (1 - a) * loss(NEW)(p) + a * loss(CLONED)(p)
  g, aux = run(gradient_replay.make(a=a, items=2))
  np.testing.assert_allclose(g["w"], jax.grad(mixed)(P)["w"], rtol=1e-6)
  np.testing.assert_allclose(aux["replay_share"], a)


def test_every_task_weighs_alike():
  # In the third stage a = 2/3: one third each for this task and two others.
  method = gradient_replay.make(items=2, schedule="tasks")
  for stage, a in ((0, 0), (1, 1 / 2), (2, 2 / 3)):
    g, aux = run(method, stage=stage)
    np.testing.assert_allclose(aux["replay_share"], a, rtol=1e-6)
    want = (1 - a) * gradient(NEW) + a * gradient(CLONED)
    np.testing.assert_allclose(g["w"], want, rtol=1e-5)


def test_between_its_updates_nothing_is_replayed():
  method = gradient_replay.make(items=2, frequency=3)
  for updates in range(4):
    g, aux = run(method, updates)
    on = updates % 3 == 0
    assert bool(aux["replayed"].all()) == on
    assert (g["w"] == gradient(NEW)).all() != on
  assert method.step({"updates": 4}, P, P, P, {}, 0) == {"updates": 5}


def test_new_losses_become_priorities_where_rows_were_replayed():
  items = memory.Items(OLD, jnp.ones(2, bool), priority=jnp.array([7.0, 8.0]))
  buffer = memory.add(
    memory.init(items, np.eye(2, dtype=bool), 4), items, jnp.int32(0)
  )
  method = gradient_replay.make(items=2, frequency=2)
  mem = sample(OLD)._replace(slot=jnp.array([[0, 1]], jnp.int32))
  touched = {}
  for updates in (0, 1):
    _, aux = method.grads(
      OBJ, {"updates": jnp.int32(updates)}, P, NEW, mem, jnp.int32(1), KEY
    )
    touched[updates] = method.touch(buffer, mem, aux)
  loss = -np.asarray(OBJ.logp(P, OLD))[:, 0]
  np.testing.assert_allclose(touched[0].priority[0, :2], loss, rtol=1e-6)
  assert touched[0].used[0].tolist() == [1, 1, 0, 0]
  assert touched[1].priority[0, :2].tolist() == [7, 8]
  assert touched[1].used.sum() == 0 == touched[1].replayed.sum()


def test_an_empty_memory_changes_nothing():
  none = OLD._replace(weight=jnp.zeros(2))
  g, aux = run(gradient_replay.make(items=2), old=none)
  assert (g["w"] == gradient(NEW)).all() and aux["replay_share"] == 0


@pytest.mark.parametrize(
  "options, message",
  [
    ({"a": 1.5}, "a in .0, 1.* got a 1.5"),
    ({"items": 0}, "items 0"),
    ({"schedule": "task"}, "did you mean 'tasks'"),
  ],
)
def test_refused(options, message):
  with pytest.raises(ValueError, match=message):
    gradient_replay.make(**options)
