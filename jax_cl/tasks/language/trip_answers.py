"""What a caller of the airline asks to be told: which known values answer.

Values are candidates that tools or arithmetic (`ledger`) brought up; the rules
say which of them a question is about: balances, free bags, prices of trips,
and the money that changes moved. Features, as all rules of language are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from jax_cl.tasks import entities, ledger
from jax_cl.tasks.language import asked, trips

_MOVED = re.compile(
  r"\b(?:refund\w*|back|sav(?:e|ings?)|difference|owe|charg\w+|pay|receiv\w+"
  r"|cost (?:me|extra)|fee)\b"
)
_PRICE = re.compile(
  r"\b(?:paid|cost\w*|price\w*|spen[dt]|worth|total|sum|altogether)\b"
)
_TRIPS = re.compile(
  r"\b(?:trips?|flights?|reservations?|bookings?|travel\w*|tickets?)\b"
)


def answers(state, sentence: str) -> Iterator[entities.Entity]:
  """Answers to a sentence that asks, the likeliest first."""
  low = asked.plain(sentence)
  if re.search(r"\b(?:balances?|have|left|hold|money|worth|add up|total|sum)\b",
               low):  # fmt: skip
    for kind in ("gift card", "certificate"):
      if re.search(rf"\b{kind}s?\b", low) and not _MOVED.search(low):
        yield from of_kind(state, f"sum of {kind} balances")
  if re.search(rf"\b{asked.BAG}\b", low):
    yield from _bags(state, low)
    return
  if _MOVED.search(low):
    yield from _moved(state, low)
  if _PRICE.search(low) and _TRIPS.search(low):
    yield from _prices(state, low)


def of_kind(state, kind: str, link: str = "") -> list[entities.Entity]:
  """The latest value of a kind, of the trip it is linked to."""
  found = [
    e for e in state.seen.of("value")
    if kind in e.fields.get("kind", "") and (not link or link in e.links)
  ]  # fmt: skip
  return found[-1:]


def _about(state, low: str) -> list[trips.Trip]:
  """The trips that a question is about."""
  all_ = [r for r in state.seen.records.values() if "flights" in r]
  said = [asked.plain(s) for s in state.user_texts]
  at = said.index(low) if low in said else 0
  ask = asked.Ask("told", low, low, at, False)
  return trips.meant(ask, state.user_texts, all_) if all_ else []


def _bags(state, low: str) -> Iterator[entities.Entity]:
  for t in _about(state, low)[:1]:
    user = state.seen.records.get(t["user_id"], {})
    free = ledger.free_bags(
      user.get("membership", ""), t.get("cabin", ""), ledger.seats(t)
    )
    yield from ledger.exact(state, free)


def _moved(state, low: str) -> Iterator[entities.Entity]:
  """What changes, cancellations and bookings brought back or cost."""
  done = ledger.moved(state)
  if re.search(r"\b(?:card|mastercard|visa)\b", low):
    if charged := ledger.charged(state):
      yield from ledger.exact(state, sum(charged))
  if done:
    yield from ledger.exact(state, sum(done.values()))
  for amount in done.values():
    yield from ledger.exact(state, amount)


def _prices(state, low: str) -> Iterator[entities.Entity]:
  """What the trips that are meant cost; of several, all that lie ahead."""
  paid = re.search(r"\b(?:paid|pay|spen[dt])\b", low)
  if re.search(r"\b(?:those|other|all|ahead|upcoming|trips|flights)\b", low):
    what = "paid for" if paid else "cost of"
    yield from of_kind(state, f"total {what} all trips ahead")
  for t in _about(state, low)[:1]:
    first = state.seen.first[t["reservation_id"]]
    yield from ledger.exact(
      state, (ledger.paid if paid else ledger.fare)(first)
    )
