"""The hand-written rules alone: they read no gold action, and do something."""

import pytest

from jax_cl.tasks import actions, demos, rules, stream, users
from jax_cl.tasks import env as env_lib


def play(name, task_id):
  domain = stream.load(name)
  space = actions.ActSpace([domain], {name: demos.vocabulary(domain)})
  spec = next(s for s in domain.splits["train"] if s.task_id == task_id)
  state = actions.State(space)
  env = env_lib.Env(spec, users.make("scripted")(), seed=0)
  return spec, env, state


@pytest.mark.parametrize(
  "name, task_id", [("retail", "48"), ("airline", "17"), ("airline", "38")]
)
def test_rules_do_what_is_asked_without_gold(name, task_id, monkeypatch):
  spec, env, state = play(name, task_id)
  assert demos.requires_write(spec)
  monkeypatch.setattr(demos, "gold", lambda spec: pytest.fail("gold was read"))
  assert rules.run(spec, env, state).reward == 1.0


def test_where_the_rules_err_the_episode_ends():
  spec, env, state = play("airline", "9")  # two reservations, one not allowed
  episode = rules.run(spec, env, state)
  assert episode.termination == "user_stop" and episode.reward == 0.0
