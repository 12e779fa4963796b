"""Every file of `jax_cl/methods`, and some chains, go through the same checks.

Compiling is what this costs, so a method runs one short stream for all tests
of its name (`stream`), and a worker gets all of them (`xdist_group`).
"""

import functools
import importlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from jax_cl import build, checkpoint, evaluate, sharding, update
from jax_cl.methods import base
from jax_cl.problems import base as problems
from jax_cl.types import TrainState

NAMES = build.known("methods")
CHAINS = ["replay+online_ewc", "online_ewc+packnet", "replay+si+reptile"]
MIDDLE = 4  # a step inside a stage, after PackNet has pruned


def each(names=NAMES + CHAINS, slow=()):
  def marks(name):
    group = pytest.mark.xdist_group(f"method {name}")
    return [group, pytest.mark.slow] if name in slow else [group]

  params = [pytest.param(n, marks=marks(n)) for n in names]
  return pytest.mark.parametrize("name", params)


class Made(NamedTuple):
  problem: Any
  method: base.Method
  steps: update.Steps
  traces: list  # one entry for each time the update was traced
  rows: Any  # sharding of the batch
  size: int


class Stream(NamedTuple):
  states: list[TrainState]  # before the stream and after each stage
  inside: list[TrainState]  # after step MIDDLE of each stage
  acts: list[
    dict[str, Any]
  ]  # after each stage, the params that act on a domain


def off(name) -> dict | None:
  """Options at which a method, or all parts of a chain, are `sequential`."""
  parts = {
    n: importlib.import_module(f"jax_cl.methods.{n}").OFF
    for n in name.split("+")
  }
  return None if None in parts.values() else parts


def make(name, devices=1, options=()) -> tuple[Any, base.Method, Any]:
  config = small.config()
  config.cl.name, config.train.devices = name, devices
  for part, values in dict(options).items():
    config.cl.args[part].update(values)
  what = build.problem(config)
  method = build.method(config, len(what.domains), build.trains(what))
  return what, method, config


def made(name, devices=1, is_off=False) -> Made:
  return _made(name, devices, is_off)


@functools.cache
def _made(name, devices, is_off) -> Made:
  """A method at its defaults (or OFF); compiled once for all tests."""
  what, method, config = make(name, devices, off(name) if is_off else ())
  traces = []

  @functools.wraps(method.grads)  # keeps what `chain` reads
  def counted(*args):
    traces.append(1)
    return method.grads(*args)

  steps = build.steps(config, what, method._replace(grads=counted))
  rows = sharding.layout(devices).rows
  return Made(what, method, steps, traces, rows, config.train.batch_size)


def stage(it: Made, state, frozen, k, at=0, see=lambda n, state: None):
  """The device side of one stage of `train.run`, from step `at` on."""
  what, method, steps = it.problem, it.method, it.steps
  length = what.stages[k].steps
  for n in range(at, length):
    if n == 0:
      state = steps.start(state, k)
    batch = rows(it, k, n)
    state, metrics = steps.update(state, frozen, batch)
    assert np.isfinite(metrics["loss"])
    if steps.remember:  # in every epoch: twice the same row does no harm here
      state = steps.remember(state, frozen, batch)
    for fraction, phase in steps.phases:
      if n + 1 == update.phase_step(fraction, length):
        state = phase(state)
    see(n + 1, state)
  if method.rows:
    batches = [problems.minibatch(what.demos(k), it.size, i, 0) for i in (0, 1)]
    batches = jax.tree.map(lambda *x: np.stack(x), *batches)
    state = steps.end(state, frozen, batches)
  return steps.observe(state, jnp.full(len(what.domains), 0.5))


def rows(it: Made, k, n):
  batch = problems.minibatch(it.problem.demos(k), it.size, n, seed=k)
  return sharding.place(batch, it.rows)


def stream(name, devices=1, is_off=False) -> Stream:
  return _stream(name, devices, is_off)


@functools.cache
def _stream(name, devices, is_off) -> Stream:
  it = made(name, devices, is_off)
  state, frozen = it.steps.init(jax.random.key(0))
  out = Stream([host(state)], [], [])

  def see(n, state):
    if n == MIDDLE:
      out.inside.append(host(state))

  for k in range(len(it.problem.stages)):
    state = stage(it, state, frozen, k, see=see)
    out.states.append(host(state))
    acting = evaluate.views(it.problem, it.method, it.steps, state, k)
    out.acts.append({d: host_tree(acting(d)) for d in it.problem.domains})
  return out


