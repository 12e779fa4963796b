"""What agents say and users understand; the three kinds of users."""

import dataclasses
import http.server
import json
import re
import socket
import subprocess
import sys
import threading

import pytest

from jax_cl.tasks import speech, stream, users
from jax_cl.tasks.env import Env
from jax_cl.types import Scenario, ToolSchema, Turn

RETAIL = Scenario(
  "retail",
  "You want to return the lamp from order #W1234567. "
  "If the agent asks for confirmation, only return the bulb.",
  "You are Ada Lovelace in zip code 12345. Your user id is ada_lovelace_1815.",
  "You do not remember your email address.",
  "You are brief.\nIf the agent tells you that a return is not possible, "
  "mention that it came broken.\nYou want the refund on your gift card.",
)
SERVICE = Scenario(
  "telecom",
  "Your phone has been showing 'No Service' for the past few hours.",
  "You are John Smith with phone number 555-123-2002.",
  None,
  "If the agent asks you to pay a bill, you accept.",
)
PHONE = tuple(
  ToolSchema(name, "", {"properties": {}}, "read", "user")
  for name in speech.REQUESTS
)


def started(scenario, tools=(), seed=0):
  user = users.make("scripted")()
  user.start(scenario, tools, seed)
  opening = user.reply([Turn("assistant", "Hi! How can I help you today?")])
  return user, opening.content


def ask(user, text):
  return user.reply([Turn("assistant", text)]).content


# --------------------------------------------------------------------- speech


def test_every_act_is_understood_as_itself():
  for name, (_, takes, least) in speech.ACTS.items():
    values = [speech.CHOICES.get(t, ("it",))[0] for t in takes]
    heard = speech.hear(speech.say(name, *values), speech.REQUESTS)
    kind, _, rest = name.partition(":")
    assert heard.slots == ((rest,) if kind == "ask" else heard.slots), name
    if kind == "request":
      assert heard.request == (rest, dict(zip(takes, values, strict=True)))
    else:
      assert heard.request is None, name
    for flag in ("transfer", "confirm", "refuse", "done"):
      assert getattr(heard, flag) == (name == flag), (name, flag)
    assert least <= len(takes)


def test_requests_cover_the_telecom_users_tools():
  tools = {t.name: t for t in stream.load("telecom").user_tools}
  assert set(tools) - set(speech.REQUESTS) == {"set_apn_settings"}
  for name, (takes, _) in speech.REQUESTS.items():
    assert takes == tuple(tools[name].parameters["properties"])


def test_inform_says_its_values_literally_and_at_most_three():
  assert "54.04" in speech.say("inform", "54.04", "#W2378156")
  with pytest.raises(ValueError, match="1 to 3"):
    speech.say("inform", "a", "b", "c", "d")
  with pytest.raises(ValueError, match="did you mean 'ask:email'"):
    speech.say("ask:emial")


@pytest.mark.parametrize(
  "text, tool, arguments",
  [
    ("Could you please check your status bar?", "check_status_bar", {}),
    ("Please turn off airplane mode.", "toggle_airplane_mode", {}),
    ("Please run `check_sim_status()` for me.", "check_sim_status", {}),
    ("Next, please restart your phone.", "reboot_device", {}),
    ("I enabled roaming. Please run a speed test.", "run_speed_test", {}),
    ("Can you make the payment now?", "make_payment", {}),
    (
      "Please grant the messaging app the storage permission.",
      "grant_app_permission",
      {"app_name": "messaging", "permission": "storage"},
    ),
    (
      "Please set the network mode preference to 4G/5G preferred.",
      "set_network_mode_preference",
      {"mode": "4g_5g_preferred"},
    ),
  ],
)
def test_free_text_requests(text, tool, arguments):
  assert speech.hear(text, speech.REQUESTS).request == (tool, arguments)


def test_free_text_that_requests_nothing():
  told = "I have enabled roaming on your line, and your data is refuelled."
  assert speech.hear(told, speech.REQUESTS).request is None
  assert speech.hear("Please check your status bar.").request is None


@pytest.mark.parametrize(
  "text, slots",
  [
    ("May I have your email or your name and zip code?", ("email", "name_zip")),
    ("Please provide your reservation number.", ("reservation_id",)),
    ("Your order number is #W1.", ()),
  ],
)
def test_free_text_questions(text, slots):
  assert set(speech.hear(text).slots) == set(slots)


