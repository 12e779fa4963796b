import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import NEW, OBJ, OLD, P, gradient, sample

from jax_cl import memory, types
from jax_cl.methods import base, replay


def grads(method, mem, new=NEW):
  return method.grads(OBJ, (), P, new, mem, 0, jax.random.key(0))


def test_appended_is_the_mean_over_new_and_old():
  method = replay.make(batch_size=4, ratio=0.5)
  g, aux = grads(method, sample(OLD))
  cloned = OLD._replace(adv=jnp.ones(2))
  want = (4 * gradient(NEW) + 2 * gradient(cloned)) / 6
  np.testing.assert_allclose(g["w"], want, rtol=1e-6)
  assert aux["replay_ratio"] == 0.5


def test_an_empty_memory_is_sequential():
  empty = OLD._replace(weight=jnp.zeros(2))
  for mode in ("appended", "within"):
    method = replay.make(batch_size=4, ratio=0.5, mode=mode)
    g, aux = grads(method, sample(empty))
    np.testing.assert_allclose(g["w"], gradient(NEW), rtol=1e-6)
    assert aux["replay_ratio"] == 0


def test_within_keeps_the_size_and_replaces_new_rows():
  joined = replay.within(NEW, OLD, jax.random.key(3))
  assert joined.weight.shape == (4,)
  old = [x for x in joined.obs["x"].tolist() if x in OLD.obs["x"].tolist()]
  new = [x for x in joined.obs["x"].tolist() if x in NEW.obs["x"].tolist()]
  assert len(old) == 2 and len(new) == 2
  half = replay.within(
    NEW, OLD._replace(weight=jnp.array([1.0, 0.0])), jax.random.key(3)
  )
  assert sum(x in NEW.obs["x"].tolist() for x in half.obs["x"].tolist()) == 3


def test_pg_corrects_by_the_truncated_ratio():
  # x = (2, 0): logits (1, -1), pi(1) = 1 / (1 + e^2) = .1192, mu = .5,
  # ratio .2384; x = (0, 2): logits (0, 2), pi(0) = .1192 too.
  method = replay.make(batch_size=4, ratio=0.5, kind="replay_pg")
  pi = 1 / (1 + np.exp(2))
  adv = replay.corrected(OBJ, P, OLD, clip=2.0).adv
  np.testing.assert_allclose(adv, [3 * pi / 0.5, -pi / 0.5], rtol=1e-5)
  g, _ = grads(method, sample(OLD))
  want = (4 * gradient(NEW) + 2 * gradient(OLD._replace(adv=adv))) / 6
  np.testing.assert_allclose(g["w"], want, rtol=1e-5)
  rare = OLD._replace(logp_old=jnp.full((2, 1), -20.0))
  np.testing.assert_allclose(
    replay.corrected(OBJ, P, rare, clip=2.0).adv, [6.0, -2.0], rtol=1e-5
  )


def test_of_many_tokens_the_ratio_is_their_geometric_mean():
  # Two tokens of logp -1 and -3 under mu; pi gives log(1/2) at both, so the
  # mean gap is ((-.693 + 1) + (-.693 + 3)) / 2 = 1.307: exp is 3.69, cut at 2;
  # a third, padded, counts for nothing. Unsampled tokens have mu = 1.
  flat = OBJ._replace(logp=lambda p, b: jnp.log(0.5) * jnp.ones(b.mask.shape))
  old = OLD._replace(
    mask=jnp.array([[1.0, 1, 0], [1, 1, 0]]),
    logp_old=jnp.array([[-1.0, -3, 9], [types.CLONED] * 3]),
    adv=jnp.ones(2),
  )
  out = replay.corrected(flat, P, old, clip=4.0)
  want = [np.exp((4 - 2 * np.log(2)) / 2), 0.5]
  np.testing.assert_allclose(out.adv, want, rtol=1e-5)
  np.testing.assert_allclose(replay.corrected(flat, P, old, 2.0).adv, [2, 0.5])
  np.testing.assert_allclose(out.logp_old, np.log(0.5))  # a loss's own is 1


def test_bc_remembers_successes_and_pg_everything():
  mixed = NEW._replace(reward=jnp.array([1.0, 0.0, 0.6, 0.5]))
  kept = lambda kind: (
    replay.make(batch_size=4, ratio=0.5, kind=kind)
    .store(OBJ, (), P, mixed, jax.random.key(0))
    .keep.tolist()
  )
  assert kept("replay_bc") == [True, False, True, False]
  assert kept("replay_opr") == [True, False, True, False]
  assert kept("replay_pg") == [True, True, True, True]


