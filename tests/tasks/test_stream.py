import collections
import dataclasses
import subprocess
import sys

import pytest

from jax_cl import leaks
from jax_cl.problems import _tau2, tau2_llm
from jax_cl.tasks import reference, schema, store, stream, users

SIZES = {  # train, val, test; the official train and test splits of tau2
  ("airline", False): (24, 6, 20),
  ("retail", False): (59, 15, 40),
  ("telecom", False): (59, 15, 40),
  ("telecom", True): (59, 15, 40),
  ("mock", False): (6, 1, 2),
  ("mock", True): (4, 1, 2),
}


def ids(specs):
  return [s.task_id for s in specs]


@pytest.mark.parametrize("name,solo", SIZES)
def test_splits_are_the_official_ones_and_disjoint(name, solo):
  splits = stream.load(name, solo=solo).splits
  assert (
    tuple(len(splits[s]) for s in ("train", "val", "test")) == SIZES[name, solo]
  )
  everything = [i for s in splits.values() for i in ids(s)]
  assert len(set(everything)) == len(everything)
  official = store.store(name).splits()
  if "train" in official:
    train = ids(splits["train"]) + ids(splits["val"])
    assert set(train) == set(official["train"])
    assert set(ids(splits["test"])) == set(official["test"])


def test_val_depends_on_ids_alone():
  val = ids(stream.load("telecom").splits["val"])
  assert val == ids(stream.load("telecom", seed=7).splits["val"])
  assert val == ids(stream.load("telecom", pool="full").splits["val"])


def test_full_pool_is_everything_but_what_is_held_out():
  full = stream.load("telecom", pool="full").splits
  official = stream.load("telecom").splits
  assert full["test"] == official["test"]
  assert len(full["train"]) == 2285 - 40 - 15
  held_out = {*ids(full["test"]), *ids(full["val"])}
  assert held_out.isdisjoint(ids(full["train"]))
  assert set(ids(official["train"])) < set(ids(full["train"]))


def test_the_extended_pool_adds_tasks_of_every_family():
  official = stream.load("telecom").splits
  more = stream.load("telecom", pool="extended").splits
  assert more["test"] == official["test"] and more["val"] == official["val"]
  n = len(official["train"])
  assert more["train"][:n] == official["train"]
  extra = more["train"][n:]
  assert len(extra) == stream.EXTRA and len(set(more["train"])) == n + len(
    extra
  )
  held_out = {*ids(official["test"]), *ids(official["val"])}
  assert held_out.isdisjoint(ids(extra))
  counts = collections.Counter(map(stream.family, extra))
  # all 18 left of one family, the other two in equal parts
  assert sorted(counts.values()) == [18, 51, 51]


@pytest.mark.parametrize("name", ["airline", "retail"])
def test_the_extended_pool_adds_our_own_tasks_to_train(name):
  official = stream.load(name).splits
  more = stream.load(name, pool="extended").splits
  assert more["test"] == official["test"] and more["val"] == official["val"]
  n = len(official["train"])
  assert more["train"][:n] == official["train"]
  extra = more["train"][n:]
  assert len(extra) > 50
  assert all(t.task_id.startswith(f"own_{name}_") for t in extra)
  assert stream.load(name, pool="full").splits == official


def test_the_date_is_the_policys():
  assert stream.load("telecom").today == "2025-02-25"
  assert stream.load("airline").today == "2024-05-15"
  assert stream.load("retail").today == ""


def test_fraction_divides_on_request():
  splits = stream.load("airline", pool="fraction", train_split=0.5).splits
  assert [len(splits[s]) for s in ("train", "val", "test")] == [20, 5, 25]
  other = stream.load("airline", pool="fraction", train_split=0.5, seed=1)
  assert set(other.splits["test"]) != set(splits["test"])


def test_solo_agent_holds_the_users_tools():
  dialogue = stream.load("telecom")
  solo = stream.load("telecom", solo=True)
  assert (len(dialogue.tools), len(dialogue.user_tools)) == (13, 30)
  assert {t.name for t in solo.tools} == {
    t.name for t in dialogue.tools + dialogue.user_tools
  }
  assert solo.user_tools == ()
  assert solo.policy != dialogue.policy


