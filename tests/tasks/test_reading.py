"""What the user wants done is read off hand-made dialogues."""

import json

import pytest

from jax_cl.tasks import actions, demos, stream
from jax_cl.tasks.language import reading
from jax_cl.types import Turn


@pytest.fixture(scope="module")
def space():
  domain = stream.load("retail")
  return actions.ActSpace([domain], {"retail": demos.vocabulary(domain)})


def item(id, name, product, **options):
  return {
    "name": name, "product_id": product, "item_id": id, "price": 10.0,
    "options": options,
  }  # fmt: skip


def order(id, status, *items):
  return {
    "order_id": id, "user_id": "ann_lee_1234", "status": status,
    "items": list(items),
  }  # fmt: skip


def state_of(space, said, *orders):
  state = actions.State(space)
  state.observe([Turn("user", content=said)])
  for o in orders:
    turn = Turn("tool", content=json.dumps(o), requestor="assistant")
    state.observe([turn])
  return state


LAMP = item("1000000001", "Desk Lamp", "2000000001", color="black", power="AC")
MUG = item("1000000002", "Water Bottle", "2000000002", capacity="500ml")
BOOT = item("1000000003", "Hiking Boots", "2000000003", size="9")


def wishes(state):
  return {
    (w.act, w.order.value): {e.value for e in w.items}
    for w in reading.read(state).wishes
  }


def test_a_verb_and_the_state_of_the_order_name_the_tool(space):
  said = "I want to return the lamp and cancel the boots."
  state = state_of(
    space, said, order("#W0000001", "delivered", LAMP, MUG),
    order("#W0000002", "pending", BOOT),
  )  # fmt: skip
  assert wishes(state) == {
    ("return_delivered_order_items", "#W0000001"): {"1000000001"},
    ("cancel_pending_order", "#W0000002"): {"1000000003"},
  }


def test_all_but_one(space):
  said = "I want to return everything except the lamp."
  state = state_of(
    space, said, order("#W0000001", "delivered", LAMP, MUG, BOOT)
  )
  assert wishes(state) == {
    ("return_delivered_order_items", "#W0000001"): {"1000000002", "1000000003"}
  }


def test_only_takes_back_the_rest(space):
  said = "I want to exchange the bottle and the lamp."
  state = state_of(space, said, order("#W0000001", "delivered", LAMP, MUG))
  assert len(reading.read(state).wishes[0].items) == 2
  state.observe([Turn("user", content="Only exchange the lamp.")])
  assert wishes(state) == {
    ("exchange_delivered_order_items", "#W0000001"): {"1000000001"}
  }


def test_to_ask_about_a_thing_is_no_wish(space):
  said = "I want to know how many lamp options there are."
  state = state_of(space, said, order("#W0000001", "delivered", LAMP))
  assert wishes(state) == {}


@pytest.mark.parametrize(
  "said, best",
  [
    ("to a bigger one", 1), ("to a smaller one", 0),
    ("to the cheapest one", 2), ("to a red one", 3),
  ],
)  # fmt: skip
def test_variants_answer_comparatives_prices_and_values(space, said, best):
  old = item("1000000002", "Water Bottle", "2000000002",
             capacity="500ml", color="blue")  # fmt: skip
  rows = [
    ("250ml", "blue", 12, True), ("750ml", "blue", 12, True),
    ("500ml", "green", 3, True), ("500ml", "red", 12, True),
    ("1000ml", "red", 1, False),
  ]  # fmt: skip
  variants = {
    f"300000000{i}": {
      "item_id": f"300000000{i}", "available": free, "price": price,
      "options": {"capacity": size, "color": color},
    }
    for i, (size, color, price, free) in enumerate(rows)
  }  # fmt: skip
  state = state_of(space, "Hi.", order("#W0000001", "delivered", old))
  product = {"name": "Water Bottle", "product_id": "2000000002",
             "variants": variants}  # fmt: skip
  state.observe([Turn("tool", content=json.dumps(product))])
  options = state.seen.of("variant")
  thing = state.seen.of("item")[0]
  scores = reading.variant_scores(options, thing, said)
  assert scores.index(max(scores)) == best
  assert scores[4] == 0  # it is not available


def test_demonstrated_acts_nobody_asked_for_contradict(space):
  state = state_of(
    space, "I want to return the lamp.",
    order("#W0000001", "delivered", LAMP, MUG),
  )  # fmt: skip
  choice = state.choice()
  at = space.index
  assert reading.contradicts(state, choice, at["say:done"])
  assert reading.contradicts(
    state, choice, at["exchange_delivered_order_items"]
  )
  assert not reading.contradicts(
    state, choice, at["return_delivered_order_items"]
  )


def test_of_two_the_one_in_company_is_meant(space):
  said = "I want to exchange the lamp and the bottle, the lamp to a black one."
  other = item("1000000009", "Desk Lamp", "2000000001", color="red", power="AC")
  state = state_of(
    space, said, order("#W0000001", "delivered", other),
    order("#W0000002", "delivered", LAMP, MUG),
  )  # fmt: skip
  assert wishes(state) == {
    ("exchange_delivered_order_items", "#W0000002"): {
      "1000000001", "1000000002",
    }
  }  # fmt: skip


