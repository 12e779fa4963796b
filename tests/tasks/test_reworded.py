"""Train requests in other words: the rules read English, not the tasks."""

import dataclasses
import json
import pathlib

from jax_cl.tasks import actions, demos, rules, stream, users
from jax_cl.tasks import env as env_lib

FILE = pathlib.Path(__file__).parents[1] / "data" / "retail_reworded.json"


def test_the_rules_understand_train_requests_in_other_words(monkeypatch):
  reworded, scenario = json.loads(FILE.read_text()), stream.scenario

  def told(spec):
    return dataclasses.replace(
      scenario(spec), reason_for_call=reworded[spec.task_id]
    )

  monkeypatch.setattr(stream, "scenario", told)
  domain = stream.load("retail")
  space = actions.ActSpace([domain], {"retail": demos.vocabulary(domain)})
  earned = {}
  for spec in domain.splits["train"]:
    if spec.task_id in reworded:
      state = actions.State(space, None, False, domain.today)
      env = env_lib.Env(spec, users.make("scripted")(), seed=0)
      earned[spec.task_id] = rules.run(spec, env, state).reward
  assert len(earned) == len(reworded) == 32
  assert sum(earned.values()) >= 27, earned
