"""What a caller of the airline wants, and what its policy makes of it."""

import json

import pytest

from jax_cl.tasks import actions, demos, ledger, stream
from jax_cl.tasks.language import asked, bookings, intents, itineraries, trips
from jax_cl.types import Turn


@pytest.fixture(scope="module")
def space():
  domain = stream.load("airline")
  return actions.ActSpace([domain], {"airline": demos.vocabulary(domain)})


def user(membership="regular"):
  return {
    "user_id": "ann_lee_1234", "dob": "1980-01-02", "membership": membership,
    "email": "ann@example.com",
    "name": {"first_name": "Ann", "last_name": "Lee"},
    "payment_methods": {
      m["id"]: m for m in (
        {"source": "certificate", "id": "certificate_1", "amount": 100},
        {"source": "certificate", "id": "certificate_2", "amount": 250},
        {"source": "gift_card", "id": "gift_card_3", "amount": 20},
        {"source": "credit_card", "id": "credit_card_4", "brand": "visa",
         "last_four": "1111"},
        {"source": "credit_card", "id": "credit_card_5", "brand": "visa",
         "last_four": "2222"},
      )
    },
    "reservations": ["ABC123"],
  }  # fmt: skip


def trip(id="ABC123", cabin="economy", date="2024-05-20", n=1, **fields):
  people = [("Ann", "Lee"), ("Bob", "Kim")][:n]
  return {
    "reservation_id": id, "user_id": "ann_lee_1234", "origin": "JFK",
    "destination": "SEA", "flight_type": "one_way", "cabin": cabin,
    "flights": [{"flight_number": "HAT001", "origin": "JFK",
                 "destination": "SEA", "date": date, "price": 100}],
    "passengers": [
      {"first_name": a, "last_name": b, "dob": "1980-01-02"}
      for a, b in people
    ],
    "payment_history": [{"payment_id": "credit_card_4", "amount": 100}],
    "created_at": "2024-05-01T00:00:00", "total_baggages": 1,
    "nonfree_baggages": 0, "insurance": "no", "status": None, **fields,
  }  # fmt: skip


def tool(obj):
  text = obj if isinstance(obj, str) else json.dumps(obj)
  return Turn("tool", content=text, requestor="assistant")


def state_of(space, said, *trips, membership="regular"):
  state = actions.State(space)
  state.observe([Turn("user", content=said)])
  for record in (user(membership), *trips):
    state.observe([tool(record)])
  return state


def look_of(state):
  """The look-up that the one call that is wanted needs first."""
  (wanted,) = bookings.plan(state).wanted
  assert wanted.look is not None
  return wanted.look


def look_up(state, name, arguments, answer):
  """Calls a look-up, and answers it."""
  for i in state.path_to(name, arguments):
    state.choose(i)
  state.observe([tool(answer)])


def offer(number, price, hour="10", seats=9, **fields):
  cabins = ("basic_economy", "economy", "business")
  return {
    "flight_number": number, "origin": "JFK", "destination": "SEA",
    "status": "available", "date": None,
    "scheduled_departure_time_est": f"{hour}:00:00",
    "scheduled_arrival_time_est": "23:00:00",
    "available_seats": dict.fromkeys(cabins, seats),
    "prices": dict(zip(cabins, (price / 2, price, price * 3), strict=True)),
    **fields,
  }  # fmt: skip


@pytest.mark.parametrize(
  "fields, said, allowed",
  [
    ({}, "", False),
    ({"cabin": "business"}, "", True),
    ({"cabin": "business", "date": "2024-05-10"}, "", False),  # flown
    ({"created_at": "2024-05-15T01:00:00"}, "", True),  # within 24 hours
    ({"insurance": "yes"}, " I am sick.", True),
    ({"insurance": "yes"}, " My plans changed.", False),
  ],
)
def test_a_cancellation_follows_the_policy(space, fields, said, allowed):
  said = f"I want to cancel my reservation ABC123.{said}"
  plan = bookings.plan(state_of(space, said, trip(**fields)))
  assert plan.denied != allowed
  assert [w.act for w in plan.wanted] == ["cancel_reservation"] * allowed


def test_of_several_reservations_the_one_under_the_verb(space):
  said = "Please cancel ABC123. I also want to change DEF456 to economy."
  trips = trip(cabin="business"), trip("DEF456", "business")
  plan = bookings.plan(state_of(space, said, *trips))
  assert [(w.act, w.values["reservation_id"]) for w in plan.wanted] == [
    ("update_reservation_flights", "DEF456"),
    ("cancel_reservation", "ABC123"),
  ]


