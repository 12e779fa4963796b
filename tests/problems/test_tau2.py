"""The tau2 problem: what may be learned from, action spaces, bad options."""

import jax
import numpy as np
import pytest

from jax_cl.methods import replay
from jax_cl.problems import _tau2, tau2
from jax_cl.tasks import demos, stream


def _make(**options):
  given = {
    "seed": 0,
    "batch_size": 64,
    "agent": {"name": "scorer", "args": {}},
    "domains": ("mock", "telecom"),
    "clone_steps": 2,
    "pg_steps": 1,
    "max_tasks_per_domain": 2,
    "max_eval_tasks": 2,
    "tasks_per_step": 2,
    "group": 2,
    "max_turns": 120,
  }
  return tau2.make(**{**given, **options})


@pytest.fixture(scope="module")
def what():
  return _make()


def test_a_stage_reads_demonstrations_of_its_own_train_tasks_alone(what):
  names = {v: k for k, v in what._task.items()}
  for stage, domain in enumerate(what.domains):
    rows = what.demos(stage)
    assert set(rows.domain.tolist()) == {stage}
    allowed = {(s.domain, s.task_id) for s in what.stages[stage].train}
    assert {names[t] for t in rows.task.tolist()} <= allowed
    assert all(s.split == "train" for s in what.stages[stage].train)
    assert (rows.adv == 1).all() and domain == what.stages[stage].name


def test_a_stage_without_a_single_demonstration_is_refused():
  short = _make(max_turns=4, references=False)
  with pytest.raises(ValueError, match="raise stream.max_turns"):
    short.demos(1)


def test_demonstrated_options_are_legal(what):
  rows = what.demos(1)
  legal = rows.obs["mask"][np.arange(len(rows.weight)), rows.action[:, 0]]
  assert legal.all()


def test_collected_episodes_are_of_train_tasks_in_groups(what):
  params, frozen = what.agent.init(jax.random.key(0))
  episodes = what.collect(params, frozen, 1, 2, seed=5)
  assert len(episodes) == 4
  assert {e.task.split for e in episodes} == {"train"}
  assert [e.info["group"] for e in episodes] == [0, 0, 1, 1]
  again = what.collect(params, frozen, 1, 2, seed=5)
  assert [e.reward for e in episodes] == [e.reward for e in again]
  assert [len(e.turns) for e in episodes] == [len(e.turns) for e in again]


def test_mix_hands_prompts_to_other_domains(what):
  params, frozen = what.agent.init(jax.random.key(0))
  episodes = what.collect(params, frozen, 1, 2, 0, mix=np.array([0.5, 0.5]))
  assert (
    sorted(e.task.domain for e in episodes) == ["mock"] * 2 + ["telecom"] * 2
  )


def test_every_trial_of_every_task_has_its_own_draws(what, monkeypatch):
  asked = []
  run = lambda params, frozen, jobs, **_: asked.append(jobs) or []
  monkeypatch.setattr(what, "_run", run)
  for domain, trials in (("mock", 2), ("telecom", 2), ("mock", 1)):
    what.evaluate(None, None, domain, "val", seed=3, trials=trials, stage=0)
  seeds = [j.seed for jobs in asked[:2] for j in jobs]
  assert len(set(seeds)) == len(seeds) > 4
  first = [j.seed for j in asked[0] if j.info["trial"] == 0]
  assert [j.seed for j in asked[2]] == first  # whatever is beside them


def test_old_tasks_are_rolled_out_again(what):
  method = replay.make(
    batch_size=64, prompts=2, trains=np.eye(2, dtype=bool), ratio=0.5,
    kind="replay_env",
  )  # fmt: skip
  mix = lambda stage: np.asarray(method.mix((), stage))
  draw = lambda stage, mix: what._draw(
    np.random.default_rng(0), stage, what.stages[stage].clone_steps, mix
  )
  rngs = [np.random.default_rng(0) for _ in range(2)]
  step = what.stages[0].clone_steps
  first = [what._draw(r, 0, step, m) for r, m in zip(rngs, (mix(0), None))]
  assert first[0] == first[1]  # nothing is old yet: `sequential`, to the bit
  assert rngs[0].random() == rngs[1].random()
  own, new = draw(1, mix(1)), draw(1, None)
  assert own[:2] == new and len(own) == 3  # 2 of its own, int(2 * .5) added
  assert own[2] in what.stages[0].train


