"""Entities named in a conversation, by hand."""

import json

import pytest

from jax_cl.tasks import entities

ORDER = {
  "order_id": "#W0000001",
  "user_id": "mia_li_3668",
  "items": [
    {
      "name": "Water Bottle",
      "product_id": "1111111111",
      "item_id": "2222222222",
      "price": 20.5,
      "options": {"capacity": "500ml"},
    },
    {
      "name": "Desk Lamp",
      "product_id": "3333333333",
      "item_id": "4444444444",
      "price": 9.5,
      "options": {"power": "USB"},
    },
  ],
  "status": "delivered",
  "payment_history": [{"amount": 30.0, "payment_method_id": "paypal_1"}],
}


def _seen(*results):
  seen = entities.Seen()
  for i, r in enumerate(results):
    seen.read_result(json.dumps(r), i, "tool")
  return seen


def _ids(seen, type):
  return [e.value for e in seen.of(type)]


def test_an_order_its_items_and_what_links_them():
  seen = _seen(ORDER)
  assert _ids(seen, "order") == ["#W0000001"]
  assert _ids(seen, "item") == ["2222222222", "4444444444"]
  assert _ids(seen, "product") == ["1111111111", "3333333333"]
  (order,), (bottle, lamp) = seen.of("order"), seen.of("item")
  assert order.fields["status"] == "delivered"
  assert bottle.fields["capacity"] == "500ml"
  assert "#W0000001" in bottle.links and "1111111111" in bottle.links
  assert "3333333333" not in bottle.links and "3333333333" in lamp.links


def test_an_entity_named_twice_is_one_and_knows_more():
  seen = entities.Seen()
  seen.read_speech("It is about #W0000001.", 0)
  before = seen.of("order")[0]
  assert before.source == "user" and not before.fields
  seen.read_result(json.dumps(ORDER), 1, "get_order_details")
  (after,) = seen.of("order")
  assert after is before and after.fields["status"] == "delivered"
  assert after.turn == 0 and after.source == "user"


def test_variants_are_not_items():
  product = {
    "name": "Water Bottle",
    "product_id": "1111111111",
    "variants": {
      "5555555555": {
        "item_id": "5555555555",
        "options": {"capacity": "750ml"},
        "available": True,
        "price": 22.0,
      },
      "6666666666": {
        "item_id": "6666666666",
        "options": {"capacity": "1000ml"},
        "available": False,
        "price": 25.0,
      },
    },
  }
  seen = _seen(product)
  assert _ids(seen, "item") == []
  assert _ids(seen, "variant") == ["5555555555", "6666666666"]
  # simple arithmetic: one of the two can be had
  counts = [
    e.value
    for e in seen.of("value")
    if e.fields.get("kind") == "available options"
  ]
  assert counts == ["1"]


def test_speech_gives_ids_people_dates_and_addresses():
  seen = entities.Seen()
  seen.read_speech(
    "I'm Mei Kovacs (mei.kovacs8020@example.com), zip 28236. Please change "
    "#W0000001 to 12 Oak Street, Suite 3, Denver, CO 80280 by May 20.",
    0,
  )
  assert {"first_name": "Mei", "last_name": "Kovacs"} in _ids(seen, "person")
  assert _ids(seen, "email") == ["mei.kovacs8020@example.com"]
  assert "28236" in _ids(seen, "zip")
  assert _ids(seen, "date") == ["2024-05-20"]
  address = _ids(seen, "address")[0]
  assert address["address1"] == "12 Oak Street"
  assert (address["city"], address["state"]) == ("Denver", "CO")
  assert address["zip"] == "80280"


def test_ids_in_speech_make_people():
  seen = entities.Seen()
  seen.read_speech("You can look for mei_kovacs_8020.", 0)
  assert _ids(seen, "user") == ["mei_kovacs_8020"]
  assert _ids(seen, "person") == [{"first_name": "Mei", "last_name": "Kovacs"}]


def test_plain_answers_are_read_by_pattern():
  seen = entities.Seen()
  seen.read_result("yusuf_rossi_9620", 0, "find_user_id_by_email")
  assert _ids(seen, "user") == ["yusuf_rossi_9620"]


def test_a_union_takes_several_types():
  seen = entities.Seen()
  seen.read_speech("Bill B1234321 of line L1002, customer C1001.", 0)
  assert set(_ids(seen, "id")) == {"B1234321", "L1002", "C1001"}


@pytest.mark.parametrize(
  "text, state",
  [
    ("5 Oak Street, Apt 2, Fort Worth, Texas, 76165", "TX"),
    ("101 Highway, New York, 10001", "NY"),  # the city's own
    ("5 Oak Street, Austin, TX, 78701", "TX"),
  ],
)
def test_states_are_written_out_or_left_out(text, state):
  seen = entities.Seen()
  seen.read_speech(f"I live at {text}.", 0)
  (address,) = _ids(seen, "address")
  assert address["state"] == state


def test_people_with_birthdays_and_cities():
  seen = entities.Seen()
  seen.read_speech("Ann Lee, born 1980-01-02, flies from Boston to Seattle.", 0)
  assert _ids(seen, "passenger") == [
    {"first_name": "Ann", "last_name": "Lee", "dob": "1980-01-02"}
  ]
  assert sorted(_ids(seen, "airport")) == ["BOS", "SEA"]


def test_a_flight_found_is_one_of_the_day_that_was_searched():
  seen = entities.Seen()
  flight = {"flight_number": "HAT001", "origin": "JFK", "destination": "SEA",
            "date": None, "prices": {"economy": 90}}  # fmt: skip
  where = {"origin": "JFK", "destination": "SEA", "date": "2024-05-20"}
  tool = "search_direct_flight"
  seen.read_look_up(json.dumps([flight]), 0, tool, where)
  leg = {"flight_number": "HAT001", "date": "2024-05-20"}
  assert _ids(seen, "leg") == [leg]
  assert seen.offers["HAT001", "2024-05-20"]["prices"]["economy"] == 90
  assert len(seen.searches[tool, entities.key_of(where)]) == 1
