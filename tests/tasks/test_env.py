import pytest

from jax_cl.tasks import env as env_lib
from jax_cl.tasks import stream
from jax_cl.tasks.env import Env
from jax_cl.types import ToolCall, Turn


def named(task_id, solo=False):
  splits = stream.load("mock", solo=solo).splits
  return next(
    s for specs in splits.values() for s in specs if s.task_id == task_id
  )


SPEC = named("update_task_1")
SOLO = named("update_task_1", solo=True)


class Says:
  """A user that says these turns in order, and notes what it hears."""

  def __init__(self, *turns):
    self.turns = [Turn("user", t) if isinstance(t, str) else t for t in turns]
    self.heard = []

  def start(self, scenario, tools, seed):
    self.scenario, self.tools, self.seed = scenario, tools, seed

  def reply(self, turns):
    self.heard.append(list(turns))
    return self.turns.pop(0)


def calls(*names, role="assistant", **arguments):
  return Turn(
    role,
    tool_calls=tuple(
      ToolCall(str(i), name, arguments) for i, name in enumerate(names)
    ),
  )


def test_a_dialogue_from_greeting_to_stop():
  user = Says("Hello.", "Thanks. ###STOP###")
  env = Env(SPEC, user, seed=5)
  first = env.reset()
  assert [t.role for t in first] == ["assistant", "user"]
  assert first[0].content == "Hi! How can I help you today?"
  assert user.scenario == stream.scenario(SPEC) and user.seed == 5
  read = env.step(calls("get_users"))
  assert [t.role for t in read] == ["assistant", "tool"]
  assert read[1].call_id == "0" and not read[1].error and not env.done
  last = env.step(Turn("assistant", "Anything else?"))
  assert [t.content for t in last] == ["Anything else?", "Thanks. ###STOP###"]
  assert env.done and env.termination == "user_stop"
  assert env.turns == first + read + last
  # the user hears words, not the agent's calls and their answers
  assert [[t.content for t in ts] for ts in user.heard] == [
    ["Hi! How can I help you today?"],
    ["Anything else?"],
  ]
  episode = env.episode(info={"trial": 0})
  assert episode.turns == env.turns and episode.task == SPEC
  assert episode.reward == env.verdict().reward


def test_users_use_their_own_tools_and_hear_the_answers():
  spec = stream.load("telecom").splits["train"][0]
  user = Says(
    "Help.",
    calls("check_status_bar", "toggle_wifi", role="user"),
    calls("get_customer_by_id", role="user", customer_id="C1001"),
    "Done. ###STOP###",
  )
  env = Env(spec, user)
  env.reset()
  turns = env.step(Turn("assistant", "Check your status bar."))
  assert [t.role for t in turns] == [
    "assistant",
    *("user", "tool", "tool"),
    *("user", "tool"),
    "user",
  ]
  assert {t.name for t in user.tools} > {"check_status_bar", "toggle_wifi"}
  assert [t.requestor for t in turns if t.role == "tool"] == ["user"] * 3
  assert turns[5].error  # the agent's tool is not the user's
  assert [t.content for t in user.heard[2]] == [t.content for t in turns[2:4]]


def test_times_increase_strictly():
  env = Env(SOLO)
  env.reset()
  for _ in range(20):
    env.step(calls("get_users", "get_users"))
  times = [t.timestamp for t in env.turns]
  assert len(set(times)) == 60 and times == sorted(times)


def test_arguments_are_coerced_and_recorded_so():
  spec = stream.load("telecom", solo=True).splits["train"][0]
  env = Env(spec)
  env.reset()
  turn, answer = env.step(
    calls("refuel_data", customer_id="C1001", line_id="L1001", gb_amount="2")
  )
  assert repr(turn.tool_calls[0].arguments["gb_amount"]) == "2.0"
  assert "2.0 GB" in answer.content and not answer.error


def test_an_agent_speaks_for_itself():
  env = Env(SOLO)
  env.reset()
  call = ToolCall("1", "get_users", {}, requestor="user")
  turn, answer = env.step(Turn("assistant", tool_calls=(call,)))
  assert turn.tool_calls[0].requestor == answer.requestor == "assistant"
  assert not answer.error


