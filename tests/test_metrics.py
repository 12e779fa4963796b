"""Formulas by hand, intervals by simulation, recomputation from raw logs."""

import json
import math
import subprocess
import sys

import fake_runs
import numpy as np
import pytest

from jax_cl import metrics

nan = math.nan

# Three domains; row 0 is the start. By hand below.
R = np.array(
  [
    [0.1, 0.2, 0.0],
    [0.8, 0.3, 0.1],
    [0.5, 0.9, 0.3],
    [0.6, 0.7, 0.6],
  ]
)
BY_HAND = {
  "average_performance": 1.9 / 3,
  "backward_transfer": ((0.6 - 0.8) + (0.7 - 0.9)) / 2,
  "forgetting": ((0.8 - 0.6) + (0.9 - 0.7)) / 2,
  "fwt_zero_shot": ((0.3 - 0.2) + (0.3 - 0.0)) / 2,
  "learning_gain": (0.7 + 0.7 + 0.6) / 3,
  "performance_on_previous": (0.6 + 0.7) / 2,
  "forgetting_all": (0.2 + 0.2 + 0.0) / 3,
  "plasticity": (0.8 + 0.9 + 0.6) / 3,
  "current_performance": 0.6,
}


@pytest.mark.parametrize("name", metrics.METRICS)
def test_by_hand(name):
  assert metrics.METRICS[name](R) == pytest.approx(BY_HAND[name])


def test_worked_example_of_the_design():
  airline_then_retail = [[nan, nan], [0.456, nan], [0.423, 0.389]]
  got = metrics.after_stage(airline_then_retail)
  assert f"{got['backward_transfer']:.4f}" == "-0.0330"
  assert f"{got['average_performance']:.4f}" == "0.4060"
  assert f"{got['forgetting']:.4f}" == "0.0330"
  # What needs the missing start row is null, not 0.
  assert got["learning_gain"] is None and got["fwt_zero_shot"] is None


def test_after_every_stage_the_formulas_see_the_domains_so_far():
  first, second, third = metrics.history(R)
  assert first["average_performance"] == pytest.approx(0.8)
  assert first["backward_transfer"] is None and first["forgetting"] is None
  assert second["average_performance"] == pytest.approx(0.7)
  assert second["forgetting"] == pytest.approx(0.3)
  assert second["performance_on_previous"] == pytest.approx(0.5)
  assert third == pytest.approx(BY_HAND)


def test_forgetting_takes_the_best_earlier_stage_not_the_own_one():
  R = [[0, 0], [0.5, 0], [0.9, 0.4], [0.6, 0.7]]
  own = [1, 3]  # stage 2 trains on neither
  assert metrics.forgetting(R, own) == pytest.approx(0.9 - 0.6)
  assert metrics.backward_transfer(R, own) == pytest.approx(0.6 - 0.5)
  assert metrics.fwt_zero_shot(R, own) == pytest.approx(0.4)


def test_joint_stream_has_averages_and_no_transfer():
  got = metrics.after_stage([[0.1, 0.3], [0.7, 0.5]], own=[1, 1])
  assert got["average_performance"] == pytest.approx(0.6)
  assert got["learning_gain"] == pytest.approx(0.4)
  undefined = (
    "backward_transfer",
    "forgetting",
    "fwt_zero_shot",
    "performance_on_previous",
  )
  assert all(got[name] is None for name in undefined)


def test_interleaved_stream_counts_a_domain_from_its_first_stage():
  own = metrics.own_stages(
    {
      "domains": ["a", "b", "c"],
      "stages": [
        {"domains": ["a"]},
        {"domains": ["b"]},
        {"domains": ["a"]},
        {"domains": ["b"]},
      ],
    }
  )
  assert own.tolist() == [1, 2, 0]
  R = np.array([[0, 0, 0], [4, 0, 9], [1, 5, 9], [6, 2, 9], [3, 7, 9]]) / 10
  got = metrics.after_stage(R, own)
  assert got["backward_transfer"] == pytest.approx(((3 - 4) + (7 - 5)) / 20)
  assert got["average_performance"] == pytest.approx(0.5)  # c is not counted