@pytest.mark.parametrize(
  "text, flags",
  [
    ("Please confirm (yes/no) that I should proceed.", {"confirm"}),
    ("If you agree, please reply \u2018yes\u2019.", {"confirm"}),
    ("Shall I go ahead?", {"confirm"}),
    ("Could you confirm your zip code?", set()),
    ("I\u2019m sorry, I can\u2019t change that.", {"refuse"}),
    ("Your order is cancelled. Anything else?", {"done"}),
    ("I am transferring you to a human agent.", {"transfer"}),
    ("I can look that up for you.", set()),
  ],
)
def test_free_text_intentions(text, flags):
  heard = speech.hear(text)
  names = ("transfer", "confirm", "refuse", "done")
  assert {n for n in names if getattr(heard, n)} == flags


# ------------------------------------------------------------------- scripted


def test_it_opens_with_its_reason_in_the_first_person():
  _, opening = started(RETAIL)
  assert opening == "I want to return the lamp from order #W1234567."


def test_it_answers_from_what_it_knows():
  user, _ = started(RETAIL)
  assert "ada_lovelace_1815" in ask(user, speech.say("ask:user_id"))
  name = ask(user, speech.say("ask:name_zip"))
  assert "Ada Lovelace" in name and "12345" in name
  assert "do not remember my email" in ask(user, speech.say("ask:email"))
  assert "#W1234567" in ask(user, speech.say("ask:order_id"))
  assert "gift card" in ask(user, speech.say("ask:payment"))
  assert ask(user, speech.say("ask:cabin")) == "I don't know."
  again = [ask(user, speech.say("ask:payment")) for _ in range(2)]
  assert again[0] == again[1]  # told once, told again


def test_if_asked_it_says_what_it_is_told_to():
  told = "If asked for your zip code, say that it is 54321 first."
  scenario = dataclasses.replace(RETAIL, task_instructions=told)
  user, _ = started(scenario)
  first = ask(user, speech.say("ask:name_zip"))
  assert first.startswith("It is 54321 first.") and "12345" in first
  assert "54321" not in ask(user, speech.say("ask:name_zip"))


def test_asked_which_one_it_says_which():
  told = "If the agent asks for which lamp, it is the tall one."
  scenario = dataclasses.replace(RETAIL, task_instructions=told)
  user, _ = started(scenario)
  assert "tall" not in ask(user, speech.say("ask:details"))
  assert "It is the tall one." in ask(user, speech.say("ask:items"))


def test_clauses_wait_for_their_condition():
  user, opening = started(RETAIL)
  assert "bulb" not in opening and "broken" not in opening
  assert "broken" in ask(user, speech.say("refuse"))
  assert "gift card" in ask(user, speech.say("ask:details"))
  confirm = speech.say("confirm", "return_delivered_order_items")
  assert "only return the bulb" in ask(user, confirm).lower()
  assert ask(user, confirm).startswith("Yes")


def test_it_stops_only_when_the_agent_is_done_and_all_is_said():
  user, _ = started(RETAIL)
  both = "Do you confirm (yes or no)? Is there anything else?"
  for text in (both, both, speech.say("inform", "12.30"), "One moment."):
    assert speech.STOP not in ask(user, text)
  said = [ask(user, speech.say("done")) for _ in range(3)]
  assert speech.STOP in said[-1]


def test_it_leaves_when_it_is_transferred():
  user, _ = started(RETAIL)
  assert ask(user, speech.say("transfer")) == speech.TRANSFER


def test_it_runs_its_tool_reports_verbatim_and_tests_before_it_stops():
  user, _ = started(SERVICE, PHONE)

  def answer(output):
    return user.reply([Turn("tool", output, requestor="user")]).content

  turn = user.reply([Turn("assistant", speech.say("request:check_sim_status"))])
  assert [c.name for c in turn.tool_calls] == ["check_sim_status"]
  assert turn.tool_calls[0].requestor == "user" and turn.content is None
  output = "No SIM card detected in the phone."
  assert answer(output).endswith(output)
  for _ in range(2):  # not fixed: it goes on
    probe = user.reply([Turn("assistant", speech.say("done"))])
    assert [c.name for c in probe.tool_calls] == ["check_status_bar"]
    assert speech.STOP not in answer("Status Bar: 📵 No Signal | 🔋 80%")
  user.reply([Turn("assistant", speech.say("done"))])
  assert speech.STOP in answer("Status Bar: 📶⁴ Excellent | 5G | 🔋 80%")


