"""Environments in worker processes: the same episodes, elsewhere."""

import os
import signal
import time

import pytest

from jax_cl.tasks import env, reference, stream, users, workers
from jax_cl.types import Turn

WHERE = {"solo": ("mock",)}
SPECS = [
  *stream.load("mock", solo=True).splits["train"],
  *stream.load("airline").splits["train"][:2],
]
pytestmark = pytest.mark.xdist_group("workers")


def told(scenario, tools, seed, turns):
  """A user who says which process it lives in, and answers in its own time."""
  if seed == 1:
    time.sleep(1.0)
  if seed == 2:
    raise RuntimeError("no line")
  if seed == 3 and len(turns) > 1:
    os.kill(os.getpid(), signal.SIGKILL)
  return str(os.getpid()) if len(turns) < 4 else env.STOP


@pytest.fixture(scope="module")
def two():
  return workers.Workers(
    2, ["mock", "airline"], WHERE, "callable", {"fn": told}, max_turns=30
  )


def play(envs, specs, seed=0):
  """Episodes of an agent that says "Yes.", or where it is alone, stops."""
  for i, spec in enumerate(specs):
    envs.begin(i, spec, seed)
  done = {}
  while len(done) < len(specs):
    for i, seen in envs.ready():
      if seen.episode is not None:
        done[i] = seen.episode
      else:
        said = env.STOP if specs[i].solo else "Yes."
        envs.act(i, Turn("assistant", said))
  return [done[i] for i in range(len(specs))]


def bare(episode):
  """Without times of day and process ids."""
  turns = [(t.role, t.tool_calls, t.error) for t in episode.turns]
  return episode.task, turns, episode.verdict, episode.termination


def test_episodes_are_the_same_wherever_they_run(two):
  here = workers.Here(users.make("callable", fn=told), 30)
  ours, theirs = play(here, SPECS), play(two, SPECS)
  assert [bare(e) for e in theirs] == [bare(e) for e in ours]
  assert {e.termination for e in ours} == {"agent_stop", "user_stop"}
  words = lambda e: {t.content for t in e.turns if t.role == "user"}
  spoken = set.union(*map(words, theirs)) - {env.STOP}
  assert len(spoken) == 2 and str(os.getpid()) not in spoken


def test_a_slow_user_does_not_hold_up_the_others(two):
  airline = SPECS[-1]
  two.begin("slow", airline, 1)
  two.begin("quick", airline, 0)
  assert [key for key, _ in two.ready()] == ["quick"]
  assert two.ready(wait=False) == []
  assert [key for key, _ in two.ready()] == ["slow"]
  two.begin("slow", airline, 1)
  two.clear()  # what it still answers is nobody's
  assert two.ready() == []


def test_a_broken_user_and_a_dead_process_end_their_episodes(two):
  broken, well = play(two, [SPECS[-1]], seed=2) + play(two, [SPECS[-1]])
  assert broken.failure == "RuntimeError: no line" and not well.failure
  two.begin("beside", SPECS[-1], 0)
  two.begin("well", SPECS[-1], 0)
  two.begin("dies", SPECS[-1], 3)  # with the first, in one process
  seen = {}
  while len(seen) < 3:
    seen |= dict(two.ready())
  for key in ("dies", "beside", "well"):
    two.act(key, Turn("assistant", "Yes."))
    (found,) = [s for _, s in two.ready()]
    seen[key] = found
  assert "BrokenProcessPool" in seen["dies"].episode.failure
  assert "in a worker process" in seen["beside"].episode.failure
  assert seen["well"].episode is None
  two.clear()
  assert [bare(e)[1:] for e in play(two, [SPECS[-1]])] == [bare(well)[1:]]


def test_what_a_process_cannot_make_is_said_with_the_remedy():
  for domain, user, args in (
    ("airline", "callable", {"fn": lambda *_: "Hello."}),
    ("nowhere", "scripted", {}),
  ):
    some = workers.Workers(1, [domain], {}, user, args, 30)
    with pytest.raises(ValueError, match="set stream.env_workers to 0"):
      some.begin(0, SPECS[-1], 0)
  with pytest.raises(ValueError, match="0 workers"):
    workers.Workers(0, ["mock"], {}, "scripted", {}, 30)


def test_the_references_play_alike_in_another_process():
  """Whole dialogues, with tools, against tau2's verdict."""
  some = workers.Workers(1, ["airline"], {}, "scripted", {}, 60)
  here = workers.Here(users.make("scripted"), 60)
  spec = stream.load("airline").splits["train"][1]
  gold = reference.make("oracle")
  for envs in (some, here):
    # An oracle follows an environment of its own, which must answer alike.
    shadow = env.Env(spec, users.make("scripted")(), max_turns=60)
    policy = gold()
    shadow.reset()
    envs.begin(0, spec, 0)
    while True:
      ((_, seen),) = envs.ready()
      if seen.episode is not None:
        break
      turn = policy(shadow)
      shadow.step(turn)
      envs.act(0, turn)
    assert seen.episode.reward == shadow.verdict().reward == 1.0