@pytest.mark.parametrize(
  "said",
  [
    "I want to remove passenger Bob from my trip.",
    "I want compensation for the bad food.",
  ],
)
def test_what_the_policy_forbids_is_denied(space, said):
  plan = bookings.plan(state_of(space, said, trip(n=2)))
  assert plan == bookings.Plan((), True)


@pytest.mark.parametrize(
  "membership, total, paid",
  [("regular", 4, 2), ("silver", 4, 0)],  # two passengers in economy
)
def test_bags_are_added_and_paid_beyond_the_allowance(
  space, membership, total, paid
):
  said = "I want to add 3 checked bags to my trip."
  state = state_of(space, said, trip(n=2), membership=membership)
  (wanted,) = bookings.plan(state).wanted
  assert wanted.values["total_baggages"] == total
  assert wanted.values["nonfree_baggages"] == paid


@pytest.mark.parametrize("fare, allowed", [(60, True), (80, False)])
def test_a_budget_needs_todays_price(space, fare, allowed):
  said = "I want to upgrade to business. I can pay up to $100."
  state = state_of(space, said, trip())
  where = {"origin": "JFK", "destination": "SEA", "date": "2024-05-20"}
  assert look_of(state) == ("search_direct_flight", where)
  look_up(state, *look_of(state), [offer("HAT001", fare)])  # business: 3 fares
  plan = bookings.plan(state)
  assert plan.denied != allowed
  assert len(plan.wanted) == allowed


def test_a_certificate_needs_a_status_and_a_delay(space):
  said = "My flight HAT001 is delayed and I want compensation."
  state = state_of(space, said, trip(n=2), membership="gold")
  assert look_of(state)[0] == "get_flight_status"
  look_up(state, *look_of(state), "delayed")
  (wanted,) = bookings.plan(state).wanted
  assert wanted.look is None
  assert wanted.values["amount"] == 100  # 50 dollars a passenger
  amounts = [e.value for e in state.seen.of("number")]
  assert 100 in amounts  # it can be said
  state = state_of(space, said, trip(n=2))  # a regular member, not insured
  assert bookings.plan(state) == bookings.Plan((), True)


def test_other_flights_are_searched_and_chosen(space):
  said = "I want to change my flight to a nonstop one on the next day."
  state = state_of(space, said, trip())
  assert look_of(state)[1]["date"] == "2024-05-21"
  rows = [
    offer("HAT002", 90),
    offer("HAT003", 70),
    offer("HAT004", 10, seats=0),
  ]
  look_up(state, *look_of(state), rows)
  (wanted,) = bookings.plan(state).wanted
  leg = {"flight_number": "HAT003", "date": "2024-05-21"}
  assert wanted.values["flights"] == [leg]
  assert leg in [e.value for e in state.seen.of("leg")]  # it can be said


def test_basic_economy_is_not_moved(space):
  said = "I want to change my flight to the next day."
  state = state_of(space, said, trip(cabin="basic_economy"))
  assert bookings.plan(state) == bookings.Plan((), True)


@pytest.mark.parametrize(
  "said, best",
  [
    ("the cheapest", "HAT002"), ("not before 11am", "HAT003"),
    ("after 8am and before 10am", "HAT001"),
  ],
)  # fmt: skip
def test_an_itinerary_fits_the_hours_named(said, best):
  rows = [
    offer("HAT001", 90, "09"), offer("HAT002", 50, "10"),
    offer("HAT003", 70, "12"),
  ]  # fmt: skip
  chosen = itineraries.choose([[r] for r in rows], said, "economy", 1)
  assert chosen is not None
  assert chosen[0]["flight_number"] == best


def test_a_booking_is_paid_by_what_was_named(space):
  said = (
    "I want to fly from New York to Seattle on May 20. I have 2 bags. I want "
    "to use a certificate, and my 2222 card for the rest."
  )
  state = state_of(space, said)
  for tool_, rows in (
    ("search_direct_flight", [offer("HAT001", 300)]),
    ("search_onestop_flight", []),
  ):
    assert look_of(state)[0] == tool_
    look_up(state, *look_of(state), rows)
  (wanted,) = bookings.plan(state).wanted
  # 300 and one bag beyond the free one: 350, of which the larger one pays 250
  assert wanted.values["payment_methods"] == [
    {"payment_id": "certificate_2", "amount": 250},
    {"payment_id": "credit_card_5", "amount": 100},
  ]
  path = state.path_to("book_reservation", wanted.values)
  assert path  # the choices can express it
  state.heard_out = True
  read = ("get_reservation_details", "reservation_id")
  state.used[read] = {e.key for e in state.seen.of("reservation")}
  state.history += [(a, "{}") for a in intents.QUESTIONS["trip"]]
  state.history.append(("say:confirm", "{}"))
  state.errors += [False] * 4
  turn = None
  for index in path:  # and every hint leads there
    hints = intents.hint(state, state.choice())
    assert hints[index] == max(hints) == 1
    turn = state.choose(index)
  assert turn is not None
  assert turn.tool_calls[0].arguments["nonfree_baggages"] == 1


