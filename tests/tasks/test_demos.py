"""Demonstrations come from the train split, vocabularies from nowhere else."""

import dataclasses

import pytest

from jax_cl.tasks import actions, demos, stream, users
from jax_cl.tasks import env as env_lib


@pytest.mark.parametrize("name", ["airline", "retail", "telecom"])
def test_vocabulary_does_not_need_test_tasks(name):
  domain = stream.load(name)
  alone = {"train": domain.splits["train"], "val": (), "test": ()}
  stripped = dataclasses.replace(domain, splits=alone)
  assert demos.vocabulary(stripped) == demos.vocabulary(domain)


@pytest.mark.parametrize("split", ["val", "test"])
def test_other_splits_are_refused(split):
  spec = stream.load("retail").splits[split][0]
  with pytest.raises(ValueError, match=f"is a {split} task"):
    demos.train_only([spec])


def test_telecom_ceiling():
  domain = stream.load("telecom")
  space = actions.ActSpace([domain], {"telecom": demos.vocabulary(domain)})
  user = users.make("scripted")
  for spec in domain.splits["train"][:4]:
    env = env_lib.Env(spec, user())
    episode = demos.run(spec, env, actions.State(space))
    assert episode.reward == 1.0
    assert episode.info["unexpressible"] == ()


def test_a_tape_tells_the_same_choices_again():
  domain = stream.load("airline")
  space = actions.ActSpace([domain], {"airline": demos.vocabulary(domain)})
  spec = domain.splits["train"][0]
  env = env_lib.Env(spec, users.make("scripted")(), seed=0)
  tape = demos.Taped(space)
  demos.run(spec, env, tape)
  told = list(tape.again())
  state = told[-1][0]
  assert len(told) > 4 and all(c.mask[i] for _, c, i in told)
  assert state is not tape and state.history[0] == tape.history[0]
  names = [c.options[i].name for _, c, i in told if c.slot is None]
  done = [name for name, _ in tape.history]
  assert [n for n in done if n in names] == names  # in order, none added