@pytest.mark.parametrize(
  "turn,termination",
  [
    (Turn("assistant", "###STOP###"), "agent_stop"),
    (Turn("assistant", "Hello?"), "agent_error"),
    (Turn("assistant", ""), "agent_error"),
    (Turn("assistant"), "agent_error"),
    (
      Turn("assistant", "###STOP###", (ToolCall("1", "get_users", {}),)),
      "agent_error",
    ),
  ],
)
@pytest.mark.parametrize("before", [0, 1])
def test_solo_ends(turn, termination, before):
  env = Env(SOLO)
  assert env.reset() == () and env.ticket
  for _ in range(before):
    env.step(calls("get_users"))
  env.step(turn)
  assert env.done and env.termination == termination
  if termination != "agent_stop":
    verdict = env.verdict()
    assert (verdict.reward, verdict.note) == (0, termination)


@pytest.mark.parametrize(
  "reply,termination",
  [
    ("###TRANSFER###", "user_stop"),
    ("Bye ###OUT-OF-SCOPE###", "user_stop"),
    ("  ", "user_error"),
    (calls(role="user"), "user_error"),
  ],
)
def test_dialogues_end(reply, termination):
  env = Env(SPEC, Says("Hi", reply))
  env.reset()
  env.step(Turn("assistant", "###STOP###"))  # means nothing in a dialogue
  assert env.termination == termination


def test_limits():
  env = Env(SOLO, max_turns=4)
  env.reset()
  for _ in range(3):  # tau2 does not count a solo agent's first message
    assert not env.done
    env.step(calls("get_users"))
  assert env.termination == "max_steps"
  env = Env(SOLO, max_errors=3)
  env.reset()
  env.step(calls("no_such_tool", "no_such_tool"))
  env.step(calls("get_users"))
  assert not env.done
  env.step(calls("no_such_tool"))
  assert env.termination == "too_many_errors"


def test_a_history_is_taken_up():
  spec = named("update_task_with_message_history")
  env = Env(spec, Says("Mark it as completed.", "###STOP###"))
  turns = env.reset()
  assert len(turns) == 5 and turns[-1].content == "Mark it as completed."
  env.step(calls("update_task_status", task_id="task_2", status="completed"))
  env.step(Turn("assistant", "Done."))
  assert env.verdict().parts["DB"] == 1


@pytest.mark.parametrize(
  "misuse,words",
  [
    (lambda: Env(SPEC), "pass a user"),
    (lambda: Env(SOLO, Says()), "no user"),
    (lambda: Env(SOLO).step(calls("get_users")), "reset"),
    (lambda: Env(SOLO).verdict(), "not ended"),
    (lambda: _twice(), "new one"),
    (lambda: _after_the_end(), "'agent_stop'"),
    (lambda: _as_user(), "'assistant'"),
  ],
)
def test_misuse(misuse, words):
  with pytest.raises(ValueError, match=words):
    misuse()


def _twice():
  env = Env(SOLO)
  env.reset()
  env.reset()


def _after_the_end():
  env = Env(SOLO)
  env.reset()
  env.step(Turn("assistant", env_lib.STOP))
  env.step(Turn("assistant", env_lib.STOP))


def _as_user():
  env = Env(SOLO)
  env.reset()
  env.step(Turn("user", "Hi"))


def test_an_unknown_task_is_named():
  with pytest.raises(ValueError, match="'mock' has no task 'x'"):
    Env(stream.TaskSpec("mock", "x", "train", True))


def test_an_answer_without_end_ends_the_episode():
  """tau2's cancel_reservation doubles the payment history at each call."""
  spec = stream.load("airline").splits["train"][0]
  env = Env(spec, Says("Hello"))
  env.reset()
  reservation = "4WQ150"
  for n in range(40):
    if env.done:
      break
    arguments = {"reservation_id": reservation}
    call = ToolCall(f"c{n}", "cancel_reservation", arguments)
    env.step(Turn("assistant", tool_calls=(call,)))
  assert env.termination == "agent_error"
  assert max(len(t.content or "") for t in env.turns) == env_lib.MAX_ANSWER
