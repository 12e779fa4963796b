"""Every file of `jax_cl/methods` goes through the same checks."""

import functools
import importlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from jax_cl import build, checkpoint, sharding, update
from jax_cl.methods import base
from jax_cl.problems import base as problems
from jax_cl.types import TrainState

NAMES = build.known("methods")


class Made(NamedTuple):
  problem: Any
  method: base.Method
  steps: update.Steps
  traces: list  # one entry for each time the update was traced
  rows: Any  # sharding of the batch
  size: int


def made(name, devices=1, off=False) -> Made:
  return _made(name, devices, off)


@functools.cache
def _made(name, devices, off) -> Made:
  """A method at its defaults (or at OFF); compiled once for all tests."""
  config = small.config()
  config.cl.name, config.train.devices = name, devices
  if off:
    options = importlib.import_module(f"jax_cl.methods.{name}").OFF
    config.cl.args[name].update(options)
  what = build.problem(config)
  method = build.method(config, len(what.domains))
  traces = []

  @functools.wraps(method.grads)  # keeps what `chain` reads
  def counted(*args):
    traces.append(1)
    return method.grads(*args)

  steps = build.steps(config, what, method._replace(grads=counted))
  rows = sharding.data_parallel(devices).rows
  return Made(what, method, steps, traces, rows, config.train.batch_size)


def stage(it: Made, state, frozen, k, at=0, save=lambda k, n, state: None):
  """The device side of one stage of `train.run`, from step `at` on."""
  what, method, steps, size = it.problem, it.method, it.steps, it.size
  demos = what.demos(k)
  for n in range(at, what.stages[k].steps):
    save(k, n, state)
    if n == 0:
      state = steps.start(state, k)
    batch = problems.minibatch(demos, size, n, seed=k)
    batch = sharding.place(batch, it.rows)
    state, metrics = steps.update(state, frozen, batch)
    assert np.isfinite(metrics["loss"])
    if steps.remember and n < problems.per_epoch(demos, size):
      state = steps.remember(state, frozen, batch)
  if method.rows:
    batches = [problems.minibatch(demos, size, i, 0) for i in range(3)]
    batches = jax.tree.map(lambda *x: np.stack(x), *batches)
    state = steps.end(state, frozen, batches)
  return steps.observe(state, jnp.full(len(what.domains), 0.5))


def stream(name, devices=1, off=False) -> list[TrainState]:
  """Host copies of the state before the stream and after each stage."""
  return _stream(name, devices, off)


@functools.cache
def _stream(name, devices, off) -> list[TrainState]:
  it = made(name, devices, off)
  state, frozen = it.steps.init(jax.random.key(0))
  out = [host(state)]
  for k in range(len(it.problem.stages)):
    state = stage(it, state, frozen, k)
    out.append(host(state))
  return out


def host(state):
  data = state._replace(key=jax.random.key_data(state.key))
  return jax.tree.map(np.array, data)


def same(a, b):
  """Bit for bit, as numbers: 0.0 and -0.0 are one."""
  return all(
    np.array_equal(x, y)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


def spec(tree):
  return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


@pytest.mark.parametrize("name", NAMES)
def test_init_can_be_abstract(name):
  init = lambda key: made(name).steps.init(key)[0]
  abstract = jax.eval_shape(init, jax.random.key(0))
  assert spec(abstract.cl) == spec(stream(name)[0].cl)
  assert spec(abstract.buffer) == spec(stream(name)[0].buffer)
  assert update.state_bytes(abstract) == update.state_bytes(stream(name)[0])


@pytest.mark.parametrize("name", NAMES)
def test_one_compile_a_stream_and_a_stable_tree(name):
  states = stream(name)
  assert len(made(name).traces) == 1
  assert made(name).steps.update._cache_size() == 1
  assert all(spec(s) == spec(states[0]) for s in states)


@pytest.mark.parametrize("name", NAMES)
def test_off_equals_sequential_bit_for_bit(name):
  if importlib.import_module(f"jax_cl.methods.{name}").OFF is None:
    pytest.skip("the file says why it has no strength 0")
  for a, b in zip(stream(name, off=True), stream("sequential"), strict=True):
    assert same(a.params, b.params)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "sequential"])
def test_defaults_change_the_weights(name):
  assert not same(stream(name)[-1].params, stream("sequential")[-1].params)


@pytest.mark.parametrize("name", NAMES)
def test_stage_0_of_a_regulariser_equals_sequential(name):
  if not hasattr(made(name).method.grads, "term"):
    pytest.skip("no penalty")
  assert same(stream(name)[1].params, stream("sequential")[1].params)
  assert not same(stream(name)[2].params, stream("sequential")[2].params)


@pytest.mark.parametrize("name", NAMES)
def test_save_and_restore_in_a_stage_and_between_stages(name, tmp_path):
  it = made(name)
  state, frozen = it.steps.init(jax.random.key(0))

  def save(k, n, state):
    if n in (0, 4):
      checkpoint.save(tmp_path, k, n, state, {"at": [k, n]})

  for k in range(2):
    state = stage(it, state, frozen, k, save=save)
  assert checkpoint.places(tmp_path) == [(0, 0), (1, 0), (1, 4)]
  for k, n in checkpoint.places(tmp_path)[1:]:
    like, frozen = it.steps.init(jax.random.key(2))
    again = checkpoint.restore(tmp_path, k, n, like)
    assert spec(host(again)) == spec(host(like))
    assert checkpoint.host(tmp_path, k, n) == {"at": [k, n]}
    assert same(host(stage(it, again, frozen, k, at=n)), host(state))


@pytest.mark.parametrize("name", NAMES)
def test_eight_devices_equal_one(name):
  many, one = stream(name, devices=8), stream(name)
  for a, b in zip(
    jax.tree.leaves(many[-1].params), jax.tree.leaves(one[-1].params),
    strict=True,
  ):  # fmt: skip
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_method_needs_is_known(name):
  method = made(name).method
  assert method.needs <= base.NEEDS
  assert ("memory" in method.needs) == bool(method.capacity)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_options_name_the_allowed(name):
  config = small.config()
  config.cl.name = name
  config.cl.args[name] = {"lamm": 1}
  with pytest.raises(ValueError, match="unknown option .*'lamm'.*known: "):
    build.method(config, 3)


def test_unknown_method_names_the_nearest():
  config = small.config()
  config.cl.name = "replya"
  with pytest.raises(ValueError, match="did you mean 'replay'.*sequential"):
    build.method(config, 3)
