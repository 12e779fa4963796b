import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_cl import update
from jax_cl.losses import policy
from jax_cl.methods.base import Method
from jax_cl.types import Agent, Batch

AGENT = Agent(
  init=lambda key: ({"w": jnp.array([[1.0, -1.0]])}, ()),
  objective=lambda frozen: policy.objective(
    lambda p, batch: (batch.obs["x"] @ p["w"])[:, None, :]
  ),
  act=lambda *a: None,
)
TRAINS = np.eye(2, dtype=bool)
ONE = Batch(
  obs={"x": jnp.array([[1.0]])},
  action=jnp.zeros((1, 1), jnp.int32),
  mask=jnp.ones((1, 1)),
  logp_old=jnp.zeros((1, 1)),
  adv=jnp.ones(1),
  weight=jnp.ones(1),
  domain=jnp.zeros(1, jnp.int32),
  task=jnp.zeros(1, jnp.int32),
  reward=jnp.ones(1),
)


def make(method=Method(), tx=None, **kwargs):
  tx = tx or optax.sgd(1.0)
  steps = update.make(AGENT, method, tx, TRAINS, ONE, **kwargs)
  return steps, *steps.init(jax.random.key(0))


def test_one_step_by_hand():
  steps, state, frozen = make()
  state, metrics = steps.update(state, frozen, ONE)
  pi = 1 / (1 + np.exp(-2.0))  # logits (1, -1); d log pi_0 / dw = (1-pi, pi-1)
  want = [[1 + (1 - pi), -1 - (1 - pi)]]
  np.testing.assert_allclose(state.params["w"], want, rtol=1e-6)
  np.testing.assert_allclose(metrics["loss"], -np.log(pi), rtol=1e-6)
  np.testing.assert_allclose(
    metrics["grad_norm"], np.sqrt(2) * (1 - pi), rtol=1e-5
  )
  assert state.step == 1 and "task_grads" not in metrics


def test_the_loss_is_of_the_weights_that_act():
  """With a view that doubles p, the gradient doubles with it."""
  double = Method(view=lambda cl, p, s: jax.tree.map(lambda x: 2 * x, p))
  steps, state, frozen = make(double)
  np.testing.assert_allclose(steps.view(state)["w"], [[2.0, -2.0]])
  state, metrics = steps.update(state, frozen, ONE)
  pi = 1 / (1 + np.exp(-4.0))
  want = [[1 + 2 * (1 - pi), -1 - 2 * (1 - pi)]]
  np.testing.assert_allclose(state.params["w"], want, rtol=1e-5)


def test_updates_can_be_masked_after_the_optimiser():
  keep = jnp.array([[1.0, 0.0]])
  mask = Method(update=lambda cl, p, u, s: jax.tree.map(lambda x: x * keep, u))
  steps, state, frozen = make(mask, optax.adamw(0.1, weight_decay=0.5))
  for _ in range(3):
    state, _ = steps.update(state, frozen, ONE)
  assert state.params["w"][0, 1] == -1.0 and state.params["w"][0, 0] != 1.0


def test_a_stage_starts_its_optimiser_anew_or_not():
  for reset, count in ((True, 0), (False, 2)):
    steps, state, frozen = make(tx=optax.adam(0.1), reset_optimiser=reset)
    for _ in range(2):
      state, _ = steps.update(state, frozen, ONE)
    state = steps.start(state, 1)
    assert int(optax.tree.get(state.opt, "count")) == count
    assert state.stage == 1 and state.step == 2


def test_randomness_is_a_function_of_seed_and_step_alone():
  noise = Method(
    grads=lambda obj, cl, p, batch, mem, stage, key: (
      jax.tree.map(lambda x: jax.random.normal(key, x.shape), p),
      {"loss": jnp.float32(0)},
    )
  )
  steps, state, frozen = make(noise)
  seen = []
  for _ in range(3):
    before = np.array(state.params["w"])
    state, _ = steps.update(state, frozen, ONE)
    seen.append(np.array(state.params["w"]) - before)
  assert not np.allclose(seen[0], seen[1])
  again, _ = steps.init(jax.random.key(0))
  again = again._replace(step=jnp.int32(2))
  before = np.array(again.params["w"])
  again, _ = steps.update(again, frozen, ONE)
  moved = np.array(again.params["w"]) - before
  np.testing.assert_allclose(moved, seen[2], rtol=1e-5)


def test_bytes_before_anything_compiles():
  steps, *_ = make(tx=optax.adam(0.1))
  abstract = jax.eval_shape(lambda k: steps.init(k)[0], jax.random.key(0))
  # w: 2 floats; Adam: two moments and a count
  want = {"params": 8, "opt": 20, "cl": 0, "buffer": 0, "kept": 0}
  assert update.state_bytes(abstract) == want


def test_what_has_moved_since_a_stage_ended():
  """(r - 1) - log r of the row kept, r = pi_now / pi_then of what was done."""
  steps, state, frozen = make(keeps=1)
  padding = ONE._replace(weight=jnp.zeros(1))
  twice = ONE._replace(obs={"x": jnp.array([[2.0]])})
  batches = jax.tree.map(lambda *xs: jnp.stack(xs), padding, twice)
  state = steps.keep(state, frozen, batches)
  assert steps.moved(state, frozen).tolist() == [0, 0]
  # Logits were (2, -2), and are (1, -1) with half the weights.
  state = state._replace(params={"w": jnp.array([[0.5, -0.5]])})
  r = (1 + np.exp(-4.0)) / (1 + np.exp(-2.0))
  want = [r - 1 - np.log(r), 0]
  np.testing.assert_allclose(steps.moved(state, frozen), want, rtol=1e-4)
  # The next stage's row stands beside it.
  state = steps.start(state, 1)
  state = steps.keep(state, frozen, batches)
  np.testing.assert_allclose(steps.moved(state, frozen), want, rtol=1e-4)
  assert make()[0].keep is None and make()[1].kept == ()
