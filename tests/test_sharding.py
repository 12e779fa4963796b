"""Rules by path, and one update on a 2 x 2 x 2 mesh equal to one device's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_cl import sharding, tree, update
from jax_cl.agents import llm
from jax_cl.methods import online_ewc
from jax_cl.policies import hub, llama, tiny
from jax_cl.problems import tau2_llm
from jax_cl.types import Batch

T, B = 8, 8
MODEL = llama.make("tiny", layers=1, vocab=96)


def test_rules_follow_the_end_of_a_path():
  where = sharding.layout(8, fsdp=2, tensor=2)
  kernel = jnp.zeros((3, 8, 12))
  of = {
    "params": {"layers": {"attn": {"q": {"kernel": kernel}}}},
    "opt": [{"mu": {"layers": {"mlp": {"down": {"kernel": kernel}}}}}],
    "bank": {"layers": {"attn": {"q": {"kernel": jnp.zeros((5, 3, 8, 12))}}}},
    "odd": {"layers": {"attn": {"k": {"kernel": jnp.zeros((3, 7, 12))}}}},
    "norm": {"scale": jnp.zeros(8)},
  }
  specs = [
    tuple(s.spec) for s in jax.tree.leaves(sharding.shardings(where, of))
  ]
  assert dict(zip(tree.paths(of), specs)) == {
    "bank/layers/attn/q/kernel": (None, None, "fsdp", "tensor"),
    "norm/scale": (),
    "odd/layers/attn/k/kernel": (None, None, "tensor"),  # 7 is not halved
    "opt/0/mu/layers/mlp/down/kernel": (None, "tensor", "fsdp"),
    "params/layers/attn/q/kernel": (None, "fsdp", "tensor"),
  }


@pytest.mark.parametrize(
  "args, words",
  [((9,), "there are 8"), ((8, 3), "cannot be fsdp 3 x tensor 1")],
)
def test_a_mesh_that_cannot_be_is_refused(args, words):
  with pytest.raises(ValueError, match=words):
    sharding.layout(*args)


def test_no_number_means_all_devices():
  where = sharding.layout(0)
  assert where.rows.mesh.shape == {"data": 8, "fsdp": 1, "tensor": 1}


def rows():
  rng = np.random.default_rng(0)
  talks = [
    (rng.integers(1, 96, n), np.arange(n) > 1, np.full(n, -4.6))
    for n in (9, 9, 7, 5, 9, 4, 8, 9)
  ]
  return Batch(
    **llm.rows(talks, T),
    adv=np.linspace(-1, 1, B).astype(np.float32),
    weight=np.ones(B, np.float32),
    domain=np.zeros(B, np.int32),
    task=np.arange(B, dtype=np.int32),
    reward=np.ones(B, np.float32),
  )


def trained(devices, fsdp, tensor):
  """(state, metrics, traces) after a stage, its Fisher and one more step."""
  agent = llm.make(model=MODEL, length=T, chunk=4)
  where = sharding.layout(devices, fsdp, tensor)
  method, traces = online_ewc.make(lr=0.1, lam=10.0, samples=B), []

  def counted(*args):
    traces.append(1)
    return method.grads(*args)

  steps = update.make(
    agent, method._replace(grads=counted), optax.sgd(0.1),
    np.eye(2, dtype=bool), rows(), layout=where,
  )  # fmt: skip
  state, frozen = steps.init(jax.random.key(0))
  one = sharding.place(rows(), where.rows)
  for stage in range(2):
    state = steps.start(state, stage)
    state, metrics = steps.update(state, frozen, one)
    if stage == 0:
      batches = jax.tree.map(lambda x: x[None], rows())
      state = steps.end(state, frozen, batches)
  return state, metrics, traces


def test_eight_devices_equal_one():
  one, metrics, _ = trained(1, 1, 1)
  many, again, traces = trained(8, 2, 2)
  assert len(traces) == 1  # the second step compiled nothing
  for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(many.params)):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(metrics["loss"], again["loss"], rtol=1e-5)
  fisher = {p: x for p, x in zip(
    tree.paths(many.cl["fisher"]), jax.tree.leaves(many.cl["fisher"])
  )}  # fmt: skip
  split = [p for p, x in fisher.items() if not x.is_fully_replicated]
  assert any("attn/q" in p for p in split)  # the anchor's lies as the weight's


def test_activations_stay_with_their_rows():
  """Though weights are split by width over the same devices."""
  where = sharding.layout(8, fsdp=4, tensor=2)
  mesh = where.rows.mesh
  by_width = jax.NamedSharding(mesh, jax.P(None, None, "fsdp"))

  def f(x):
    with sharding.inside(where):
      return sharding.rows(x), sharding.rows(x[:3])

  x = jax.device_put(jnp.zeros((8, 5, 16)), by_width)
  pinned, odd = jax.jit(f)(x)
  assert pinned.sharding.shard_shape(pinned.shape) == (2, 5, 16)
  assert odd.shape == (3, 5, 16)  # three rows cannot be split over four
  assert sharding.rows(x) is x  # outside, and on one device


def test_weights_are_read_into_their_shards(tmp_path):
  """The base in two bytes a number, new adapters in four."""
  policy = tiny.make(
    layers=1, width=32, heads=2, kv_heads=1, head_width=16, ff_width=64
  )
  params = jax.jit(policy.init)(jax.random.key(3))
  hub.write(tmp_path, policy.config, params, tokenizer=tiny.tokenizer())
  made = tau2_llm.language_model(
    length=8, model=str(tmp_path), lora_rank=2, frozen_dtype="bfloat16", kl=0.1
  )
  where = sharding.layout(8, fsdp=2, tensor=2)
  p, frozen = made.agent.load(jax.random.key(0), where)
  assert frozen["base"] is None  # the base is the tree without adapters
  assert {path.rsplit("/", 1)[-1] for path in tree.paths(p)} == {
    "lora_a", "lora_b",
  }  # fmt: skip
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(p))
  read = dict(zip(tree.paths(frozen["rest"]), jax.tree.leaves(frozen["rest"])))
  for path, x in zip(tree.paths(params), jax.tree.leaves(params)):
    np.testing.assert_array_equal(read[path], x.astype(jnp.bfloat16))
  up = read["layers/mlp/up/kernel"]
  assert up.sharding.shard_shape(up.shape) == (1, 16, 32)