@pytest.mark.parametrize(
  "free, act",
  [(True, "modify_pending_order_items"), (False, "cancel_pending_order")],
)
def test_what_is_sold_out_falls_back(space, free, act):
  said = (
    "I want to change the boots to size 8. If that is not available, cancel"
    " the order."
  )
  variants = {
    "3000000001": {
      "item_id": "3000000001", "available": free, "price": 9.0,
      "options": {"size": "8"},
    }
  }  # fmt: skip
  state = state_of(space, said, order("#W0000001", "pending", BOOT))
  product = {
    "name": "Hiking Boots", "product_id": "2000000003", "variants": variants,
  }  # fmt: skip
  state.observe([Turn("tool", content=json.dumps(product))])
  assert list(wishes(state)) == [(act, "#W0000001")]


def test_which_one_is_told_later(space):
  other = item("1000000009", "Desk Lamp", "2000000001", color="red", power="AC")
  said = "I want to return the lamp."
  state = state_of(space, said, order("#W0000001", "delivered", LAMP, other))
  assert len(reading.read(state).wishes[0].items) == 1  # "the lamp" is one
  state.observe([Turn("user", content="It is the red one.")])
  assert wishes(state) == {
    ("return_delivered_order_items", "#W0000001"): {"1000000009"}
  }


def test_another_way_to_pay_is_a_wish(space):
  said = "Please change the payment method of my pending order to PayPal."
  state = state_of(space, said, order("#W0000001", "pending", LAMP))
  assert list(wishes(state)) == [("modify_pending_order_payment", "#W0000001")]


@pytest.mark.parametrize(
  "said, want",
  [
    # Of a pending order, one thing alone cannot be cancelled.
    ("Cancel the lamp. If that is not possible, cancel the whole order.",
     {("cancel_pending_order", "#W0000001"): {"1000000001", "1000000002"}}),
    ("Cancel the lamp. If that is not possible, leave it.", {}),
    ("Cancel the lamp, but I do not want to cancel the entire order if that is"
     " the only way.", {}),
    ("If the bottle costs over $1 please cancel the order with the boots.",
     {("cancel_pending_order", "#W0000002"): {"1000000003"}}),
    ("If the bottle costs over $99 please cancel the order with the boots.",
     {}),
    ("I have two orders and want to cancel both orders.",
     {("cancel_pending_order", "#W0000001"): {"1000000001", "1000000002"},
      ("cancel_pending_order", "#W0000002"): {"1000000003"}}),
    ("Cancel the order with the boots.",
     {("cancel_pending_order", "#W0000002"): {"1000000003"}}),
    ("I ordered two lamps. Actually, change the lamp to a red one, but keep"
     " its other features.",
     {("modify_pending_order_items", "#W0000001"): {"1000000001"}}),
  ],
)  # fmt: skip
def test_conditions_are_answered_by_the_policy(space, said, want):
  state = state_of(
    space, said, order("#W0000001", "pending", LAMP, MUG),
    order("#W0000002", "pending", BOOT),
  )  # fmt: skip
  assert wishes(state) == want


def test_an_order_goes_to_the_address_it_does_not_have(space):
  home = {
    "address1": "1 Elm Road", "address2": "", "city": "Denver", "state": "CO",
    "country": "USA", "zip": "80201",
  }  # fmt: skip
  away = {**home, "address1": "2 Oak Road", "city": "Chicago", "zip": "60601"}
  user = {
    "user_id": "ann_lee_1234", "email": "ann.lee@example.com", "address": home,
    "orders": ["#W0000001", "#W0000002"],
  }  # fmt: skip
  first = {**order("#W0000001", "pending", LAMP), "address": away}
  second = {**order("#W0000002", "pending", BOOT), "address": home}
  said = "My Chicago order must be sent to my home instead."
  state = state_of(space, said, user, first, second)
  assert list(wishes(state)) == [("modify_pending_order_address", "#W0000001")]
  state.picks = {"order_id": state.seen.of("order")[:1]}
  options = state.seen.of("address")
  best = reading.address(state, options, reading.read(state).text)
  assert options[best].value["city"] == "Denver"


def test_what_follows_a_refusal_is_about_what_was_refused(space):
  state = state_of(
    space, "Cancel the bottle. Also make the boots size 9.",
    order("#W0000001", "pending", LAMP, MUG),
    order("#W0000002", "pending", BOOT),
  )  # fmt: skip
  said = "I want to modify it to a blue one instead."
  state.history.append(("say:refuse", "{}"))
  state.errors.append(False)
  state.observe([Turn("user", content=said)])
  scopes = reading.read(state).scopes
  about = {k for k, words in scopes.items() if "blue" in words}
  assert {
    e.fields["name"] for e in state.seen.of("item") if e.key in about
  } == {MUG["name"]}
