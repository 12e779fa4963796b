"""What was asked to be told, what pays, and the arithmetic behind both."""

import json

import pytest

from jax_cl.tasks import actions, demos, entities, ledger, stream
from jax_cl.tasks.language import answers, intents, payments
from jax_cl.types import Turn

PAYPAL, GIFT, VISA, AMEX = (
  "paypal_1", "gift_card_2", "credit_card_3", "credit_card_4"
)  # fmt: skip


@pytest.fixture(scope="module")
def space():
  domain = stream.load("retail")
  return actions.ActSpace([domain], {"retail": demos.vocabulary(domain)})


def item(id, name, price, product="2000000001", **options):
  return {"name": name, "product_id": product, "item_id": id, "price": price,
          "options": options}  # fmt: skip


LAMP = item("1000000001", "Desk Lamp", 30.5, color="black")
MUG = item("1000000002", "Water Bottle", 9.25, "2000000002", capacity="500ml")


def order(id, status, *items, paid=PAYPAL, tracking="700000000001"):
  return {
    "order_id": id, "user_id": "ann_lee_1234", "status": status,
    "items": list(items), "payment_history": [
      {"transaction_type": "payment", "payment_method_id": paid,
       "amount": sum(x["price"] for x in items)}
    ],
    "fulfillments": [{"tracking_id": [tracking]}],
  }  # fmt: skip


USER = {
  "user_id": "ann_lee_1234", "payment_methods": {
    PAYPAL: {"source": "paypal", "id": PAYPAL},
    GIFT: {"source": "gift_card", "id": GIFT, "balance": 5.0},
    VISA: {"source": "credit_card", "id": VISA, "brand": "visa",
           "last_four": "1111"},
    AMEX: {"source": "credit_card", "id": AMEX, "brand": "american_express",
           "last_four": "2222"},
  },
}  # fmt: skip


def tool(obj):
  return Turn("tool", content=json.dumps(obj), requestor="assistant")


def state_of(space, said, *results):
  state = actions.State(space)
  state.observe([Turn("user", content=said)])
  for obj in results:
    state.observe([tool(obj)])
  return state


def call(state, name, arguments, result=None):
  for i in state.path_to(name, arguments):
    state.choose(i)
  if result is not None:
    state.observe([tool(result)])


def test_the_tracking_number_is_that_of_the_order_meant(space):
  first = order("#W0000001", "cancelled", LAMP, tracking="700000000001")
  second = order("#W0000002", "delivered", MUG, tracking="700000000002")
  for said, number in (
    ("What is the tracking number of my cancelled order?", "700000000001"),
    ("I want the tracking number of #W0000002.", "700000000002"),
    ("I bought a bottle. I want to know its tracking number.", "700000000002"),
  ):
    state = state_of(space, said, first, second)
    best = [e.value for e in answers.wanted(state)]
    assert best[0] == number


def test_money_back_is_the_sum_of_what_was_done(space):
  said = "Return the lamp and the bottle. How much do I get back in total?"
  orders = [
    order("#W0000001", "delivered", LAMP), order("#W0000002", "pending", MUG),
  ]  # fmt: skip
  state = state_of(space, said, USER, *orders)
  assert answers.wanted(state) == []  # nothing is done yet
  call(state, "return_delivered_order_items", {
    "order_id": "#W0000001", "item_ids": ["1000000001"],
    "payment_method_id": PAYPAL,
  }, {**orders[0], "status": "return requested"})  # fmt: skip
  call(state, "cancel_pending_order", {
    "order_id": "#W0000002", "reason": "no longer needed",
  }, {**orders[1], "status": "cancelled"})  # fmt: skip
  assert [d.back for d in ledger.settled(state)] == [30.5, 9.25]
  best = answers.wanted(state)
  assert best[0].value == "39.75"
  call(state, "say:inform", {"values": ["39.75"]})
  assert "39.75" not in [e.value for e in answers.wanted(state)]


def test_a_failed_call_moves_no_money(space):
  state = state_of(space, "Return it.", USER,
                   order("#W0000001", "delivered", LAMP))  # fmt: skip
  call(state, "return_delivered_order_items", {
    "order_id": "#W0000001", "item_ids": ["1000000001"],
    "payment_method_id": VISA,
  })  # fmt: skip
  error = Turn("tool", content="Error", requestor="assistant", error=True)
  state.observe([error])
  assert ledger.settled(state) == []