def test_it_gives_up_at_last():
  user, _ = started(SERVICE, PHONE)
  for _ in range(users.PATIENCE):
    user.reply([Turn("assistant", speech.say("done"))])
    user.reply([Turn("tool", "Status Bar: 📵 No Signal", requestor="user")])
  assert speech.STOP in ask(user, speech.say("done"))


def conversation(spec, seed):
  """Everything is asked, everything refused, and then it is over."""
  user = users.make("scripted")()
  user.start(stream.scenario(spec), stream.load(spec.domain).user_tools, seed)
  acts = [f"ask:{slot}" for slot in speech.SLOTS] + ["confirm", "refuse"] * 3
  texts = ["Hi! How can I help you today?", *map(speech.say, acts)]
  return [ask(user, text) for text in texts]


@pytest.mark.parametrize("domain", ["airline", "retail", "telecom", "mock"])
def test_what_it_says_is_in_its_scenario(domain):
  """Ids reach the agent as written, and nothing else with a digit does."""
  for specs in stream.load(domain).splits.values():
    for spec in specs:
      s = stream.scenario(spec)
      fields = (
        s.reason_for_call,
        s.known_info,
        s.unknown_info,
        s.task_instructions,
      )
      words = lambda text: set(re.findall(r"[\w#@$.-]*\d[\w@-]*", text))
      said = conversation(spec, seed=0)
      assert words(" ".join(said)) <= words(" ".join(f or "" for f in fields))
      assert words(s.known_info or "") <= words(said[1])  # ask:identity
      assert not any(speech.STOP in text for text in said)


def test_the_seed_decides_the_wording_and_nothing_else():
  spec = stream.load("retail").splits["train"][0]
  runs = [conversation(spec, seed) for seed in range(8)]
  assert conversation(spec, 3) == runs[3]
  assert len({tuple(r) for r in runs}) > 1
  assert len({r[0] for r in runs}) == 1


# ------------------------------------------------------------ callable, names


def echo(scenario, tools, seed, turns):
  said = [t for t in turns if t.role == "user"]
  return speech.STOP if said else f"{scenario.domain} {seed}"


@pytest.mark.parametrize("fn", [echo, f"{__name__}:echo"])
def test_a_function_is_a_user(fn):
  sys.modules.setdefault(__name__, sys.modules[echo.__module__])
  spec = stream.load("mock").splits["train"][0]
  env = Env(spec, users.make("callable", fn=fn)(), seed=7)
  env.reset()
  assert env.turns[-1].content == "mock 7"
  env.step(Turn("assistant", "Fine."))
  assert env.termination == "user_stop"


def test_mistakes_are_answered_with_the_nearest():
  with pytest.raises(ValueError, match="did you mean 'scripted'"):
    users.make("scirpted")
  with pytest.raises(ValueError, match="did you mean 'model'"):
    users.make("litellm", modle="x")
  with pytest.raises(ValueError, match="needs 'model'"):
    users.make("litellm")
  with pytest.raises(ValueError, match="module:function"):
    users.make("callable", fn="no_such_module:f")
  with pytest.raises(ValueError, match="timeout_s"):
    users.make("litellm", model="x", timeout_s=0)


def test_making_users_imports_neither_litellm_nor_torch():
  code = (
    "import sys; from jax_cl.tasks import users, reference;"
    "users.make('scripted')(); users.make('litellm', model='x')();"
    "print([m for m in ('litellm', 'torch', 'jax') if m in sys.modules])"
  )
  out = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert out.stdout.strip() == "[]"


# -------------------------------------------------------------------- litellm


class FakeModel(http.server.BaseHTTPRequestHandler):
  """An OpenAI-compatible server that follows `server.plan`, then repeats."""

  def do_POST(self):
    size = int(self.headers["Content-Length"])
    self.server.requests.append(json.loads(self.rfile.read(size)))
    plan = self.server.plan
    step = plan.pop(0) if len(plan) > 1 else plan[0]
    if step == "hang":
      self.server.released.wait(10)
      return
    if isinstance(step, int):
      self.send_error(step)
      return
    message = {"role": "assistant", "content": step}
    if isinstance(step, dict):
      call = {"id": "c1", "type": "function", "function": step}
      message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = json.dumps(
      {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "fake",
        "choices": [choice],
        "usage": {
          "prompt_tokens": 1,
          "completion_tokens": 1,
          "total_tokens": 2,
        },
      }
    ).encode()
    self.send_response(200)
    self.send_header("Content-Type", "application/json")
    self.send_header("Content-Length", str(len(body)))
    self.end_headers()
    self.wfile.write(body)

  def log_message(self, *args):
    pass


