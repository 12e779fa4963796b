"""Our own train tasks: they can be solved, and none is a test task."""

import hashlib
import json

import pytest

from jax_cl.tasks import demos, reference, stream, users
from jax_cl.tasks import env as env_lib

NAMES = ("airline", "retail")


def own(name):
  train = stream.load(name, pool="extended").splits["train"]
  return [t for t in train if t.task_id.startswith("own_")]


def digest(*parts):
  return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()


def words(spec):
  told = stream.scenario(spec)
  return digest(" ".join(told.reason_for_call.lower().split()))


def solution(spec):
  """Who calls, with the actions that change something; None without any."""
  gold = [(a.name, a.arguments) for a in demos.gold(spec)]
  looks = ("get_", "find_", "search_", "list_", "calculate", "transfer")
  acts = [a for a in gold if not a[0].startswith(looks)]
  ids = [a[1]["user_id"] for a in gold if "user_id" in a[1]]
  return digest(ids[:1], acts) if acts else None


@pytest.mark.parametrize("name", NAMES)
def test_no_own_task_is_a_test_task(name):
  test = stream.load(name).splits["test"]
  for of in (words, solution):
    held_out = {of(t) for t in test} - {None}
    assert held_out and held_out.isdisjoint(map(of, own(name)))


def play(spec):
  policy = reference.make("oracle")()
  env = env_lib.Env(spec, users.make("scripted")(), seed=0)
  env.reset()
  while not env.done:
    env.step(policy(env))
  return env.episode()


@pytest.mark.parametrize("name", NAMES)
def test_the_oracle_solves_every_one_without_an_error(name):
  for spec in own(name):
    episode = play(spec)
    assert episode.reward == 1.0, spec.task_id
    assert not any(t.error for t in episode.turns), spec.task_id