def test_own_answers_leave_demonstrations_out():
  own = replay.make(batch_size=4, ratio=0.5, kind="replay_opr")
  assert own.demos == "none" and "rollouts" in own.needs
  assert replay.make(batch_size=4, ratio=0.5).demos == "first"


TRAINS = np.eye(3, dtype=bool)


def test_env_shares_rollouts_among_earlier_domains():
  again = lambda **kw: replay.make(
    batch_size=4, prompts=8, trains=TRAINS, ratio=0.25, kind="replay_env", **kw
  )
  mix = lambda method, k: np.asarray(method.mix((), jnp.int32(k)))
  appended = again()
  assert not appended.capacity and appended.needs == {"rollouts"}
  np.testing.assert_allclose(mix(appended, 0), [1, 0, 0])
  np.testing.assert_allclose(mix(appended, 1), [0.25, 1, 0])
  np.testing.assert_allclose(mix(appended, 2), [0.125, 0.125, 1])
  np.testing.assert_allclose(mix(again(mode="within"), 1), [0.25, 0.75, 0])
  last = again(replay_all_domains=False)
  np.testing.assert_allclose(mix(last, 2), [0, 0.25, 1])


def test_env_needs_rollouts():
  for given in ({"prompts": 0, "trains": TRAINS}, {"prompts": 8}):
    with pytest.raises(ValueError, match="rolls none out.*replay_bc"):
      replay.make(batch_size=4, kind="replay_env", **given)


@pytest.mark.parametrize("strategy", memory.PRIORITISED)
def test_priorities_are_losses_when_stored_and_when_replayed(strategy):
  method = replay.make(batch_size=4, ratio=0.5, strategy=strategy)
  loss = -np.asarray(OBJ.logp(P, NEW))[:, 0]
  items = method.store(OBJ, (), P, NEW, jax.random.key(0))
  np.testing.assert_allclose(items.priority, loss, rtol=1e-6)
  _, aux = grads(method, sample(OLD))
  loss = -np.asarray(OBJ.logp(P, OLD))
  np.testing.assert_allclose(aux["priority"][0], loss[:, 0], rtol=1e-6)


def test_a_reservoir_is_filled_as_one():
  method = replay.make(batch_size=4, ratio=0.5, strategy="reservoir")
  assert method.add is memory.reservoir


def test_a_total_is_shared_by_the_earlier_domains():
  """4 rows in all: 4 of domain 0 in stage 1, 2 of each earlier in stage 2."""
  method = replay.make(
    batch_size=32, ratio=1.0, capacity=4, total=4, min_buffer_size=1
  )
  buffer = memory.init(method.store(OBJ, (), P, NEW, None), TRAINS, 4)
  for domain in (0, 1):
    new = NEW._replace(domain=jnp.full(4, domain))
    items = method.store(OBJ, (), P, new, None)
    buffer = memory.add(buffer, items, jnp.int32(0))
  draw = jax.jit(method.draw)

  def drawn(stage):
    mem = draw((), buffer, stage, jax.random.key(stage))
    places = zip(np.ravel(mem.domain).tolist(), np.ravel(mem.slot).tolist())
    return sorted(set(places))

  assert drawn(1) == [(0, 0), (0, 1), (0, 2), (0, 3)]
  assert drawn(2) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_ratio_0_is_sequential():
  assert replay.make(batch_size=4, ratio=0.0) == base.Method()


@pytest.mark.parametrize(
  "options, message",
  [
    ({"ratio": 0.2}, "0.2 of 4 is 0: ask for 0.25 or more"),
    ({"ratio": 1.5}, r"must be in \[0, 1\]"),
    ({"kind": "replay_cb"}, "did you mean 'replay_bc'"),
    ({"mode": "inside"}, "known: .'appended', 'within'"),
    ({"strategy": "hard"}, "unknown strategy 'hard'"),
    ({"ratio": 0.5, "capacity": 0}, "capacity is 0"),
    ({"capacity": 9, "total": 10}, "total is 10, and a domain holds capacity"),
  ],
)
def test_refused(options, message):
  with pytest.raises(ValueError, match=message):
    replay.make(batch_size=4, **options)