def test_forgetting_all_is_the_share_of_forgetting():
  # Every earlier domain forgets here, T = 3.
  assert metrics.forgetting_all(R) == pytest.approx(
    2 / 3 * BY_HAND["forgetting"]
  )


@pytest.mark.parametrize("name", metrics.METRICS)
def test_a_stack_of_matrices_gives_a_stack_of_values(name):
  rng = np.random.default_rng(0)
  stack = rng.random((5, 4, 3))
  f = metrics.METRICS[name]
  np.testing.assert_allclose(f(stack), [f(x) for x in stack])


def test_bad_shapes_are_named():
  with pytest.raises(ValueError, match=r"R has shape \(3,\)"):
    metrics.forgetting(np.zeros(3))
  with pytest.raises(ValueError, match="R has 3 columns"):
    metrics.forgetting(R, own=[1, 2])


def test_against_other_runs():
  independent = R + 0.1
  assert metrics.transfer_vs_independent(R, independent) == pytest.approx(-0.1)
  joint = np.array([0.9, 0.9, 0.9])
  expected = 0.9 - BY_HAND["plasticity"]
  assert metrics.intransigence(R, joint) == pytest.approx(expected)
  # Trapezoids: (.0+.4)/2*10 + (.4+.6)/2*30 over 40 steps.
  curve = [[0, 0.0, None], [10, 0.4, None], [40, 0.6, None]]
  assert metrics.auc(curve) == pytest.approx((2 + 15) / 40)
  assert metrics.forward_transfer_auc(0.6, 0.2) == pytest.approx(0.5)
  assert math.isnan(metrics.forward_transfer_auc(0.6, 1.0))


def test_pass_hat_k():
  # 3 of 4 and 1 of 4: k=1 (3/4 + 1/4)/2; k=2 (3/6 + 0)/2.
  assert metrics.pass_hat_k([3, 1], [4, 4], 1) == pytest.approx(0.5)
  assert metrics.pass_hat_k([3, 1], [4, 4], 2) == pytest.approx(0.25)
  assert math.isnan(metrics.pass_hat_k([3], [4], 5))
  # It estimates E[p^k] without bias: exact over all outcomes of 4 tries.
  p, k, n = 0.7, 3, 4
  expected = sum(
    math.comb(n, c)
    * p**c
    * (1 - p) ** (n - c)
    * metrics.pass_hat_k([c], [n], k)
    for c in range(n + 1)
  )
  assert expected == pytest.approx(p**k)


# ------------------------------------------------------------------ tool calls


def test_tool_counts_by_hand():
  reads = ["get_user", "get_order"]
  gold = [
    ("get_user", {"id": "u"}, None),
    ("cancel", {"id": 1}, None),
    ("cancel", {"id": 2}, None),
    ("refund", {"id": 1, "note": "because"}, ["id"]),
  ]
  calls = [
    ("get_user", {"id": "u"}),  # a look-up: left out
    ("cancel", {"id": 9}),  # right tool, wrong argument
    ("cancel", {"id": 1}),  # right; must not lose its gold to the line above
    ("cancel", {"id": 2}),  # both golds are taken: a miss
    ("refund", {"id": 1, "note": "so"}),  # only id is compared
    ("transfer", {}),  # not gold
  ]
  # cancel: three calls, two golds, both matched exactly by the last two; the
  # first finds none left.
  assert metrics.tool_counts(calls, gold, reads) == (5, 3, 3)
  assert metrics.tool_counts(calls[:2], gold, reads) == (1, 1, 0)
  assert metrics.tool_counts([], gold, reads) == (0, 0, 0)
  assert metrics.tool_counts(calls, [], reads) == (5, 0, 0)
  # compare_args [] matches any arguments, as tau2 has it.
  assert metrics.tool_counts([("a", {"x": 1})], [("a", {}, [])], []) == (
    1,
    1,
    1,
  )