def test_scenario_holds_no_answer():
  spec = stream.load("telecom").splits["train"][0]
  text = repr(stream.scenario(spec)) + stream.ticket(spec)
  criteria = stream.task(spec).evaluation_criteria
  assert spec.task_id not in text
  assert criteria.actions[0].action_id not in text


@pytest.mark.parametrize(
  "call,words",
  [
    (lambda: stream.load("telcom"), ("'telcom'", "'telecom'", "airline")),
    (lambda: stream.load("airline", solo=True), ("airline", "solo")),
    (lambda: stream.load("mock", pool="ful"), ("'ful'", "'full'")),
    (lambda: stream.load("mock", train_split=1.5), ("1.5",)),
    (lambda: stream.load("mock", data_dir="/nowhere"), ("/nowhere",)),
    (lambda: stream.make("airline,retail"), ("('airline', 'retail')",)),
    (lambda: stream.make(("mock", "mock")), ("mock", "once")),
    (lambda: stream.make(("mock",), "sequentail"), ("'sequential'",)),
    (lambda: stream.make(("mock",), steps=(1, 2)), ("(1, 2)",)),
    (lambda: stream.make(("mock",), steps=3, clone_steps=4), ("4",)),
    (lambda: stream.make(("mock",), max_tasks_per_domain=0), ("=0",)),
    (
      lambda: stream.make(("mock",), "interleaved", steps=3, rounds=4),
      ("rounds=4",),
    ),
    (lambda: stream.batches("unifrom", (), 1), ("'uniform'",)),
  ],
)
def test_mistakes_are_answered_in_a_line(call, words):
  with pytest.raises(ValueError) as e:
    call()
  assert all(w in str(e.value) for w in words), str(e.value)
  assert "\n" not in str(e.value)


# ----------------------------------------------------------------- curricula


def test_curricula_take_the_same_steps_over_the_same_tasks():
  domains, steps = ("retail", "mock", "airline"), (7, 10, 5)
  made = {
    c: stream.make(domains, c, steps=steps, clone_steps=4, rounds=3)
    for c in stream.CURRICULA
  }
  for stages in made.values():
    assert sum(s.steps for s in stages) == 22
    assert sum(s.clone_steps for s in stages) == 12
    assert len({t for s in stages for t in s.train}) == 59 + 6 + 24
  assert [s.name for s in made["sequential"]] == list(domains)
  assert [s.name for s in made["interleaved"][:4]] == [
    "retail/0",
    "mock/0",
    "airline/0",
    "retail/1",
  ]
  (joint,) = made["joint"]
  assert (joint.name, joint.domains) == ("retail+mock+airline", domains)
  assert [s.fresh for s in made["independent"]] == [True] * 3
  assert not any(s.fresh for s in made["sequential"])


def test_max_tasks_per_domain_keeps_a_fixed_part():
  few = stream.make(("retail",), max_tasks_per_domain=10)[0].train
  more = stream.make(("retail",), max_tasks_per_domain=20)[0].train
  assert (len(few), len(more)) == (10, 20)
  assert set(few) < set(more)
  assert all(t.split == "train" for t in more)


# -------------------------------------------------------------------- batches


@pytest.fixture(scope="module")
def pool():
  return stream.load("telecom", pool="full", solo=True).splits["train"]


@pytest.mark.parametrize("name", stream._BATCHES)
def test_batches_are_functions_of_seed_and_number(name, pool):
  one = stream.batches(name, pool, 8, seed=3, steps=50)
  two = stream.batches(name, pool, 8, seed=3, steps=50)
  assert [one(i) for i in range(5)] == [two(i) for i in (0, 1, 2, 3, 4)]
  assert two(2) == one(2)  # whatever was asked in between
  assert all(len(one(i)) == 8 for i in (0, 49, 500))
  if name != "round_robin":
    assert one(0) != stream.batches(name, pool, 8, seed=4, steps=50)(0)


def test_without_replacement_goes_through_all_before_repeating(pool):
  tasks = pool[:10]
  batch = stream.batches("without_replacement", tasks, 4)
  drawn = [t for i in range(5) for t in batch(i)]  # two passes
  assert set(drawn[:10]) == set(drawn[10:]) == set(tasks)
  assert drawn[:10] != drawn[10:]


