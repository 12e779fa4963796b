"""Flights on offer: the searches that are needed, and which one fits best.

What was said of a way narrows the offers (hours, nonstop, free seats for all)
and ranks them (earliest, fastest, cheapest). Searches that were not made yet
are asked for first.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jax_cl.tasks import entities, ledger
from jax_cl.tasks.language import asked

DIRECT = "search_direct_flight"
SEARCHES = (DIRECT, "search_onestop_flight")
Look = tuple[str, Mapping[str, Any]]
_NONSTOP = re.compile(r"\b(nonstop|direct)\b")
_MAYBE = re.compile(
  r"\bprefer\w* (?:a |for )?(?:direct|nonstop)|\b(?:direct|nonstop)\b[^.\n]*"
  r"\bor (?:not|with)\b|\b(?:stop\w*|layover)\b[^.\n]*\b(?:fine|ok|okay)\b"
)
_BACK = re.compile(r"\b(?:return\w*|way back|way home|(?:com|fly|go|gett)\w*"
                   r" (?:back|home)|flight (?:back|home))\b")  # fmt: skip
_OUT = re.compile(
  r"\b(?:out(?:going|bound)|way (?:out|there)|depart(?:ing|ure) (?:flight|trip)"
  r"|first (?:leg|part)|flight out|(?:leave|depart) on)\b"
)
_BOTH = re.compile(r"\bboth (?:legs|ways|directions|flights|dates)\b")
_KEPT = re.compile(
  r"\b(?:stay|stays|keep|kept|remain|unchanged|untouched|as planned|as is"
  r"|as booked)\b"
)


def numbers(flights) -> list[dict[str, str]]:
  """Flights as the tools take them."""
  return [
    {"flight_number": f["flight_number"], "date": f["date"]} for f in flights
  ]


def searched(state, tool: str, where: Mapping[str, Any]) -> bool:
  return (tool, entities.key_of(dict(where))) in state.history


def offers(state, tools, where: Mapping[str, Any]):
  """(the first search that was not made, else None; what was found)."""
  for tool in tools:
    if not searched(state, tool, where):
      return (tool, where), []
  key = entities.key_of(dict(where))
  return None, [
    x for tool in tools for x in state.seen.searches.get((tool, key), ())
  ]  # fmt: skip


def find(state, text: str, where, cabin: str, seats: int, k: int):
  """(the itinerary that fits best or None, a search to be made or None).

  `k`: 0 on the way out, 1 on the way back.
  """
  said = part(text, k)
  direct = _NONSTOP.search(said) and not _MAYBE.search(said)
  look, found = offers(state, SEARCHES[: 1 if direct else 2], where)
  if look:
    return None, look
  return choose(found, said, cabin, seats), None


def part(text: str, k: int) -> str:
  """What was said of one way: clauses about the other are left out."""
  other, mine = (_OUT, _BACK) if k else (_BACK, _OUT)
  clauses = _WAYS.split(text)
  return "\n".join(c for c in clauses if mine.search(c) or not other.search(c))


_WAYS = re.compile(  # "leave on the 25th and return on the 29th"
  r"(?<=[.;])\s|\n|;|,(?= on the way)|\band (?=return|com|fly|go|get)"
)


# ---------------------------------------------------------------- new flights
def reroute(
  state, text: str, moves: Sequence[asked.Ask], t: Mapping[str, Any], cabin: str
) -> Iterator[tuple[list[dict[str, str]] | None, Look | None]]:
  """(flights, search to be made): new ones for a part, the rest kept."""
  out, back = halves(t)
  parts = [out, back]
  for k, old in enumerate(parts):
    if not old or not _concerned(text, moves, parts, k):
      continue
    date = new_date(text, moves, parts, k)
    if date == old[0]["date"] and not _OTHER.search(text):
      continue  # a day was named that it flies on already
    if re.search(r"\bsame (?:flight )?(?:numbers?|flights?)\b", text):
      parts[k] = [{**f, "date": _moved(f, old, date)} for f in old]
      if look := _unseen(state, parts[k]):
        yield numbers([*out, *back]), look
        return
      continue
    where = {"origin": old[0]["origin"], "destination": old[-1]["destination"],
             "date": date}  # fmt: skip
    best, look = find(state, text, where, cabin, ledger.seats(t), k)
    if look:
      yield numbers([*out, *back]), look
      return
    if best is None:
      yield None, None
      return
    parts[k] = best
  new = numbers([*parts[0], *parts[1]])
  if new != numbers(t["flights"]):
    yield new, None


_OTHER = re.compile(  # another flight of the same day
  r"\b(?:nonstop|direct|earli\w+|later|latest|fast\w+|quick\w+|short\w+"
  r"|cheap\w+|another|different|morning|afternoon|evening|same day)\b"
)


def _unseen(state, flights) -> Look | None:
  """A search that shows the first of the flights that is not on offer."""
  for f in flights:
    where = {k: f[k] for k in ("origin", "destination", "date")}
    if (f["flight_number"], f["date"]) not in state.seen.offers:
      if not searched(state, DIRECT, where):
        return DIRECT, where
  return None


def _moved(f: Mapping[str, Any], old, date: str) -> str:
  day = datetime.date.fromisoformat
  return (day(f["date"]) + (day(date) - day(old[0]["date"]))).isoformat()


def halves(t: Mapping[str, Any]) -> tuple[list, list]:
  """Outbound and return flights."""
  flights = list(t["flights"])
  for i, f in enumerate(flights):
    if f["destination"] == t["destination"]:
      return flights[: i + 1], flights[i + 1 :]
  return flights, []


def _concerned(text: str, moves: Sequence[asked.Ask], parts, k: int) -> bool:
  """Whether the outbound (0) or the return (1) part is to change."""
  if not parts[1]:
    return k == 0
  said = "\n".join(
    c for c in re.split(r"[.;,]\s|\n", text) if not _KEPT.search(c)
  )
  said = re.sub(r"\bsame day as [^.,\n]*", "", said)
  if _BOTH.search(said):
    return True
  there = (parts[0][0]["origin"], parts[0][-1]["destination"])
  out = _OUT.search(said) or any(
    there[0] in a and there[1] in b
    for ask in moves
    if not _BACK.search(ask.clause)
    for a, b in asked.routes(ask.clause)
  )
  back = _BACK.search(said)
  if not back and not out:
    days = set(asked.days("\n".join(a.sentence for a in moves)))
    of = [bool(days & {f["date"] for f in part}) for part in parts]
    return of[k] if any(of) else k == 0
  return bool(back if k else out)


def new_date(text: str, moves: Sequence[asked.Ask], parts, k: int) -> str:
  """The day that is wanted: named, or some days before or after."""
  date = parts[k][0]["date"]
  if k and re.search(r"\bsame day as the depart", text):
    return parts[0][0]["date"]
  near = "\n".join(a.sentence for a in moves)
  own = {f["date"] for part in parts for f in part}
  mine = "\n".join(
    c for c in _WAYS.split(near) if (_BACK if k else _OUT).search(c)
  )
  for scope in (mine, part(near, k), near, text):
    goal = re.findall(r"\b(?:to|on|for) (may \d+|the \d+(?:st|nd|rd|th))",
                      scope)  # fmt: skip
    for day in (*asked.days(" ".join(goal)), *asked.days(scope)):
      if day not in own:
        return day
  back = -1 if re.search(r"\b(?:earlier|sooner|before|forward)\b", near) else 1
  n = rf"\b({asked.NUMBER})(?: more)? days?\b"
  if m := re.search(n, near) or re.search(n, text):
    return shift(date, back * asked.number(m[1]))
  if re.search(r"\b(next day|day after|following day|day later)\b", text):
    return shift(date, 1)
  if re.search(r"\b(day before|previous day|day earlier)\b", text):
    return shift(date, -1)
  return date


def shift(date: str, days: int) -> str:
  day = datetime.date.fromisoformat(date) + datetime.timedelta(days=days)
  return day.isoformat()


# ------------------------------------------------------------------ the choice
def choose(found, text: str, cabin: str, seats: int):
  """The itinerary that fits what was said, the cheapest of those that do.

  An itinerary is a list of flights of one way. Free seats for all, hours that
  were named, direct before others where it is preferred; the earliest or the
  fastest if asked.
  """
  fit = [
    x for x in found
    if all(f["available_seats"][cabin] >= seats for f in x)
    and _in_hours(text, x)
  ]  # fmt: skip
  if not fit:
    return None
  price = lambda x: sum(f["prices"][cabin] for f in x)
  rank = lambda x: (price(x),)
  if re.search(r"\b(?:fastest|shortest|quickest)\b", text):
    rank = lambda x: (_hours(x), price(x))
  elif re.search(r"\barriv\w*\b[^.\n]*\b(?:earl\w+|soon\w*)|\bearliest arriv",
                 text):  # fmt: skip
    rank = lambda x: (_end(x), price(x))
  elif re.search(r"\b(?:earliest|first) (?:\w+ )?(?:flight|one|departure)|"
                 r"\bas early as\b", text):  # fmt: skip
    rank = lambda x: (_start(x), price(x))
  elif re.search(r"\b(?:latest|last) (?:flight|one|departure) (?:of|on|that)",
                 text):  # fmt: skip
    rank = lambda x: (-_start(x).timestamp(), price(x))
  prefers = re.search(r"\bprefer\w* (?:a |for )?(?:direct|nonstop)", text)
  return min(fit, key=lambda x: (len(x) > 1 if prefers else 0, *rank(x)))


_HOUR = (
  r"(\d{1,2})(?::\d\d)? ?(am|pm|a\.m\.|p\.m\.|in the (?:morning|afternoon"
  r"|evening)|o'clock)?|(noon|midday)"
)
_SPANS = {"morning": (0, 12), "afternoon": (12, 18), "evening": (17, 24)}


def _clock(text: str, words: str) -> int | None:
  m = re.search(rf"\b(?:{words}) (?:{_HOUR})(?!\d)(?! days?| may)", text)
  if not m or (m[1] is None and m[2] is None and m[3] is None):
    return None
  if m[3]:
    return 12
  late = m[2] and ("p" == m[2][0] or "afternoon" in m[2] or "evening" in m[2])
  if not m[2] and int(m[1]) > 24:
    return None
  return int(m[1]) % 12 + 12 if late else int(m[1])


def hours(text: str) -> tuple[int, int]:
  """[first, last) hour of departure that the speech allows."""
  first, last = 0, 24
  for s in re.split(r"[.\n;]", text):
    avoid = re.search(r"n't\b|\bnot\b|\bno\b|\bnever\b", s)
    at = _clock(s, "before|earlier than|prior to|until|by")
    if at is not None:
      first, last = (max(first, at), last) if avoid else (first, min(last, at))
    at = _clock(s, "after|later than|from|past")
    if at is not None:
      first, last = (first, min(last, at)) if avoid else (max(first, at), last)
    for word, (a, b) in _SPANS.items():
      if re.search(rf"\b(?:in|leav\w+|depart\w*|fl\w+)\b[^.]*\b{word}", s):
        if not re.search(rf"\d in the {word}", s) and not avoid:
          first, last = max(first, a), min(last, b)
  return first, last


def _in_hours(text: str, x) -> bool:
  """Every flight departs within the hours that were named."""
  first, last = hours(text)
  return all(
    first <= int(f["scheduled_departure_time_est"][:2]) < last for f in x
  )


def _start(x) -> datetime.datetime:
  return _moment(x[0]["date"], x[0]["scheduled_departure_time_est"])


def _end(x) -> datetime.datetime:
  return _moment(x[-1]["date"], x[-1]["scheduled_arrival_time_est"])


def _hours(x) -> float:
  """From the first departure to the last arrival."""
  return (_end(x) - _start(x)).total_seconds() / 3600


def _moment(date: str, clock: str) -> datetime.datetime:
  clock, _, later = clock.partition("+")
  time = datetime.datetime.fromisoformat(f"{date}T{clock}")
  return time + datetime.timedelta(days=int(later or 0))