def test_same_call_agrees_with_tau2():
  from tau2.data_model.message import ToolCall
  from tau2.data_model.tasks import Action

  rng = np.random.default_rng(0)
  outcomes = set()
  for _ in range(300):
    draw = lambda: {k: int(rng.integers(2)) for k in "abc" if rng.integers(3)}
    compared = None if rng.integers(3) == 0 else list("abc"[: rng.integers(4)])
    name, call, gold = "xy"[rng.integers(2)], draw(), draw()
    action = Action(
      action_id="0", name="x", arguments=gold, compare_args=compared
    )
    expected = action.compare_with_tool_call(
      ToolCall(id="0", name=name, arguments=call)
    )
    got = metrics.tool_counts([(name, call)], [("x", gold, compared)], [])[2]
    assert got == expected
    outcomes.add(expected)
  assert outcomes == {True, False}


# -------------------------------------------------------------------- raw logs

RUN = {
  "name": "tiny",
  "method": "sequential",
  "seed": 0,
  "domains": ["a", "b"],
  "stages": [
    {"name": "a", "domains": ["a"], "steps": 10},
    {"name": "b", "domains": ["b"], "steps": 10},
  ],
  "references": {"do_nothing": {"test": {"a": 0.0, "b": 0.25}}},
}


def row(stage, domain, task, reward, trial=0, step=None, **more):
  return {
    "phase": "eval",
    "stage": stage,
    "step": 10 * (stage + 1) if step is None else step,
    "domain": domain,
    "split": "test",
    "task_id": task,
    "trial": trial,
    "reward": reward,
    "pass": reward > 0.5,
    "requires_write": task != "0",
    "failure": "",
    "tool_calls": 2,
    "tool_hits": 1,
    "arg_hits": 1,
    **more,
  }


def rows_of(table):
  """One trial; table[stage + 1][domain] is a list of rewards by task."""
  return [
    row(i - 1, d, str(n), reward)
    for i, cells in enumerate(table)
    for d, rewards in zip("ab", cells, strict=True)
    for n, reward in enumerate(rewards)
  ]


TABLE = [
  [[0, 0, 0, 0], [0, 0]],
  [[1, 1, 1, 0], [0, 1]],
  [[1, 0, 1, 0], [1, 1]],
]


def test_results_from_rows():
  got = metrics.results(rows_of(TABLE), RUN, resamples=200)
  test = got["test"]
  assert test["matrix"] == [[0, 0], [0.75, 0.5], [0.5, 1.0]]
  assert test["metrics"]["backward_transfer"] == pytest.approx(-0.25)
  assert test["tool_accuracy"][2] == [0.5, 0.5]
  assert test["argument_accuracy"][2] == [1.0, 1.0]
  # sd of (1,1,1,0) is .5, over sqrt(4).
  assert test["se"][1][0] == pytest.approx(0.25)
  low, high = test["intervals"]["backward_transfer"]
  assert low < -0.25 < high
  # Task 0 asks for no write: (1, 1, 0) then (0, 1, 0).
  assert test["write_only"]["matrix"][1][0] == pytest.approx(2 / 3)
  assert test["write_only"]["matrix"][2][0] == pytest.approx(1 / 3)
  assert test["tasks"] == {"a": 4, "b": 2}
  assert test["write_only"]["tasks"] == {"a": 3, "b": 1}
  assert "val" not in got and got["references"] == RUN["references"]
  assert got["test"]["pass_hat_k"]["1"] == test["matrix"]
  json.dumps(metrics.jsonable(got), allow_nan=False)


def test_trials_that_depart_from_the_protocol_are_said():
  about = RUN | {"protocol": {"name": "p", "trials": 4, "deviations": {"a": 1}}}
  got = metrics.results(rows_of(TABLE), about, resamples=10)["protocol"]
  trials = {"protocol": 4, "run": 1}
  assert got["deviations"] == {"a": 1, "trials": trials}
  about["protocol"]["trials"] = 1
  got = metrics.results(rows_of(TABLE), about, resamples=10)["protocol"]
  assert got["deviations"] == {"a": 1}


