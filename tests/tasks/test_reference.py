"""Reference policies on every base task, with the scripted user."""

import pytest

from jax_cl.tasks import reference, speech, stream, telecom_manual, users
from jax_cl.tasks.env import Env
from jax_cl.types import ToolCall, Turn


def run(spec, policy, seed=0):
  env = Env(spec, None if spec.solo else users.make("scripted")(), seed=seed)
  env.reset()
  while not env.done:
    env.step(policy(env))
  return env


def rewards(name, domain, solo=False):
  """Split -> reward of each task; "train" is the official one, val included."""
  make = reference.make(name)
  out = {
    split: [run(spec, make()).verdict().reward for spec in specs]
    for split, specs in stream.load(domain, solo=solo).splits.items()
  }
  out["train"] += out.pop("val")
  return out


def mean(values):
  return sum(values) / len(values)


@pytest.mark.parametrize(
  "domain, solo",
  [
    ("airline", False),
    ("retail", False),
    ("telecom", False),
    ("telecom", True),
  ],
)
def test_the_oracle_solves_every_base_task(domain, solo):
  found = rewards("oracle", domain, solo)
  assert {len(v) for v in found.values()} in ({30, 20}, {74, 40})
  assert all(r == 1.0 for v in found.values() for r in v)


@pytest.mark.parametrize("solo", [False, True])
def test_the_manual_solves_every_base_task_of_telecom(solo):
  found = rewards("telecom_manual", "telecom", solo)
  assert all(r == 1.0 for v in found.values() for r in v)


@pytest.mark.parametrize(
  "name, domain, train, test",
  [  # measured with tau2's own evaluator
    ("do_nothing", "airline", 0.433, 0.30),
    ("always_transfer", "airline", 0.433, 0.30),
    ("do_nothing", "retail", 0.068, 0.05),
    ("always_transfer", "retail", 0.068, 0.05),
    ("do_nothing", "telecom", 0.0, 0.0),
    ("always_transfer", "telecom", 0.108, 0.30),
  ],
)
def test_floors(name, domain, train, test):
  found = rewards(name, domain)
  assert mean(found["train"]) == pytest.approx(train, abs=5e-4)
  assert mean(found["test"]) == pytest.approx(test)


def test_floors_do_not_write():
  for name in ("do_nothing", "always_transfer"):
    for domain in ("airline", "retail", "telecom"):
      spec = stream.load(domain).splits["train"][0]
      env = run(spec, reference.make(name)())
      calls = {c.name for t in env.turns for c in t.tool_calls}
      kinds = {t.name: t.kind for t in env.domain.tools + env.domain.user_tools}
      assert env.termination == "user_stop"
      assert "write" not in {kinds[c] for c in calls}


# --------------------------------------------------------------- the manual


def agents_view(turns):
  """What tau2 shows an agent: no calls of the user, no answers to them."""
  return [
    t
    for t in turns
    if not (t.role == "user" and t.tool_calls) and t.requestor != "user"
  ]


@pytest.mark.parametrize("solo", [False, True])
def test_the_manual_sees_what_an_agent_sees(solo):
  for spec in stream.load("telecom", solo=solo).splits["val"][:4]:
    env = run(spec, reference.make("telecom_manual")())
    moves = [i for i, t in enumerate(env.turns) if t.role == "assistant"]
    for i in moves if solo else moves[1:]:  # the first is the greeting
      seen = agents_view(env.turns[:i])
      facts = telecom_manual.observe(seen, env.ticket)
      turn = speech.turn(telecom_manual.next_act(facts), solo, "id")
      said = env.turns[i]
      assert turn.content == said.content
      assert [(c.name, c.arguments) for c in turn.tool_calls] == [
        (c.name, c.arguments) for c in said.tool_calls
      ]


def test_the_manual_reads_reports():
  facts = telecom_manual.begin()
  read = lambda text: telecom_manual.read_text(text, facts)
  read(
    "Airplane Mode: ON\nSIM Card Status: missing\n"
    "Mobile Data Enabled: No\nData Roaming Enabled: Yes"
  )
  assert facts["airplane"] and facts["sim"] == "missing"
  assert facts["data_on"] is False and facts["roaming"] is True
  read("SIM card re-seated successfully.\nStatus Bar: 📵 No Signal")
  assert facts["sim"] is None  # to be looked at again
  assert "fixed" not in facts  # a status bar in passing is no test
  read("App 'messaging' has permission for: sms, phone.")
  assert facts["permissions"] == {"sms", "phone"}
  read("Success. Permission 'storage' granted to app 'messaging'.")
  assert facts["permissions"] == {"sms", "phone", "storage"}
  read("Current APN Name: internet\nMMSC URL (for picture messages): Not Set")
  assert facts["apn_ok"] and not facts["mmsc_ok"]


def test_the_manual_tests_again_after_a_repair():
  look = Turn("assistant", tool_calls=(ToolCall("1", "can_send_mms", {}),))
  good = Turn("tool", "Your messaging app can send MMS messages.", (), "1")
  fix = Turn("assistant", tool_calls=(ToolCall("2", "toggle_data", {}),))
  bad = "Your messaging app cannot send MMS messages."
  ticket = "MMS do not work."
  assert telecom_manual.observe([look, good], ticket)["fixed"] is True
  assert "fixed" not in telecom_manual.observe([look, good, fix], ticket)
  cannot = Turn("tool", bad, (), "1")
  assert telecom_manual.observe([look, cannot], ticket)["fixed"] is False


# -------------------------------------------------------------------- random


@pytest.mark.parametrize("domain", ["airline", "retail", "telecom", "mock"])
def test_random_is_seeded_and_fits_the_schemas(domain):
  loaded = stream.load(domain)
  specs = loaded.splits["test"][:10]
  tools = {t.name: t for t in loaded.tools + loaded.user_tools}

  def calls(seed):
    make = reference.make("random", seed)
    turns = [t for s in specs for t in run(s, make()).turns]
    return [(c.name, c.arguments) for t in turns for c in t.tool_calls]

  found = calls(1)
  assert found == calls(1) != calls(2)
  assert {"read", "write"} <= {tools[name].kind for name, _ in found}
  for name, arguments in found:
    schema = tools[name].parameters
    assert set(schema.get("required", ())) <= set(arguments)
    assert set(arguments) <= set(schema["properties"])


def test_unknown_names_and_domains():
  with pytest.raises(ValueError, match="did you mean 'oracle'"):
    reference.make("oracel")
  spec = stream.load("mock").splits["train"][0]
  with pytest.raises(ValueError, match="is for telecom"):
    run(spec, reference.make("telecom_manual")())
