"""Which reservations a caller means: descriptions matched with what was seen.

A description is what a sentence says of a trip: its id, its ends, a day, a
flight, who flies, when it was booked. Each part that fits some trip leaves
those that it fits. What is nearest to a wish describes best: its own clause,
then its sentence, those beside it, and at last the whole speech.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jax_cl.tasks import ledger
from jax_cl.tasks.language import asked

NOW = "2024-05-15T15:00:00"  # the clock of tau2's airline policy
DAY_AGO = "2024-05-14T15:00:00"
Trip = Mapping[str, Any]  # a reservation, as its tool gives it

_MANY = re.compile(
  r"\b(?:all|every|each|any|both|everything|several|trips|reservations|bookings"
  r"|two|three|four)\b"
)
_ALL = re.compile(
  r"\b(?:all|every|each|everything|any)\b(?: (?:of|the|my|your|other|upcoming"
  r"|future))*(?: (?:trips?|flights?|reservations?|bookings?|those|them|that|i)"
  r"\b|$)"
)


def flown(t: Trip) -> bool:
  """A part of it lies in the past."""
  return any(f["date"] < NOW[:10] for f in t["flights"])


def over(t: Trip) -> bool:
  return all(f["date"] < NOW[:10] for f in t["flights"])


def meant(
  ask: asked.Ask,
  sentences: Sequence[str],
  trips: Sequence[Trip],
  past: bool = False,
) -> list[Trip]:
  """The reservations that an ask is about; none where that is unclear.

  `past`: those whose flights are all over count as well (complaints).
  """
  for scope in _scopes(ask, sentences):
    found = described(scope, trips)
    if found is None:
      continue
    if scope in (ask.clause, ask.sentence) and _ids(scope, found):
      return found
    open_ = [t for t in found if past or not over(t)] or found
    if len(open_) > 1 and not _MANY.search(scope) and not _apart(scope, open_):
      open_ = [t for t in open_ if not flown(t)] if not past else open_
    if len(open_) == 1 or _MANY.search(scope) or _apart(scope, open_):
      return list(open_)
    if not open_:
      return []
  ahead = [t for t in trips if not over(t)]
  for only in (list(trips), ahead):
    if len(only) == 1:
      return only
  return []


def _scopes(ask: asked.Ask, sentences: Sequence[str]) -> Iterator[str]:
  """What is said near to an ask, from its clause to the whole speech."""
  if ask.kind != "people":  # who comes tells nothing of the trip
    yield ask.clause
  yield ask.sentence
  low = [asked.plain(s) for s in sentences]
  yield "\n".join(low[max(0, ask.at - 1) : ask.at + 2])
  yield "\n".join(low)


def described(text: str, trips: Sequence[Trip]) -> list[Trip] | None:
  """Trips that fit a description; None where nothing describes one."""
  if by_id := _ids(text, trips):
    return by_id
  if re.search(r"\b(?:most recent|last|latest|recent) (?:reserv|flight|trip"
               r"|book)", text):  # fmt: skip
    return [max(trips, key=lambda t: t.get("created_at", ""))]
  left, told = list(trips), bool(_ALL.search(text))
  if ways := asked.routes(text):
    left, told = _on_ways(text, ways, left), True
  for fits in _FITS:
    if fits is _of_place and ways:
      continue
    for test in fits(text):
      if some := [t for t in left if test(t)]:
        told |= len(some) < len(trips)
        left = some
        break
  if not told:
    return None
  if _ALL.search(text):
    left = [t for t in left if not flown(t)] or left
  return left


def _ids(text: str, trips: Sequence[Trip]) -> list[Trip]:
  return [t for t in trips if t["reservation_id"].lower() in text]


def _on_ways(text: str, ways, trips: Sequence[Trip]) -> list[Trip]:
  """Trips between the ends; else round trips the other way; else legs.

  On the day that is named, where there is one on that day.
  """
  ends = lambda t, w: t["origin"] in w[0] and t["destination"] in w[1]
  tests: tuple[Callable[[Trip, Any], bool], ...] = (
    ends,
    lambda t, w: t["flight_type"] == "round_trip" and ends(t, (w[1], w[0])),
    lambda t, w: any(ends(f, w) for f in t["flights"]),
  )
  days = list(_of_day(text))
  out: list[Trip] = []
  for way in ways:
    on_day = lambda t: all(d(t) for d in days)
    fits = [(test, also) for also in (on_day, bool) for test in tests]
    for test, also in fits:
      if found := [t for t in trips
                   if test(t, way) and also(t) and t not in out]:  # fmt: skip
        out += found
        break
  return out


def _apart(text: str, trips: Sequence[Trip]) -> bool:
  """Each of the trips was named by a way of its own."""
  ways = asked.routes(text)
  return len(ways) > 1 and len(trips) <= len(ways)


Test = Callable[[Trip], bool]  # parts of a description, as tests in turn


def _of_day(text: str) -> Iterator[Test]:
  if named := set(asked.days(text)):
    yield lambda t: any(f["date"] in named for f in t["flights"])


def _of_flight(text: str) -> Iterator[Test]:
  named = set(re.findall(r"\bhat\d{3}\b", text))
  yield lambda t: any(f["flight_number"].lower() in named for f in t["flights"])


def _of_caller(text: str) -> Iterator[Test]:
  """The caller does not fly."""
  if re.search(
    r"\bother people\b|\bwithout me\b"
    r"|n't (?:\w+ )?(?:travel|fly|go)\w* (?:on\b|myself)",
    text,
  ):
    yield lambda t: t["user_id"].split("_")[0] not in _first_names(t)


def _of_number(text: str) -> Iterator[Test]:
  """How many fly."""
  if re.search(r"\bmore than one (?:passenger|person)", text):
    yield lambda t: ledger.seats(t) > 1
  elif m := re.search(
    r"\b(\d|one|two|three|four|five) (?:passengers?|people|of us)", text
  ):
    n = asked.number(m[1])
    yield lambda t: ledger.seats(t) == n


def _of_people(text: str) -> Iterator[Test]:
  """Who flies beside the caller."""
  words = set(re.findall(r"[a-z]+", text))
  yield lambda t: bool(words & (_first_names(t) - {t["user_id"].split("_")[0]}))


def _first_names(t: Trip) -> set[str]:
  return {p["first_name"].lower() for p in t["passengers"]}


def _of_booking(text: str) -> Iterator[Test]:
  """When it was bought."""
  made = r"\b(?:book|bought|buy|made|purchas|reserv|order)\w*\b[^.;\n]*"
  ago = r"\b(?:yesterday|last night|24 hours|today|a day)\b"
  if re.search(made + ago, text):
    yield lambda t: t.get("created_at", "") >= DAY_AGO


def _of_kind(text: str) -> Iterator[Test]:
  """Its cabin, or whether it goes there and back."""
  thing = r" (?:class )?(?:flights?|trips?|reserv\w+|bookings?|tickets?)\b"
  if m := re.search(rf"({asked.CABIN}){thing}", text):
    cabin = m[1].replace(" ", "_")
    yield lambda t: t["cabin"] == cabin
  elif m := re.search(r"\b(round|one)[- ](?:trip|way)\b", text):
    kind = m[1]
    yield lambda t: t["flight_type"].startswith(kind)


def _of_place(text: str) -> Iterator[Test]:
  """The one place that is named is where it goes, or where it begins."""
  to = re.findall(r"\b(?:to|in|for|visit\w*|reach) ([a-z]+(?: [a-z]+)?)", text)
  ends = {c for x in to for c in asked.places(x)}
  if named := ends or set(asked.places(text)):
    yield lambda t: t["destination"] in named
    yield lambda t: t["origin"] in named


_FITS = (
  _of_day, _of_flight, _of_caller, _of_number, _of_people, _of_booking,
  _of_kind, _of_place,
)  # fmt: skip