@pytest.fixture
def fake(monkeypatch):
  connect = socket.socket.connect

  def loopback_only(self, address):
    assert address[0] == "127.0.0.1", f"a call to {address}"
    return connect(self, address)

  monkeypatch.setattr(socket.socket, "connect", loopback_only)
  monkeypatch.setenv("NO_PROXY", "127.0.0.1")
  monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeModel)
  server.daemon_threads = True
  server.requests, server.released = [], threading.Event()
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  yield server
  server.released.set()
  server.shutdown()
  server.server_close()


def llm_user(server, plan, scenario=RETAIL, tools=(), **args):
  server.plan = plan
  args = {"retries": 2, "backoff_s": 0.01, "timeout_s": 5.0, **args}
  url = f"http://127.0.0.1:{server.server_port}/v1"
  user = users.make("litellm", model="openai/fake", base_url=url, **args)()
  user.start(scenario, tools, 5)
  return user


HELLO = [Turn("assistant", "Hi! How can I help you today?")]


def test_llm_user_speaks_with_tau2s_prompt(fake):
  user = llm_user(fake, ["I want to return a lamp.", speech.STOP])
  assert user.reply(HELLO) == Turn("user", "I want to return a lamp.")
  assert user.reply([Turn("assistant", "Done.")]).content == speech.STOP
  first, second = fake.requests
  system = first["messages"][0]
  assert system["role"] == "system"
  assert "# User Simulation Guidelines" in system["content"]
  assert "\tYou want to return the lamp" in system["content"]
  assert [m["role"] for m in second["messages"]] == [
    "system",
    "user",
    "assistant",
    "user",
  ]
  assert first["seed"] == 5 and first["temperature"] == 0.0


def test_llm_user_calls_its_tools(fake):
  call = {"name": "check_sim_status", "arguments": "{}"}
  user = llm_user(fake, [call, "It is missing."], SERVICE, PHONE)
  turn = user.reply(HELLO)
  assert [(c.name, c.requestor) for c in turn.tool_calls] == [
    ("check_sim_status", "user")
  ]
  result = Turn("tool", "No SIM card.", call_id="c1", requestor="user")
  assert user.reply([result]).content == "It is missing."
  assert fake.requests[1]["messages"][-1]["role"] == "tool"
  assert len(fake.requests[0]["tools"]) == len(PHONE)


def test_llm_user_tries_again(fake):
  user = llm_user(fake, [500, "", "Here I am."])
  assert user.reply(HELLO).content == "Here I am."
  roles = [[m["role"] for m in r["messages"]] for r in fake.requests]
  assert roles == [["system", "user"]] * 3  # nothing is said twice


def test_llm_user_that_fails_for_good_is_a_failed_episode(fake):
  user = llm_user(fake, [500])
  with pytest.raises(users.UserError, match="failed 3 times"):
    user.reply(HELLO)
  assert len(fake.requests) == 3


def test_llm_user_does_not_insist_where_it_is_hopeless(fake):
  user = llm_user(fake, [401])
  with pytest.raises(users.UserError, match="failed 1 times: Auth"):
    user.reply(HELLO)


def test_llm_user_that_hangs_is_a_failed_episode(fake):
  user = llm_user(fake, ["hang"], retries=1, timeout_s=0.3)
  with pytest.raises(users.UserError, match="Timeout"):
    user.reply(HELLO)
  assert len(fake.requests) == 2


@pytest.mark.parametrize("domain", ["mock", "retail"])
def test_llm_user_drives_an_episode(fake, domain):
  spec = stream.load(domain).splits["train"][0]
  env = Env(spec, llm_user(fake, ["Please help.", speech.STOP]))
  env.reset()
  env.step(Turn("assistant", "No."))
  assert env.termination == "user_stop"
  system = fake.requests[0]["messages"][0]["content"]
  assert str(stream.task(spec).user_scenario) in system  # as tau2 has it