def test_passengers_may_be_renamed(space):
  said = "I want to change the passenger name from Bob Kim to Bob Lee."
  state = state_of(space, said, trip(n=2))
  (wanted,) = bookings.plan(state).wanted
  assert [p["last_name"] for p in wanted.values["passengers"]] == ["Lee", "Lee"]
  assert state.path_to(wanted.act, wanted.values)  # it can be said


def test_free_bags_are_those_of_the_policy():
  assert ledger.free_bags("gold", "business", 2) == 8
  assert ledger.free_bags("regular", "basic_economy", 3) == 0


def test_a_price_is_split_in_order():
  methods = list(user()["payment_methods"].values())
  assert ledger.split(300, methods[1:4]) == [
    {"payment_id": "certificate_2", "amount": 250},
    {"payment_id": "gift_card_3", "amount": 20},
    {"payment_id": "credit_card_4", "amount": 30},
  ]


@pytest.mark.parametrize(
  "said",
  ["my flight to Seattle", "my trip to SEA", "the flight on May 20",
   "the trip from New York to Seattle", "my flight HAT001", "ABC123"],
)  # fmt: skip
def test_the_reservation_that_is_meant(said):
  other = trip("DEF456", date="2024-05-27", destination="MIA", origin="SFO")
  other["flights"][0].update(flight_number="HAT009")
  assert _meant(f"Please cancel {said}.", other, trip()) == ["ABC123"]
  assert _meant("Please cancel my flight.", other, trip()) == []


def _meant(said, *those):
  (ask,) = asked.asks([said])
  return [t["reservation_id"] for t in trips.meant(ask, [said], those)]


@pytest.mark.parametrize(
  "said, ids",
  [
    ("Cancel all of my trips.", ["ABC123", "DEF456"]),
    ("Cancel the New York - Seattle trip and the one to Miami.", ["ABC123"]),
    ("Cancel the trip that I take with Bob.", ["DEF456"]),
    ("Cancel everything that I booked yesterday.", ["DEF456"]),
    ("Cancel the trips on which I don't travel myself.", ["GHI789"]),
    ("Cancel the flight to Denver.", []),
  ],
)
def test_reservations_are_found_by_what_is_said_of_them(said, ids):
  bob = trip("DEF456", n=2, created_at="2024-05-14T20:00:00", destination="MIA")
  kim = trip("GHI789", destination="ATL", date="2024-05-10")
  kim["passengers"] = [{"first_name": "Kim", "last_name": "Ito", "dob": ""}]
  assert _meant(said, trip(), bob, kim) == ids


@pytest.mark.parametrize(
  "fare, cabin", [(40, ["business"]), (100, ["economy"]), (500, [])]
)
def test_what_is_too_dear_falls_back_to_what_else_was_named(space, fare, cabin):
  said = (
    "I want to upgrade to business. My budget is $50. If business is more "
    "than that, I'd like economy instead."
  )
  state = state_of(space, said, trip(cabin="basic_economy"))
  look_up(state, *look_of(state), [offer("HAT001", fare)])
  plan = bookings.plan(state)
  assert [w.values["cabin"] for w in plan.wanted] == cabin


def test_another_passenger_takes_the_seat(space):
  said = (
    "Tom Ray will fly in place of Bob Kim. Tom's birthday is March 3, 1994."
  )
  state = state_of(space, said, trip(n=2))
  (wanted,) = bookings.plan(state).wanted
  tom = {"first_name": "Tom", "last_name": "Ray", "dob": "1994-03-03"}
  assert wanted.values["passengers"][1] == tom
  assert state.path_to(wanted.act, wanted.values)  # it can be said


def test_from_one_cabin_to_another(space):
  said = "I want to change my cabin from economy to business."
  (wanted,) = bookings.plan(state_of(space, said, trip())).wanted
  assert wanted.values["cabin"] == "business"