def test_round_robin_takes_domains_in_turn():
  tasks = (
    stream.load("mock").splits["train"][:3]
    + stream.load("airline").splits["train"][:5]
  )
  batch = stream.batches("round_robin", tasks, 4)
  assert [t.domain for t in batch(0)] == ["mock", "airline"] * 2
  assert {*batch(0), *batch(1)} == set(tasks)
  assert batch(2) == batch(0)


def test_by_difficulty_begins_with_the_easy_and_ends_with_all(pool):
  batch = stream.batches("by_difficulty", pool, 64, steps=20)
  mean = lambda ts: sum(map(stream.difficulty, ts)) / len(ts)
  assert mean(batch(0)) < mean(batch(8)) < mean(batch(19))
  with pytest.raises(ValueError, match="steps"):
    stream.batches("by_difficulty", pool, 4)


def test_balanced_gives_rare_families_their_share(pool):
  count = collections.Counter(
    stream.family(t)
    for i in range(20)
    for t in stream.batches("balanced", pool, 30)(i)
  )
  assert len(count) == 3
  assert min(count.values()) > 150  # of 600; uniformly service gets 8


# ------------------------------------------------------------------- coercion

PARAMETERS = {
  "properties": {
    "n": {"type": "integer"},
    "x": {"type": "number"},
    "s": {"type": "string"},
    "b": {"type": "boolean"},
    "ids": {"type": "array", "items": {"type": "string"}},
    "pays": {
      "type": "array",
      "items": {
        "anyOf": [
          {"$ref": "#/$defs/Pay"},
          {"additionalProperties": True, "type": "object"},
        ]
      },
    },
    "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
  },
  "$defs": {
    "Pay": {
      "type": "object",
      "properties": {"amount": {"type": "integer"}, "id": {"type": "string"}},
      "required": ["amount", "id"],
    }
  },
}


@pytest.mark.parametrize(
  "name,given,expected",
  [
    ("n", "2", 2),
    ("n", 2.0, 2),
    ("n", 2.5, 2.5),
    ("n", "two", "two"),
    ("n", True, True),
    ("x", 2, 2.0),
    ("x", "2", 2.0),
    ("s", 10001, "10001"),
    ("s", None, None),
    ("b", "true", True),
    ("ids", '["1", "2"]', ["1", "2"]),
    ("ids", [1, "2"], ["1", "2"]),
    ("pays", [{"amount": "50", "id": 7}], [{"amount": 50, "id": "7"}]),
    ("pays", [{"other": "50"}], [{"other": "50"}]),
    ("maybe", None, None),
    ("maybe", 3, "3"),
    ("unknown", "2", "2"),
  ],
)
def test_coercion(name, given, expected):
  got = schema.coerce(PARAMETERS, {name: given})[name]
  assert (got, type(got)) == (expected, type(expected))
  assert repr(got) == repr(expected)


@pytest.mark.parametrize("name", ["airline", "retail", "telecom", "mock"])
def test_gold_arguments_stay_as_they_are(name):
  domain = stream.load(name)
  for specs in domain.splits.values():
    for spec in specs:
      criteria = stream.task(spec).evaluation_criteria
      for a in criteria.actions or ():
        parameters = domain.parameters[a.requestor][a.name]
        assert repr(schema.coerce(parameters, a.arguments)) == repr(a.arguments)


# ---------------------------------------------------------------- what it costs

QUIET = """
import socket, sys
def refuse(*a): raise AssertionError("a network call")
socket.socket.connect = refuse
from jax_cl.tasks import env, export, recorded, rewards, schema, store, stream
assert "tau2" not in sys.modules
from jax_cl.tasks.env import Env
from jax_cl.types import Turn
for name in ("mock", "airline", "retail", "telecom"):
  stream.load(name)
e = Env(stream.load("telecom", solo=True).splits["train"][0])
e.reset()
e.step(Turn("assistant", "###STOP###"))
assert e.verdict().reward == 0
for module in ("litellm", "torch", "jax"):
  assert module not in sys.modules, module
"""


def test_no_litellm_no_torch_no_network():
  subprocess.run([sys.executable, "-W", "error", "-c", QUIET], check=True)


