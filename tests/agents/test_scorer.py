"""The scorer: masks, heads, the starting policy, gradients by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_cl.agents import scorer
from jax_cl.types import Batch

A, S, D, C, F, E = 3, 2, 4, 5, 6, 7  # acts, slots, phi, options, psi, LLM
SPEC = {
  "phi": ((D,), np.float32),
  "cand": ((C, F), np.float32),
  "mask": ((C,), np.bool_),
  "slot": ((), np.int32),
}


def _agent(**options):
  rng = np.random.default_rng(0)
  return scorer.make(
    obs_spec=SPEC,
    act_vectors=rng.normal(size=(A, E)).astype(np.float32),
    slot_vectors=rng.normal(size=(S, E)).astype(np.float32),
    slot_types=(0, 0),
    **options,
  )


def _obs(slots, seed=0, legal=None):
  rng = np.random.default_rng(seed)
  n = len(slots)
  mask = np.zeros((n, C), bool)
  for i, s in enumerate(slots):
    mask[i, : (A if s < 0 else C)] = True
  if legal is not None:
    mask[:] = legal
  return {
    "phi": rng.normal(size=(n, D)).astype(np.float32),
    "cand": rng.normal(size=(n, C, F)).astype(np.float32),
    "mask": mask,
    "slot": np.array(slots, np.int32),
  }


def _batch(obs, action):
  n = len(action)
  ones = np.ones(n, np.float32)
  return Batch(
    obs=obs,
    action=np.array(action, np.int32)[:, None],
    mask=ones[:, None],
    logp_old=np.zeros((n, 1), np.float32),
    adv=ones,
    weight=ones,
    domain=np.zeros(n, np.int32),
    task=np.zeros(n, np.int32),
    reward=ones,
  )


def _keys(n):
  return jax.vmap(jax.random.key)(jnp.arange(n))


@pytest.mark.parametrize("head", scorer.HEADS)
def test_nothing_illegal_is_ever_taken(head):
  agent = _agent(head=head)
  params, frozen = agent.init(jax.random.key(0))
  params = jax.tree.map(lambda x: x + 0.3, params)
  legal = np.array([False, True, False, True, False])
  obs = _obs([-1, 0, 1] * 40, legal=legal)
  for greedy in (True, False):
    a, logp, _ = agent.act(params, frozen, obs, _keys(120), greedy)
    assert legal[np.asarray(a)].all() and np.isfinite(logp).all()


def test_the_starting_policy_is_uniform_but_for_the_start_act():
  agent = _agent(start_act=1)
  params, frozen = agent.init(jax.random.key(0))
  logits = agent.objective(frozen).out(params, _batch(_obs([-1, 0]), [0, 0]))
  np.testing.assert_allclose(logits[0, 0, :A], [0, 1, 0])
  np.testing.assert_allclose(logits[1, 0], np.zeros(C))


def test_a_row_is_learned_at_the_temperature_it_was_drawn_at():
  agent = _agent()
  p, frozen = agent.init(jax.random.key(0))
  obs = _obs([-1, 1])
  obs["heat"] = np.log(np.array([1, 2], np.float32))  # temperatures 1 and 2
  p = jax.tree.map(jnp.ones_like, p)
  out = lambda o: agent.objective(frozen).out(p, _batch(o, [0, 0]))[:, 0]
  plain = out({k: v for k, v in obs.items() if k != "heat"})
  hot = out(obs)
  np.testing.assert_allclose(hot[0], plain[0], rtol=1e-6)
  np.testing.assert_allclose(hot[1], plain[1] / 2, rtol=1e-6)


def test_tool_scores_are_w_phi_plus_u_chi():
  agent = _agent()
  params, frozen = agent.init(jax.random.key(0))
  rng = np.random.default_rng(1)
  params = {
    k: jnp.asarray(rng.normal(size=v.shape), jnp.float32)
    for k, v in params.items()
  }
  obs = _obs([-1, 1])
  out = agent.objective(frozen).out(params, _batch(obs, [0, 0]))[:, 0]
  phi, cand = (obs[k].astype(np.float64) for k in ("phi", "cand"))
  p = {k: np.asarray(v, np.float64) for k, v in params.items()}
  tool = phi[0] @ p["w"] + cand[0, :A] @ p["u"]
  np.testing.assert_allclose(out[0, :A], tool, rtol=1e-4, atol=1e-4)
  point = cand[1] @ (p["v"][1] + p["t"][0])  # both slots are of type 0
  np.testing.assert_allclose(out[1], point, rtol=1e-4, atol=1e-4)


def test_the_policy_gradient_of_w_is_the_closed_form():
  """d log pi(a) / d w_i = (1[i = a] - pi_i) phi."""
  agent = _agent()
  params, frozen = agent.init(jax.random.key(0))
  obs = _obs([-1])
  loss = agent.objective(frozen).loss
  g = jax.grad(lambda p: loss(p, _batch(obs, [2]), jax.random.key(0))[0])(
    params
  )
  phi = obs["phi"][0].astype(np.float32)
  want = -np.outer(phi, np.array([0, 0, 1]) - np.full(3, 1 / 3))
  np.testing.assert_allclose(g["w"], want, atol=1e-6)
  assert not np.any(g["v"]) and not np.any(g["t"])


def test_the_shared_head_moves_tools_it_was_not_trained_on():
  agent = _agent(head="shared", rank=3)
  params, frozen = agent.init(jax.random.key(0))
  obs = _obs([-1])
  loss = agent.objective(frozen).loss
  batch = _batch(obs, [2])
  g = jax.grad(lambda p: loss(p, batch, jax.random.key(0))[0])(params)
  stepped = jax.tree.map(lambda x, d: x - 0.1 * d, params, g)
  out = agent.objective(frozen).out(stepped, batch)[0, 0, :A]
  assert np.unique(np.asarray(out)).size == A and out[2] == max(out)


@pytest.mark.parametrize(
  ("option", "says"),
  [({"head": "pertool"}, "per_tool"), ({"temperature": 0.0}, "must be > 0")],
)
def test_bad_options(option, says):
  with pytest.raises(ValueError, match=says):
    _agent(**option)
