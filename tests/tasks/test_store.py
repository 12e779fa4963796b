import random

import pytest
from tau2.data_model import message

from jax_cl.bench.env import play
from jax_cl.tasks import copy_on_write, reference, store, stream
from jax_cl.tasks.env import Env
from jax_cl.types import ToolCall, Turn


@pytest.fixture
def base():
  return copy_on_write.Rows({"a": {"n": 1, "of": [1, 2]}, "b": {"n": 2}})


def test_a_table_reads_like_a_dict(base):
  table = copy_on_write.Table(base)
  assert dict(table.items()) == base.rows
  assert "a" in table and "c" not in table and len(table) == 2
  assert table["a"] == base.rows["a"] and table.get("c", 0) == 0
  with pytest.raises(KeyError):
    table["c"]
  assert table.changes() == {}


def test_what_is_looked_up_is_private(base):
  one, two = copy_on_write.Table(base), copy_on_write.Table(base)
  one["a"]["of"].append(3)
  assert one["a"]["of"] == [1, 2, 3]
  assert [v["n"] for v in one.values()] == [1, 2]
  assert two["a"]["of"] == base.rows["a"]["of"] == [1, 2]
  assert set(one.changes()) == {"a"}


@pytest.mark.parametrize(
  "change,changed",
  [
    (lambda t: t.__setitem__("c", {"n": 3}), {"c"}),
    (lambda t: t.__delitem__("a"), {"a"}),
    (lambda t: t.pop("b"), {"b"}),
    (lambda t: t.pop("c", None), set()),
    (lambda t: t.popitem(), {"b"}),
    (lambda t: t.clear(), {"a", "b"}),
    (lambda t: t.update(b={"n": 5}), {"b"}),
    (lambda t: t.update(b={"n": 2}), set()),
    (lambda t: t.setdefault("a", {}).update(n=7), {"a"}),
    (lambda t: t["b"].update(n=2.0), {"b"}),  # tau2 hashes 2 and 2.0 apart
    (lambda t: t["b"].update(n="2"), {"b"}),
    (lambda t: t["a"].update(n=1), set()),
  ],
)
def test_changes_are_found(base, change, changed):
  table = copy_on_write.Table(base)
  change(table)
  assert set(table.changes()) == changed
  assert base.rows == {"a": {"n": 1, "of": [1, 2]}, "b": {"n": 2}}


def test_a_copier_shares_nothing_that_can_change():
  rules = store.store("telecom")
  db = rules._db
  make = copy_on_write.copier(db)
  before = copy_on_write.canonical(db)
  one, two = make(), make()
  assert type(one) is type(db) and copy_on_write.canonical(one) == before
  one.customers[0].line_ids.append("L0")
  one.customers[0].address.city = "Elsewhere"
  one.bills[0].line_items.clear()
  assert copy_on_write.canonical(one) != before
  assert copy_on_write.canonical(two) == copy_on_write.canonical(db) == before
  assert copy_on_write.canonical(make()) == before


@pytest.mark.parametrize(
  "name,solo",
  [("airline", False), ("retail", False), ("mock", False), ("telecom", True)],
)
def test_episodes_leave_the_shared_data_alone(name, solo):
  rules = store.store(name)
  user_db = rules._user_db
  before = copy_on_write.canonical(rules._db), copy_on_write.canonical(user_db)
  specs = stream.load(name, solo=solo).splits["train"]
  make = reference.make("random", seed=1)
  wrote = 0
  for i, spec in enumerate(random.Random(0).choices(specs, k=30)):
    env = play(spec, make(), seed=i)
    env.verdict()
    wrote += env._world.state() != rules.world(env._task, solo).state()
  assert wrote > 0
  assert (
    copy_on_write.canonical(rules._db),
    copy_on_write.canonical(user_db),
  ) == before


def test_one_episodes_vpn_is_not_the_next_ones():
  specs = stream.load("telecom", solo=True).splits["train"]
  broken = [
    s
    for s in specs
    if any(
      a.func_name == "break_vpn"
      for a in stream.task(s).initial_state.initialization_actions
    )
  ]
  whole = next(s for s in specs if s not in broken)

  def connect(spec):
    env = Env(spec)
    env.reset()
    for name in ("disconnect_vpn", "connect_vpn", "check_vpn_status"):
      env.step(Turn("assistant", tool_calls=(ToolCall("1", name, {}),)))
    return env.turns[-1].content

  # tau2 spoils the default by breaking the VPN: so it must stay within the
  # episode, and so it must not leave it.
  assert "poor" in connect(broken[0]).lower()
  assert "excellent" in connect(whole).lower()


@pytest.mark.parametrize(
  "expression,answer",
  [
    ("2 + 2 * 3", "8.0"),
    ("(10 - 4) / 4", "1.5"),
    ("2**10", "Error: Powers are not allowed in expression"),
    ("9**9**9**9", "Error: Powers are not allowed in expression"),
    ("1+" * 200 + "1", "Error: Expression is longer than 200 characters"),
    ("abs(1)", "Error: Invalid characters in expression"),
    ("1/0", "Error: division by zero"),
  ],
)
@pytest.mark.parametrize("name", ["airline", "retail"])
def test_calculate_is_safe(name, expression, answer):
  spec = stream.load(name).splits["train"][0]
  world = store.store(name).world(stream.task(spec), False)
  content, error = world.call(
    "calculate", {"expression": expression}, "assistant"
  )
  assert content == answer
  assert error == answer.startswith("Error")


@pytest.mark.parametrize("amount", [float("nan"), -50, float("inf")])
def test_amounts_that_tau2_takes_are_states_of_their_own(amount):
  spec = stream.load("airline").splits["train"][0]
  task = stream.task(spec)
  before = store.store("airline").world(task, False).state()
  world = store.store("airline").world(task, False)
  user = next(iter(world.environment.tools.db.users))
  given = {"user_id": user, "amount": amount}
  assert world.call("send_certificate", given, "assistant")[1] is False
  assert world.state() != before
  assert world.state() == world.state()  # NaN too: compared as text


def test_refused_calls_are_refused_in_tau2s_words():
  spec = stream.load("telecom").splits["train"][0]
  world = store.store("telecom").world(stream.task(spec), False)
  for case in [
    ("no_such_tool", {}, "assistant"),
    ("no_such_tool", {}, "user"),
    ("toggle_data", {}, "assistant"),  # the user's
    ("get_details_by_id", {}, "user"),  # the agent's
    ("get_details_by_id", {}, "assistant"),
    ("get_details_by_id", {"id": "L1001", "of": 1}, "assistant"),
    ("get_details_by_id", {"tool_name": "L1001"}, "assistant"),
    ("get_details_by_id", {"self": "L1001"}, "assistant"),
    ("get_details_by_id", {"id": "L1001"}, "assistant"),
    ("get_customer_by_name", {"full_name": "X", "dob": ""}, "assistant"),
    ("check_status_bar", {}, "user"),
  ]:
    name, arguments, by = case
    call = message.ToolCall(name=name, arguments=arguments, requestor=by)
    answer = world.environment.get_response(call)
    assert world.call(*case) == (answer.content, answer.error), case
