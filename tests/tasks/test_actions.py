"""Acts are chosen by pointing; masks and limits come from schemas."""

import json

import pytest

from jax_cl.tasks import actions, demos, stream
from jax_cl.types import Turn


@pytest.fixture
def state():
  domain = stream.load("retail")
  space = actions.ActSpace([domain], {"retail": demos.vocabulary(domain)})
  state = actions.State(space)
  state.observe([Turn("user", content="I am Ann Lee, zip 12345.")])
  return state


def take(state, name, **arguments):
  turn = None
  for index in state.path_to(name, arguments):
    turn = state.choose(index)
  return turn


def test_an_act_is_legal_once_its_slots_have_candidates(state):
  legal = lambda name: state.choice().mask[state.space.index[name]]
  assert legal("find_user_id_by_name_zip")
  assert not legal("get_order_details")
  state.observe([Turn("user", content="It is #W1234567.")])
  assert legal("get_order_details")


def test_a_path_is_what_it_says(state):
  arguments = {"first_name": "Ann", "last_name": "Lee", "zip": "12345"}
  turn = take(state, "find_user_id_by_name_zip", **arguments)
  assert turn.tool_calls[0].arguments == arguments
  assert state.act is None
  with pytest.raises(actions.Unexpressible):
    state.path_to("find_user_id_by_name_zip", {**arguments, "zip": "54321"})


def test_an_inform_says_at_most_three_values_and_no_output(state):
  take(state, "find_user_id_by_name_zip",
       first_name="Ann", last_name="Lee", zip="12345")  # fmt: skip
  items = [{"name": f"Thing {i}", "price": float(i)} for i in range(1, 9)]
  output = json.dumps({"order_id": "#W1234567", "items": items})
  state.observe([Turn("tool", content=output, requestor="assistant")])
  values = [e.value for e in state.seen.of("value")]
  assert len(values) > actions.MAX_INFORM and output not in values
  turn = take(state, "say:inform", values=values[: actions.MAX_INFORM])
  assert all(v in turn.content for v in values[: actions.MAX_INFORM])
  assert state.history[-1][0] == "say:inform"


def test_what_failed_is_remembered(state):
  take(state, "find_user_id_by_name_zip",
       first_name="Ann", last_name="Lee", zip="12345")  # fmt: skip
  error = Turn("tool", content="Error: not found", error=True)
  state.observe([error])
  assert ("find_user_id_by_name_zip", '"12345"') in state.failed