def host_tree(tree):
  return jax.tree.map(np.array, tree)


def host(state):
  return host_tree(state._replace(key=jax.random.key_data(state.key)))


def device(state):
  """A new copy on the device: it may be donated."""
  state = jax.tree.map(jnp.array, state)
  return state._replace(key=jax.random.wrap_key_data(state.key))


def same(a, b):
  """Bit for bit, as numbers: 0.0 and -0.0 are one."""
  return all(
    np.array_equal(x, y)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


def close(a, b, tolerance=1e-5):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, tolerance, tolerance), a, b
  )


def spec(tree):
  return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


@each()
def test_init_can_be_abstract(name):
  init = lambda key: made(name).steps.init(key)[0]
  abstract = jax.eval_shape(init, jax.random.key(0))
  first = stream(name).states[0]
  for part in ("params", "opt", "cl", "buffer"):
    assert spec(getattr(abstract, part)) == spec(getattr(first, part))
  assert update.state_bytes(abstract) == update.state_bytes(first)


@each()
def test_one_compile_a_stream_and_a_stable_tree(name):
  states = stream(name).states
  assert len(made(name).traces) == 1
  assert made(name).steps.update._cache_size() == 1
  assert all(spec(s) == spec(states[0]) for s in states)


@each([n for n in NAMES + CHAINS if off(n) is not None])
def test_off_equals_sequential_bit_for_bit(name):
  if make(name, options=off(name))[1] == base.Method():
    return  # the file hands out `sequential` itself
  mine, theirs = stream(name, is_off=True), stream("sequential")
  assert all(same(a, b) for a, b in zip(mine.acts, theirs.acts, strict=True))


@each([n for n in NAMES + CHAINS if n != "sequential"])
def test_defaults_change_the_weights(name):
  mine, theirs = stream(name).acts[-1], stream("sequential").acts[-1]
  assert not same(list(mine.values())[-1], list(theirs.values())[-1])


@each([n for n in NAMES if hasattr(make(n)[1].grads, "term")])
def test_stage_0_of_a_regulariser_equals_sequential(name):
  mine, theirs = stream(name).acts, stream("sequential").acts
  assert same(mine[0], theirs[0])
  assert not same(mine[1], theirs[1])


@each([n for n in NAMES + CHAINS if "stage_at_test" in make(n)[1].needs])
def test_told_the_stage_nothing_is_forgotten(name):
  """The params that act on a domain stay those of its own stage, to the bit."""
  acts = stream(name).acts
  for k, domain in enumerate(made(name).problem.domains):
    assert all(same(later[domain], acts[k][domain]) for later in acts[k:])
  assert not same(acts[-1]["perm0"], acts[-1]["perm1"])


@each()
@pytest.mark.parametrize("step", [0, MIDDLE])
def test_save_and_restore_in_a_stage_and_between_stages(name, step, tmp_path):
  it, run = made(name), stream(name)
  saved = run.inside[1] if step else run.states[1]
  checkpoint.save(tmp_path, 1, step, device(saved), {"at": [1, step]})
  like, frozen = it.steps.init(jax.random.key(2))
  again = checkpoint.restore(tmp_path, 1, step, like)
  assert spec(host(again)) == spec(host(like))
  assert checkpoint.host(tmp_path, 1, step) == {"at": [1, step]}
  again = host(again)  # restored arrays are bound to a device: compiled anew
  assert same(again, saved)
  after = stage(it, device(again), frozen, 1, at=step)
  assert same(host(after), run.states[2])


@each()
def test_eight_devices_equal_one(name):
  close(stream(name, devices=8).acts[-1], stream(name).acts[-1])


# Each primitive is compiled by itself: ten times the step's own compile.
@each(
  slow=[n for n in NAMES + CHAINS if n not in ("sequential", "lwf", "lora")]
)
def test_without_jit_a_step_is_the_same(name):
  it, state = made(name), stream(name).inside[1]
  _, frozen = it.steps.init(jax.random.key(0))
  batch = rows(it, 1, MIDDLE)
  jitted, metrics = it.steps.update(device(state), frozen, batch)
  plainly, again = it.steps.update.__wrapped__(device(state), frozen, batch)
  close(host_tree(plainly.params), host_tree(jitted.params))
  close(host_tree(again), host_tree(metrics), 1e-4)


@each()
def test_what_a_method_needs_is_known(name):
  method = make(name)[1]
  assert method.needs <= base.NEEDS
  assert ("memory" in method.needs) == bool(method.capacity)


@each(NAMES)
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