def test_policy_gradient_may_take_other_steps_in_every_domain():
  assert _tau2.steps(("airline", "mock"), 3, 2) == [5, 5]
  assert _tau2.steps(("airline", "mock"), 3, (2, 0)) == [5, 3]
  with pytest.raises(ValueError, match=r"pg_steps \(2,\) for 2 domains"):
    _tau2.steps(("airline", "mock"), 3, [2])
  with pytest.raises(ValueError, match="clone_steps 0 and .* sum must be 1"):
    _tau2.steps(("airline", "mock"), 0, (2, 0))


def test_shares_that_do_not_divide_go_by_lot():
  rng = np.random.default_rng(0)
  shares = np.array([0.25, 0.0, 0.25, 0.5])
  counts = np.array([_tau2.apportion(rng, shares, 3) for _ in range(400)])
  assert (counts.sum(axis=1) == 3).all() and (counts[:, 1] == 0).all()
  np.testing.assert_allclose(counts.mean(axis=0), shares * 3, atol=0.08)


def test_the_action_space_is_part_of_the_setting(what):
  spec = what.stages[0].train[0]
  everything = set(what.space.index)
  mock = {a.name for a in what.space.acts if "mock" in a.domains}
  assert what._allowed(spec, 0) == everything and mock < everything
  own = _make(tools="domain", references=False)
  assert own._allowed(spec, 1) == mock
  seen = _make(tools="seen", references=False)
  assert seen._allowed(spec, 0) == mock
  assert seen._allowed(spec, 1) == everything
  assert seen._allowed(own.stages[1].train[0], -1) == {
    a.name for a in what.space.acts if "telecom" in a.domains
  }


def test_floors_and_ceilings_stand_beside_the_run(what):
  scores = what.about["references"]
  assert scores["oracle"]["test"]["telecom"] == 1.0
  assert scores["do_nothing"]["test"]["telecom"] == 0.0
  assert scores["confined_oracle"]["test"]["telecom"] == 1.0
  assert "max_eval_tasks" in what.about["protocol"]["deviations"]


def test_floors_where_a_write_is_required_are_told_apart():
  """Doing nothing is right only where nothing had to be done."""
  domain = stream.load("airline")
  specs = domain.splits["test"]
  reward = lambda name, some: [float(not demos.requires_write(s)) for s in some]
  found = _tau2.references(["do_nothing"], [domain], reward)
  share = np.mean([not demos.requires_write(s) for s in specs])
  assert 0 < share < 1
  every = found["references"]["do_nothing"]["test"]["airline"]
  assert every == pytest.approx(share)
  assert found["references_write"]["do_nothing"]["test"]["airline"] == 0.0


def test_what_the_domains_share_is_between_nothing_and_all(what):
  params, frozen = what.agent.init(jax.random.key(0))
  share = what.summary(params, frozen)["shared_parameters"]
  assert 0 < share < 1


def test_the_fingerprint_follows_data_and_features(what):
  assert _make(references=False).fingerprint == what.fingerprint
  other = _make(references=False, embedder_args={"width": 64})
  assert other.fingerprint != what.fingerprint
  assert _make(max_eval_tasks=1).fingerprint != what.fingerprint


@pytest.mark.parametrize(
  ("option", "says"),
  [
    ({"domains": "airline,retail"}, r"\('airline', 'retail'\)"),
    ({"domains": ("airlin",)}, "airline"),
    ({"tools": "every"}, "seen"),
    ({"sampler": "unifrom"}, "uniform"),
    ({"baseline": "groups"}, "group"),
    ({"curriculum": "sequentiel"}, "sequential"),
    ({"group": 0}, "stream.group is 0; it must be 1 or more"),
    ({"clone_steps": 0, "pg_steps": 0}, "their sum must be 1 or more"),
    ({"embedder": "smollm"}, "smollm2"),
    ({"user": "script"}, "scripted"),
    ({"agent": {"name": "mlp", "args": {}}}, "use 'scorer'"),
    ({"agent": {"name": "scorer", "args": {"head": "pertool"}}}, "per_tool"),
  ],
)
def test_bad_options_are_named_before_anything_runs(option, says):
  with pytest.raises(ValueError, match=says):
    _make(**option)