OTHER_DATA = """
import json, pathlib, shutil, sys
import tau2
from jax_cl.tasks import stream
here = pathlib.Path(tau2.__file__).parent / "data/tau2/domains/mock"
root = pathlib.Path(sys.argv[1])
mock = root / "tau2/domains/mock"
shutil.copytree(here, mock)
tasks = json.loads((mock / "tasks.json").read_text())
gone = tasks.pop()  # still named in split_tasks.json
tasks[0]["user_scenario"]["instructions"] = "Say hello."
(mock / "tasks.json").write_text(json.dumps(tasks))
specs = stream.load("mock", data_dir=root).splits
spec = next(
  s for v in specs.values() for s in v if s.task_id == tasks[0]["id"]
)
assert gone["id"] not in {s.task_id for v in specs.values() for s in v}
assert stream.scenario(spec).reason_for_call == "Say hello."
try:
  stream.load("mock", data_dir=root.parent / "other")
  raise SystemExit("a second directory was taken")
except ValueError as e:
  print(e)
"""

BROKEN_DATA = """
import pathlib, shutil, sys
import tau2
from jax_cl.tasks import stream
here = pathlib.Path(tau2.__file__).parent / "data/tau2/domains/mock"
mock = pathlib.Path(sys.argv[1]) / "tau2/domains/mock"
shutil.copytree(here, mock)
text = (mock / "tasks.json").read_text()
(mock / "tasks.json").write_text(text[: len(text) // 2])
try:
  stream.load("mock", data_dir=sys.argv[1])
except ValueError as e:
  assert str(mock / "tasks.json") in str(e), e
else:
  raise SystemExit("half a file was read")
"""


@pytest.mark.parametrize("script", [OTHER_DATA, BROKEN_DATA])
def test_data_of_the_users_own(script, tmp_path):
  subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)


def test_a_task_that_does_not_parse_is_named(monkeypatch):
  raw = {"id": "half", "user_scenario": {"persona": None}}
  monkeypatch.setitem(stream._tasks("mock"), "half", raw)
  with pytest.raises(ValueError, match="tasks.json: task 'half'"):
    stream._task("mock", "half")


def test_solo_may_name_the_domains_without_a_user():
  load = lambda d: stream.load(d, solo=("telecom",))
  assert load("telecom").splits["test"][0].solo
  assert not load("airline").splits["test"][0].solo
  with pytest.raises(ValueError, match=r"is a text; give True or \('telecom',"):
    stream.load("telecom", solo="telecom")


def test_a_family_of_tasks_is_a_domain_of_its_own():
  whole = stream.load("telecom", pool="full")
  names = sorted({stream.family(s) for s in whole.splits["test"]})
  assert len(names) == 3 and "telecom:mms_issue" in names
  parts = [stream.load(n, pool="full") for n in names]
  for split, specs in whole.splits.items():
    some = [[s.task_id for s in p.splits[split]] for p in parts]
    assert all(some) and sorted(sum(some, [])) == sorted(
      s.task_id for s in specs
    )
  for part in parts:
    assert (part.policy, part.tools) == (whole.policy, whole.tools)
    spec = part.splits["test"][0]
    assert (spec.domain, spec.base_domain) == (part.name, "telecom")
    assert stream.family(spec) == part.name
    # Neither a user nor a policy is told of it, and it is the same held-out
    # task under either name.
    assert stream.scenario(spec).domain == "telecom"
    for kind in tau2_llm.PROMPTS:
      assert tau2_llm.prompt(part, kind) == tau2_llm.prompt(whole, kind)
    twin = dataclasses.replace(spec, domain="telecom")
    assert leaks.digest(spec) == leaks.digest(twin)
    manual, user = reference.make("telecom_manual")(), users.make("scripted")
    done = _tau2.play(spec, manual, user, 200)
    assert done.reward == 1.0 and done.task == spec
  assert stream.load(names[0], solo=("telecom",)).solo
  with pytest.raises(ValueError, match="did you mean 'telecom:mms_issue'"):
    stream.load("telecom:mms")
  with pytest.raises(ValueError, match="unknown family 'airline:x'"):
    stream.load("airline:x")
