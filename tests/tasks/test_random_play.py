"""Whatever a learner tries, choices, hints and features have an answer."""

import random

import pytest

from jax_cl.tasks import actions, demos, stream, users
from jax_cl.tasks import env as env_lib
from jax_cl.tasks.language import intents


@pytest.fixture(scope="module")
def space():
  domains = [stream.load(d) for d in ("airline", "retail", "telecom")]
  words = {d.name: demos.vocabulary(d) for d in domains}
  return actions.ActSpace(domains, words, True)


def play(space, spec, domain, seed, trust):
  """Random legal choices; hinted ones with probability `trust`."""
  rng, make = random.Random(seed), users.make("scripted")
  state = actions.State(space, frozenset(space.index), False, domain.today)
  env = env_lib.Env(spec, make(), seed=seed, max_turns=60)
  demos.observe(env, state, env.reset())
  while not env.done:
    choice = state.choice()
    hints = intents.hint(state, choice)
    legal = [i for i, ok in enumerate(choice.mask) if ok]
    assert legal and len(hints) == len(choice.options)
    wanted = [i for i in legal if hints[i] > 0]
    pool = wanted if wanted and rng.random() < trust else legal
    turn = state.choose(rng.choice(pool))
    if turn is not None:
      demos.observe(env, state, env.step(turn))
  return env.termination


@pytest.mark.parametrize("trust", [0.3, 0.8])
@pytest.mark.parametrize("name", ["airline", "retail", "telecom"])
def test_no_choice_breaks_an_episode(space, name, trust):
  domain = stream.load(name)
  train = domain.splits["train"]
  for seed in range(20 if name == "airline" else 8):
    end = play(space, train[seed % len(train)], domain, seed, trust)
    assert end in ("user_stop", "max_steps", "too_many_errors", "agent_error")


def test_booking_without_a_profile_pays_with_nothing(space):
  """Seen by random play: no payment method is known, none can be chosen."""
  state = actions.State(space, frozenset(space.index), False)
  state.act = space.acts[space.index["book_reservation"]]
  pay = next(s for s in state.act.slots if s.name == "payment_methods")
  state.picks = {s.name: [actions.STOP] for s in state.act.slots if s != pay}
  assert state.choice().options == [actions.STOP]