def test_how_many_options_needs_the_catalogue(space):
  said = "How many lamp options are available?"
  state = state_of(space, said, USER)
  assert answers.asks_of_stock(state)
  state.observe([tool({"Desk Lamp": "2000000001", "Mug": "2000000002"})])
  assert not answers.asks_of_stock(state)
  product = answers.unopened(state)
  assert product is not None and product.value == "2000000001"
  variants = {
    str(i): {"item_id": str(i), "available": i < 2, "price": 1.0, "options": {}}
    for i in range(3)
  }
  call(state, "get_product_details", {"product_id": "2000000001"}, {
    "name": "Desk Lamp", "product_id": "2000000001", "variants": variants,
  })  # fmt: skip
  assert answers.unopened(state) is None
  assert [e.value for e in answers.wanted(state)] == ["2"]


@pytest.mark.parametrize(
  "said, act, best",
  [
    ("", "return_delivered_order_items", PAYPAL),  # it paid
    ("Use my visa.", "exchange_delivered_order_items", VISA),
    ("Use my card ending in 2222.", "exchange_delivered_order_items", AMEX),
    ("Refund it to my visa, please.", "return_delivered_order_items", PAYPAL),
    ("A gift card is fine.", "return_delivered_order_items", GIFT),
    ("Use paypal. I changed my mind, use the visa card.",
     "exchange_delivered_order_items", VISA),
    ("What are my gift card balances?", "exchange_delivered_order_items",
     PAYPAL),
  ],
)  # fmt: skip
def test_what_pays(space, said, act, best):
  state = state_of(space, f"Hello. {said}", USER,
                   order("#W0000001", "delivered", LAMP))  # fmt: skip
  state.picks = {"order_id": state.seen.of("order")}
  options = state.seen.of("payment")
  assert options[payments.best(state, act, options)].id == best


def test_a_gift_card_must_cover_the_difference(space):
  state = state_of(space, "Use my gift card.", USER,
                   order("#W0000001", "delivered", LAMP))  # fmt: skip
  for price, best in ((33.0, GIFT), (39.0, PAYPAL)):  # of 5.00 on the card
    new = entities.Entity("variant", "9", {"price": str(price)}, set(), 0, "x")
    state.seen.by_type["variant"] = {new.key: new}
    state.picks = {
      "order_id": state.seen.of("order"), "item_ids": state.seen.of("item"),
      "new_item_ids": [new],
    }  # fmt: skip
    options = state.seen.of("payment")
    act = "exchange_delivered_order_items"
    assert options[payments.best(state, act, options)].id == best


def test_a_write_does_not_start_another_one(space):
  """The same lamp in two orders: one was named, and stays the only one."""
  said = "I want to return the lamp in order #W0000001."
  state = state_of(space, said, USER,
                   order("#W0000001", "delivered", LAMP),
                   order("#W0000002", "delivered", LAMP, MUG))  # fmt: skip
  state.heard_out = True
  for act in (*intents.QUESTIONS["order"], "say:confirm"):
    assert intents.intents(state)[0].act == act
    call(state, act, {}, None)
  (wish, *rest) = intents.intents(state)
  assert wish.values == {"order_id": "#W0000001"} and not rest
  arguments = {
    "order_id": "#W0000001", "item_ids": ["1000000001"],
    "payment_method_id": PAYPAL,
  }  # fmt: skip
  for index in state.path_to(wish.act, arguments):
    hints = intents.hint(state, state.choice())
    assert hints[index] == max(hints) == 1
    state.choose(index)
  done = order("#W0000001", "return requested", LAMP)
  state.observe([tool(done)])
  assert [i.act for i in intents.intents(state)] == ["say:done"]


def test_nothing_is_hinted_when_nothing_is_read():
  domain = stream.load("retail")
  space = actions.ActSpace(
    [domain], {"retail": demos.vocabulary(domain)}, reads=False
  )
  state = state_of(space, "Return the lamp.", USER,
                   order("#W0000001", "delivered", LAMP))  # fmt: skip
  state.heard_out = True
  assert intents.intents(state) == ()
  assert set(intents.hint(state, state.choice())) == {0.0}