def test_failures_are_counted_and_never_zero():
  rows = rows_of(TABLE)
  broken = row(1, "a", "3", 0.0, failure="user timed out")
  rows = [
    r for r in rows if (r["stage"], r["domain"], r["task_id"]) != (1, "a", "3")
  ]
  got = metrics.results([*rows, broken], RUN, resamples=10)["test"]
  assert got["matrix"][2][0] == pytest.approx(2 / 3)
  assert got["failures"] == 1
  assert metrics.score([broken])["reward"] is None


def test_a_row_written_twice_counts_once_and_the_last_evaluation_stands():
  rows = rows_of(TABLE)
  middle = [row(1, "a", str(n), 0.0, step=15) for n in range(4)]
  got = metrics.results([*middle, *rows, rows[-1]], RUN, resamples=10)["test"]
  assert got["matrix"] == [[0, 0], [0.75, 0.5], [0.5, 1.0]]
  assert got["episodes"] == {"a": 4, "b": 2}
  assert [p[:2] for p in got["curves"]["a"]] == [
    [0, 0.0],
    [10, 0.75],
    [15, 0.0],
    [20, 0.5],
  ]


def test_train_rows_and_other_splits_do_not_enter_the_matrix():
  rows = rows_of(TABLE)
  extra = [
    row(1, "a", "0", 0.0, split="train", phase="train"),
    row(1, "a", "7", 0.0, split="val"),
  ]
  got = metrics.results([*rows, *extra], RUN, resamples=10)
  assert got["test"]["matrix"][2] == [0.5, 1.0]
  assert got["val"]["matrix"][2] == [0.0, None]  # b was not evaluated


def test_pass_hat_k_with_an_interval_over_tasks():
  passed = {"a": [1, 1, 1, 1], "b": [1, 0, 1, 0]}
  rows = [
    {"task_id": t, "trial": i, "pass": bool(x)}
    for t, xs in passed.items()
    for i, x in enumerate(xs)
  ]
  found = metrics.pass_estimates(rows)
  # Of b's six pairs of trials one passes, of its four triples none.
  means = {1: (1 + 0.5) / 2, 2: (1 + 1 / 6) / 2, 3: 0.5, 4: 0.5}
  assert {k: e.mean for k, e in found.items()} == pytest.approx(means)
  # Two tasks drawn with replacement: a alone or b alone, a quarter each.
  assert (found[2].low, found[2].high) == pytest.approx((1 / 6, 1))
  broken = [{**rows[0], "failure": "TimeoutError"}, *rows[1:]]
  assert sorted(metrics.pass_estimates(broken)) == [1, 2, 3]
  assert metrics.pass_estimates([]) == {}


def test_pass_hat_k_has_its_own_matrix():
  rows = [
    row(i - 1, d, t, float(trial < wins), trial=trial)
    for i in range(3)
    for d in "ab"
    for t, wins in (("0", 2), ("1", 1))
    for trial in range(2)
  ]
  got = metrics.results(rows, RUN, resamples=10)["test"]
  assert got["matrix"][2] == [0.75, 0.75]
  assert got["pass_hat_k"]["2"][2] == [0.5, 0.5]
  assert "4" not in got["pass_hat_k"]


def test_what_the_policy_gradient_added_to_its_warm_start():
  """Two stages of ten steps, six of them cloning; paired by task."""
  stages = [
    {"name": d, "domains": [d], "steps": 10, "clone_steps": 6} for d in "ab"
  ]
  run = {"stages": stages, "domains": ["a", "b"]}

  def look(step, stage, domain, rewards, **more):
    return [
      {"phase": "eval", "split": "val", "stage": stage, "step": step,
       "domain": domain, "task_id": task, "trial": n, "reward": r, **more}
      for task, trials in rewards.items() for n, r in enumerate(trials)
    ]  # fmt: skip

  rows = [
    *look(6, 0, "a", {"x": [0, 1], "y": [0, 0]}),
    *look(10, 0, "a", {"x": [1, 1], "y": [1, 0]}),
    *look(10, 0, "b", {"z": [1]}),  # another domain, and the test split
    *look(10, 0, "a", {"x": [0, 0]}, split="test"),
    *look(16, 1, "b", {"z": [1]}),  # never looked at again
  ]
  (found,) = metrics.warm_starts(rows, run)
  assert (found["stage"], found["domain"], found["tasks"]) == (0, "a", 2)
  # x rises from 1/2 to 1, y from 0 to 1/2: each task by a half.
  assert (found["warm"], found["after"]) == (0.25, 0.75)
  assert found["rise"] == 0.5 and found["interval"] == [0.5, 0.5]
  rows += look(20, 1, "b", {"z": [0]})
  assert [w["rise"] for w in metrics.warm_starts(rows, run)] == [0.5, -1]
  # Runs of before hold no `clone_steps`, those without cloning no warm start.
  for s in stages:
    del s["clone_steps"]
  assert metrics.warm_starts(rows, run) == []


