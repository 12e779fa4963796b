"""Clauses of a caller's speech, by what they ask for."""

import pytest

from jax_cl.tasks.language import asked


@pytest.mark.parametrize(
  "kind, said",
  [
    ("cancel", "Please call the trip off."),
    ("cancel", "I need my flight cancelled."),
    ("cancel", "I no longer want to go."),
    ("cancel", "All of them are to be cancelled."),
    ("cabin", "Can all of us move from economy to business?"),
    ("cabin", "I'd rather fly business."),
    ("move", "I want to fly one day earlier."),
    ("move", "I need to leave on May 18 instead of May 17."),
    ("move", "I want to switch to a non-stop flight."),
    ("bags", "Please add two more pieces of luggage."),
    ("unbag", "Please take a suitcase off my booking."),
    ("people", "The name on the ticket is misspelled."),
    ("people", "Tom flies in place of Bob."),
    ("count", "I want to remove a passenger from the reservation."),
    ("insure", "I'd like to add insurance."),
    ("gesture", "I want something for the trouble."),
    ("book", "I'm trying to travel from Boston to Miami on May 20."),
  ],
)
def test_a_kind_is_said_in_many_words(kind, said):
  assert kind in [a.kind for a in asked.asks([said])]


@pytest.mark.parametrize(
  "said",
  [
    "My flight was cancelled yesterday.",
    "I do not want to cancel the flight.",
    "If you cancel it, tell me.",
    "How many bags may I take for free?",
    "Don't accept an upgrade.",
    "I want $20 rather than a voucher.",
  ],
)
def test_what_is_denied_past_or_a_condition_asks_for_nothing(said):
  kinds = {a.kind for a in asked.asks([said])}
  assert not kinds & {"cancel", "cabin", "gesture"}


@pytest.mark.parametrize(
  "said, fallback",
  [
    ("If that is not possible, cancel it.", True),
    ("If it costs more than $100, cancel it.", True),
    ("If you can, cancel it.", False),
    ("If I get more than $100 back, cancel it.", False),
  ],
)
def test_what_follows_a_failure_is_a_fallback(said, fallback):
  (ask,) = asked.asks([said])
  assert (ask.kind, ask.fallback) == ("cancel", fallback)


@pytest.mark.parametrize(
  "said, goal",
  [
    ("from business to economy", "economy"),
    ("economy rather than business", "economy"),
    ("out of basic economy and into economy", "economy"),
    ("down to basic economy", "basic_economy"),
  ],
)
def test_the_cabin_that_is_the_goal(said, goal):
  assert asked.cabins(said)[0] == goal


@pytest.mark.parametrize(
  "said",
  ["from boston to miami", "boston - miami", "to miami from boston",
   "boston to miami", "between boston and miami"],
)  # fmt: skip
def test_a_route(said):
  assert asked.routes(said)[0] == (["BOS"], ["MIA"])


def test_numbers_days_and_limits():
  assert asked.bags("three checked bags") == ("three", 3)
  assert asked.days("from may 20 to the 24th of may") == [
    "2024-05-20",
    "2024-05-24",
  ]
  assert asked.births("born on may 4, 1990") == ["1990-05-04"]
  assert asked.births("5/4/1990 and 1991-12-01") == ["1991-12-01", "1990-05-04"]


@pytest.mark.parametrize(
  "said, most, least",
  [
    ("i can spend at most $1,400.", 1400, None),
    ("only if that's under 90 dollars", 90, None),
    ("if it costs more than $50, leave it.", 50, None),
    ("if it is above $50, leave it.", 50, None),
    ("if it is more than $50, do it.", None, 50),
    ("if i get less than $50 back, don't do it.", None, 50),
  ],
)
def test_limits_of_what_a_change_may_cost_or_bring(said, most, least):
  assert asked.limits(said) == (most, least)


def test_a_list_stays_with_its_verb():
  (ask,) = asked.asks(["Cancel ABC123, DEF456 and GHI789, and keep JKL012."])
  assert "ghi789" in ask.clause and "jkl012" not in ask.clause
