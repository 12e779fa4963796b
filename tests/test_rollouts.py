"""Rollouts of the agent layer: order, seeds, failures, the greedy floor."""

import dataclasses

import jax
import numpy as np
import pytest

from jax_cl import rollouts, types
from jax_cl.problems import tau2
from jax_cl.tasks import users


@pytest.fixture(scope="module")
def small():
  """Telecom alone, hashed features, three tasks a split."""
  what = tau2.make(
    seed=0,
    batch_size=64,
    agent={"name": "scorer", "args": {}},
    domains=("telecom",),
    clone_steps=1,
    pg_steps=1,
    max_tasks_per_domain=3,
    max_eval_tasks=3,
    references=False,
  )
  params, frozen = what.agent.init(jax.random.key(0))
  return what, params, frozen


def _run(small, jobs, greedy=False, make_user=None, slots=4, max_turns=30,
         temperature=1.0):  # fmt: skip
  what, params, frozen = small
  return rollouts.run(
    rollouts.jit_act(what.agent),
    params,
    frozen,
    jobs,
    what.featurizer,
    make_user or users.make("scripted"),
    greedy=greedy,
    record=True,
    slots=slots,
    max_turns=max_turns,
    temperature=temperature,
  )


def _jobs(small, n):
  what = small[0]
  spec = what.stages[0].train[0]
  allowed = frozenset(what.space.index)
  return [rollouts.Job(spec, allowed, seed, {"group": 0}) for seed in range(n)]


def _acts(episode):
  return [(d.action, round(d.logp, 5)) for d in episode.decisions]


def test_an_episode_does_not_depend_on_its_wave(small):
  jobs = _jobs(small, 5)  # with 4 slots the fifth runs by itself
  together = _run(small, jobs)
  alone = [_run(small, [job])[0] for job in jobs]
  assert [_acts(e) for e in together] == [_acts(e) for e in alone]
  assert [e.reward for e in together] == [e.reward for e in alone]


def test_seeds_make_episodes_differ(small):
  a, b = _run(small, _jobs(small, 2))
  assert _acts(a) != _acts(b)


def test_the_starting_policy_does_nothing(small):
  """All weights are 0, so the frozen prior on closing decides."""
  (e,) = _run(small, _jobs(small, 1), greedy=True)
  assert e.termination == "user_stop"
  assert not any(t.tool_calls for t in e.turns if t.role == "assistant")


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_recorded_log_probabilities_are_those_of_the_objective(
  small, temperature
):
  what, params, frozen = small
  episodes = _run(small, _jobs(small, 2), temperature=temperature)
  rows = what.batch(
    [
      # two rewards, so that the group has a signal and rows are kept
      rollouts.dataclasses.replace(e, verdict=types.Verdict(float(i), {}, ()))
      for i, e in enumerate(episodes)
    ],
    seed=0,
  )
  logp = what.agent.objective(frozen).logp(params, rows)
  kept = rows.weight > 0
  assert kept.sum() > 10
  np.testing.assert_allclose(logp[kept], rows.logp_old[kept], atol=1e-5)


def test_a_broken_user_is_a_failed_episode(small):
  class Broken:
    def start(self, scenario, tools, seed):
      pass

    def reply(self, turns):
      raise TimeoutError("the user model did not answer")

  (e,) = _run(small, _jobs(small, 1), make_user=Broken)
  assert e.failure == "TimeoutError: the user model did not answer"
  assert e.decisions == ()


def test_wandering_ends_at_the_limit(small):
  what = small[0]
  spec = what.stages[0].train[0]
  only = frozenset({"request:check_status_bar"})
  (e,) = _run(small, [rollouts.Job(spec, only, 0)], max_turns=12)
  assert e.termination == "max_steps" and e.reward == 0.0


def test_what_was_run_before_is_not_run_again(small):
  """Episodes from a tree are those without one, and cost no environment."""
  what, params, frozen = small
  jobs = _jobs(small, 3)
  made, other = [], jax.tree.map(lambda x: x + 0.1, params)

  def make_user():
    made.append(1)
    return users.make("scripted")()

  def run(params, tree):
    done = rollouts.run(
      rollouts.jit_act(what.agent), params, frozen, jobs, what.featurizer,
      make_user, greedy=False, record=False, slots=2, max_turns=30, tree=tree,
    )  # fmt: skip
    unstamped = lambda t: dataclasses.replace(t, timestamp="")
    return [
      dataclasses.replace(e, turns=tuple(map(unstamped, e.turns))) for e in done
    ]

  tree = rollouts.Tree()
  begun = []
  for p in (params, params, other):
    made.clear()
    assert run(p, tree) == run(p, None)
    begun.append(len(made) - len(jobs))  # those without a tree all begin
  assert begun[:2] == [3, 0] and 0 < begun[2] <= 3
  assert tree.size > 10
  tree.most = 0
  assert run(params, tree) == run(params, None)  # emptied, and filled again


def test_a_tree_keeps_no_decisions(small):
  with pytest.raises(ValueError, match="keeps no decisions"):
    rollouts.run(
      None, None, None, [], small[0].featurizer, None,
      greedy=True, record=True, tree=rollouts.Tree(),
    )  # fmt: skip