def test_a_torn_last_line_is_left_out_and_a_damaged_one_named(tmp_path):
  path = tmp_path / "episodes.jsonl"
  path.write_text('{"a": 1}\n{"a": 2}\n{"a"')
  assert metrics.read_rows(path) == [{"a": 1}, {"a": 2}]
  path.write_text('{"a": 1}\n{"a"\n{"a": 2}\n')
  with pytest.raises(ValueError, match="line 2: not JSON"):
    metrics.read_rows(path)


def test_command_recomputes_from_the_logs(tmp_path):
  (tmp_path / "run.json").write_text(json.dumps(RUN))
  lines = [json.dumps(r) + "\n" for r in rows_of(TABLE)]
  (tmp_path / "episodes.jsonl").write_text("".join(lines))
  command = [sys.executable, "-m", "jax_cl.metrics", "--resamples=50"]
  done = subprocess.run(
    [*command, f"--workdir={tmp_path}"], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  assert "backward_transfer" in done.stdout and "-0.2500" in done.stdout
  saved = json.loads((tmp_path / "results.json").read_text())
  assert saved["test"]["matrix"][2] == [0.5, 1.0]
  done = subprocess.run(
    [*command, f"--workdir={tmp_path / 'no'}"], capture_output=True, text=True
  )
  assert done.returncode == 2 and "holds no run.json" in done.stderr
  assert "Traceback" not in done.stderr


# ----------------------------------------------------------------- uncertainty


def fake_panel(rng, n_tasks=(20, 40), level=(0.5, 0.4), trials=1, skill=None):
  """Independent pass or fail at each stage, domains a and b."""
  scores = tuple(
    rng.binomial(
      trials,
      np.broadcast_to(p, (3, n)) if skill is None else skill[d],
      size=(3, n),
    )
    / trials
    for d, (n, p) in enumerate(zip(n_tasks, level, strict=True))
  )
  ids = tuple(tuple(map(str, range(n))) for n in n_tasks)
  return metrics.Panel(("a", "b"), ids, scores, np.array([1, 2]))


def test_bootstrap_se_of_one_run_is_the_analytic_one():
  # Average of airline- and retail-sized test sets at p = .5: the standard
  # error of each is .112 and .079, of their mean half the root of the squares.
  p = metrics.Panel(
    ("a", "b"),
    (tuple(map(str, range(20))), tuple(map(str, range(40)))),
    (np.tile([0.0, 1.0], (3, 10)), np.tile([0.0, 1.0], (3, 20))),
    np.array([1, 2]),
  )
  e = metrics.bootstrap([p], metrics.average_performance, n=4000)
  se = (e.high - e.low) / 2 / 1.96
  assert se == pytest.approx(math.hypot(0.112, 0.079) / 2, rel=0.05)
  assert e.mean == 0.5 and math.isnan(e.sd_runs) and e.runs == 1


def test_bootstrap_interval_covers():
  """True average .45; 95% intervals of 9 runs should seldom miss it.

  Runs share tasks but not their noise here, so coverage is at least nominal:
  a bound of .88 over 100 draws is 3 standard errors below it.
  """
  rng = np.random.default_rng(0)
  hits = 0
  for _ in range(100):
    panels = [fake_panel(rng) for _ in range(3)]
    e = metrics.bootstrap(panels, metrics.average_performance, n=300)
    hits += e.low <= 0.45 <= e.high
  assert hits >= 88


def test_pairing_on_tasks_narrows_the_difference():
  """Tasks differ in difficulty; the two methods share them."""
  rng = np.random.default_rng(1)
  skill = [rng.choice([0.02, 0.98], size=(1, n)) for n in (20, 40)]
  a = [fake_panel(rng, skill=skill, trials=4)]
  b = [fake_panel(rng, skill=skill, trials=4)]
  f = metrics.average_performance
  paired = metrics.bootstrap(a, f, baseline=b)
  alone = metrics.bootstrap(a, f)
  assert paired.high - paired.low < 0.5 * (alone.high - alone.low)
  # Same panels: no difference, and no width.
  same = metrics.bootstrap(a, f, baseline=a)
  assert same.mean == same.low == same.high == 0


def test_runs_are_resampled_too():
  """Identical tasks within a run, runs far apart: the width is the runs'."""
  make = lambda v: metrics.Panel(
    ("a", "b"), (("0",), ("0",)), (np.full((3, 1), v),) * 2, np.array([1, 2])
  )
  e = metrics.bootstrap([make(0.0), make(1.0)], metrics.average_performance)
  assert e.mean == 0.5 and (e.low, e.high) == (0.0, 1.0)
  assert e.sd_runs == pytest.approx(math.sqrt(0.5))
  one = metrics.bootstrap([make(0.3)], metrics.average_performance)
  assert one.low == one.high == pytest.approx(0.3)


def test_undefined_metric_has_no_interval():
  p = fake_panel(np.random.default_rng(0))._replace(own=np.array([1, 1]))
  p = p._replace(scores=tuple(s[:2] for s in p.scores))
  e = metrics.bootstrap([p], metrics.backward_transfer, n=50)
  assert math.isnan(e.mean) and math.isnan(e.low)


def test_unpaired_lists_are_refused():
  p = fake_panel(np.random.default_rng(0))
  with pytest.raises(ValueError, match="2 runs cannot be paired with 1"):
    metrics.bootstrap([p, p], metrics.forgetting, baseline=[p])


def test_sign_flip():
  assert math.isnan(metrics.sign_flip([0.1] * 5))
  assert metrics.sign_flip([0.1] * 6) == pytest.approx(2 / 64)
  assert metrics.sign_flip([0.1, -0.1] * 3) == 1.0
  # 9 runs, one against, by counting: sums as large are 9 (no flip of the
  # rest) -> |8 - 1| or more: all alike (2), or one alone against (18): 20/512.
  assert metrics.sign_flip([1] * 8 + [-1]) == pytest.approx(20 / 512)
  rng = np.random.default_rng(0)
  p = [metrics.sign_flip(rng.normal(size=9)) for _ in range(400)]
  assert np.mean(np.less(p, 0.05)) < 0.09  # nominal .05, 3 se above


def test_per_run_reads_each_run_as_it_was():
  rng = np.random.default_rng(0)
  panels = [fake_panel(rng) for _ in range(3)]
  got = metrics.per_run(panels, metrics.forgetting)
  np.testing.assert_allclose(
    got, [metrics.forgetting(p.matrix()) for p in panels]
  )


def test_imports_neither_jax_nor_tau2():
  code = (
    "import sys, jax_cl.metrics, jax_cl.console, jax_cl.writers;"
    "print([m for m in ('jax', 'tau2', 'flax') if m in sys.modules])"
  )
  out = subprocess.check_output([sys.executable, "-c", code], text=True)
  assert out.strip() == "[]"


def test_a_log_that_lost_an_episode_is_refused():
  run = fake_runs.run()
  rows = list(fake_runs.rows(run))
  metrics.results(rows, run, resamples=10)
  last = metrics.final_rows(rows, "test")[2, "airline"]
  lost = last[0]
  rows.remove(lost)
  with pytest.raises(ValueError, match="of 40 episodes of airline") as e:
    metrics.results(rows, run, resamples=10)
  assert repr(lost["task_id"]) in str(e.value)
