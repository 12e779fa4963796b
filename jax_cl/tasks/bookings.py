"""Flights: what a caller wants, and what the airline policy makes of it.

Rules of language find the reservations that are meant and what shall become of
them; rules of the policy (tau2's airline `policy.md`, whose sections the
functions name) decide whether an agent may do it. The outcome are intents:
calls with their arguments, look-ups they need, and whether something must be
refused. They read `actions.State` alone and hold no word of any task; they are
features, and the scorer learns how far to trust them.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jax_cl.tasks import entities, ledger

NOW = "2024-05-15T15:00:00"  # the clock of tau2's airline policy
DAY_AGO = "2024-05-14T15:00:00"
Trip = Mapping[str, Any]  # a reservation, as its tool gives it

_COVERED = re.compile(r"\b(sick|ill|health|medical|doctor|hospital|weather)\b")
_VERB = re.compile(
  r"\b(cancel|change|modify|upgrade|downgrade|add|remove|book|move|push"
  r"|delay|compensat|reschedule|switch|refund)\w*"
)
_COUNT = {w: n for n, w in enumerate("no one two three four five six".split())}
_BAGS = re.compile(
  r"\badd(?:ing)?\b[^.]{0,30}?\b(\d|a|an|one|two|three|four|five)"
  r" (?:more |extra |additional )?(?:checked[ -])?"
  r"(?:in )?(?:bag|suitcase|baggage|luggage)"
)
_CABINS = r"\b(basic economy|economy|business)\b"
_CABIN = re.compile(
  r"\b(?:upgrad\w+|downgrad\w+|chang\w+|switch\w*|modify)\b[^.;?\n]*?" + _CABINS
)
_MOVE = re.compile(
  r"\b(chang\w+|push\w*|mov(?:e|ing)|delay|reschedul\w+|modify)\b[^.;?\n]*"
  r"\b(flights?|date|return|outgoing|outbound|trip|nonstop|day)\b"
)
_CAP = re.compile(
  r"\b(?:up to|less than|under|at most|below|budget of|maximum of"
  r"|not more than|no more than) \$?(\d+)"
)


class Wanted(NamedTuple):
  """A call that seems wanted and may be made, look-ups it needs first."""

  act: str
  values: Mapping[str, Any]
  look: tuple[str, Mapping[str, Any]] | None = None


class Plan(NamedTuple):
  wanted: tuple[Wanted, ...]
  denied: bool  # something was asked for that the policy forbids


def plan(state) -> Plan:
  """What the dialogue so far asks for, calls in the order to be made.

  Kept until something happens.
  """
  stamp = (state.turn, len(state.history))
  if state.memo.get("plan", (None,))[0] != stamp:
    state.memo["plan"] = (stamp, _plan(state))
  return state.memo["plan"][1]


def _plan(state) -> Plan:
  text = "\n".join(state.user_texts).lower().replace("\u2019", "'") + "\n"
  trips = [r for r in state.seen.records.values() if r.get("reservation_id")]
  out: list[Wanted] = []
  denied = False
  of_trips = (_changes, _passengers, _bags, _cancels, _gestures)
  for rule in (*(of_trips if trips else ()), _books):
    for item in rule(state, text, trips):
      if item is None:
        denied = True
      else:
        out.append(item)
  if denied and re.search(r"\b(don't|do not) make any\b", text):
    out = []
  return Plan(tuple(w for w in out if not _tried(state, w)), denied)


def _tried(state, w: Wanted) -> bool:
  for slot in ("reservation_id", "user_id"):
    if slot in w.values:
      used = state.used.get((w.act, slot), set())
      return entities.key_of(w.values[slot]) in used
  return False


# ------------------------------------------------------------ which reservation
def meant(text: str, trips: Sequence[Trip], verbs: str) -> list[Trip]:
  """Reservations that stand under one of the verbs, or under none.

  By their ids; else by route, flight number, "most recent", "all"; else the
  only one there is.
  """
  named = [
    t for t in trips
    for p in [text.find(t["reservation_id"].lower())]
    if p >= 0 and re.match(verbs, _verb_at(text, p) or verbs.split("|")[0])
  ]  # fmt: skip
  known = [t for t in trips if t["reservation_id"].lower() in text]
  if named or known:
    return named or (known if len(known) == 1 else [])
  if found := [t for t in trips if _on_route(text, t)]:
    return found
  numbers = set(re.findall(r"\bhat\d{3}\b", text))
  if found := [
    t for t in trips
    if numbers & {f["flight_number"].lower() for f in t["flights"]}
  ]:  # fmt: skip
    return found
  if found := _on_day_or_way(text, trips):
    return found
  if re.search(r"\b(most recent|last|latest|recent) (reserv|flight|trip|book)",
               text):  # fmt: skip
    return [max(trips, key=lambda t: t.get("created_at", ""))]
  if re.search(r"\ball (of )?(my|the)\b[^.]*\b(flight|reserv|trip)", text):
    return _counted(text, [t for t in trips if not flown(t)])
  return list(trips) if len(trips) == 1 else []


def _counted(text: str, trips: list[Trip]) -> list[Trip]:
  """ "Only those with one passenger"."""
  m = re.search(r"\b(\d|one|two|three) passengers?\b", text)
  if not m:
    return trips
  n = _number(m.group(1))
  return [t for t in trips if ledger.seats(t) == n]


def _verb_at(text: str, p: int) -> str:
  before = [m.group(1) for m in _VERB.finditer(text, 0, p)]
  return before[-1] if before else ""


def _on_route(text: str, t: Trip) -> bool:
  """Both ends are named, the origin first."""
  for a in _says(t["origin"]):
    for b in _says(t["destination"]):
      if re.search(rf"\b{a}\b(?:'s)?[^.]{{0,25}}\b(?:to|and|-)\s+{b}\b", text):
        return True
  return False


def _on_day_or_way(text: str, trips: Sequence[Trip]) -> list[Trip]:
  """The only trip to a place, or on a day, that was named."""
  there = [
    t for t in trips for b in _says(t["destination"])
    if re.search(rf"\b(?:flight|trip|fly|flying|going) to {b}\b", text)
  ]  # fmt: skip
  named = re.findall(r"\bmay (\d{1,2})(?:st|nd|rd|th)?\b", text)
  days = {f"{int(m):02d}" for m in named}
  then = [
    t for t in there or trips
    if any(f["date"][5:7] == "05" and f["date"][8:] in days
           for f in t["flights"])
  ]  # fmt: skip
  for found in (then, there):
    if len(found) == 1:
      return found
  return []


def _says(airport: str) -> tuple[str, ...]:
  return (airport.lower(), *entities.CITIES.get(airport, ()))


def _number(word: str) -> int:
  return int(word) if word.isdigit() else _COUNT.get(word, 1)


def flown(t: Trip) -> bool:
  return any(f["date"] < NOW[:10] for f in t["flights"])


# -------------------------------------------------------------- Cancel flight
def _cancels(state, text: str, trips) -> Iterator[Wanted | None]:
  if not re.search(r"\bcancel(?!led|lation|ed)", text):
    return
  for t in meant(text, trips, "cancel"):
    if t.get("status") == "cancelled":
      continue
    yield _cancel(t) if cancellable(t, text) else None


def _cancel(t: Trip) -> Wanted:
  return Wanted("cancel_reservation", {"reservation_id": t["reservation_id"]})


def cancellable(t: Trip, text: str) -> bool:
  """Nothing flown yet, and one of: booked within 24 hours, cancelled by the
  airline, business, insured for a covered reason.
  """
  return not flown(t) and (
    t.get("created_at", "") > DAY_AGO
    or t.get("status") == "cancelled"
    or t.get("cabin") == "business"
    or (t.get("insurance") == "yes" and bool(_COVERED.search(text)))
  )


# -------------------------------------------------- Refunds and Compensation
def _gestures(state, text: str, trips) -> Iterator[Wanted | None]:
  """A certificate for a cancelled or delayed flight, the facts confirmed."""
  if not re.search(r"\bcompensat|\bvoucher|\bcertificate for\b", text):
    return
  what = re.search(r"\b(delayed|cancell?ed)\b", text)
  if not what:
    yield None
    return
  kind = "delayed" if what.group() == "delayed" else "cancelled"
  rate = ledger.GESTURES[kind]
  any_meant = False
  for t in _complained(text, trips):
    user = state.seen.records.get(t["user_id"], {})
    any_meant = True
    if not (
      user.get("membership") in ("silver", "gold")
      or t.get("insurance") == "yes" or t.get("cabin") == "business"
    ):  # fmt: skip
      yield None
      continue
    look = _unknown_status(state, text, t)
    if look is None and not _confirmed(state, t, kind):
      yield None
      continue
    values = {"user_id": t["user_id"], "amount": rate * ledger.seats(t)}
    yield Wanted("send_certificate", values, look)
  if not any_meant:
    yield None


def _complained(text: str, trips) -> list[Trip]:
  """The trip a complaint is about: "the most recent" is one under way."""
  begun = [t for t in trips if t["flights"][0]["date"] <= NOW[:10]]
  if re.search(r"\b(most recent|last|latest) (reserv|flight|trip)", text):
    if begun:
      return [max(begun, key=lambda t: t["flights"][0]["date"])]
  return meant(text, trips, "compensat|delay|cancel|change")


def _legs(text: str, t: Trip) -> list[Mapping[str, Any]]:
  """Flights of a trip that a complaint may be about."""
  named = [f for f in t["flights"] if f["flight_number"].lower() in text]
  return named or list(t["flights"])


def _statuses(state, t: Trip, text: str) -> dict[str, str]:
  return {
    k: v for f in _legs(text, t)
    for k in [f"{f['flight_number']} {f['date']}"]
    for v in [state.seen.flight_status.get(k)] if v
  }  # fmt: skip


def _unknown_status(state, text: str, t: Trip):
  if t.get("status") == "cancelled":
    return None
  known = _statuses(state, t, text)
  if any(v in ("delayed", "cancelled") for v in known.values()):
    return None
  for f in _legs(text, t):
    if f"{f['flight_number']} {f['date']}" not in known:
      values = {"flight_number": f["flight_number"], "date": f["date"]}
      return "get_flight_status", values
  return None


def _confirmed(state, t: Trip, kind: str) -> bool:
  if kind == "cancelled" and t.get("status") == "cancelled":
    return True
  text = "\n".join(state.user_texts).lower()
  return kind in _statuses(state, t, text).values()


# -------------------------------------------------------------- Modify flight
def _bags(state, text: str, trips) -> Iterator[Wanted | None]:
  """Bags can be added, not removed; membership and cabin say what is free."""
  m = _BAGS.search(text)
  if not m:
    return
  n = 1 if m.group(1) in ("a", "an") else _number(m.group(1))
  for t in meant(text, trips, "add|change|upgrade|push|move")[:1]:
    first = state.seen.first[t["reservation_id"]]
    total = first.get("total_baggages", 0) + n
    user = state.seen.records.get(t["user_id"], {})
    free = ledger.free_bags(
      user.get("membership", ""), t.get("cabin", ""), ledger.seats(t)
    )
    paid = max(total - free, first.get("nonfree_baggages", 0), 0)
    values = {
      "reservation_id": t["reservation_id"], "total_baggages": total,
      "nonfree_baggages": paid,
    }  # fmt: skip
    yield Wanted("update_reservation_baggages", values)


def _passengers(state, text: str, trips) -> Iterator[Wanted | None]:
  """They may be changed, their number may not."""
  if re.search(r"\bremove (the )?passenger|\badd (a|another) passenger", text):
    yield None
    return
  act = "update_reservation_passengers"
  swap = re.search(r"\b(?:from|of) ([a-z]+) ([a-z]+) to ([a-z]+) ([a-z]+)\b",
                   text)  # fmt: skip
  own = re.search(r"\bpassenger\w*( name)? to (myself|yourself|me)\b", text)
  if not own and not (swap and re.search(r"\bname\b|\bpassenger", text)):
    return
  verbs = "change|modify|upgrade|add"
  for t in _with(swap, state, text, trips) or meant(text, trips, verbs)[:1]:
    people = [dict(p) for p in t["passengers"]]
    if own and len(people) == 1:
      user = state.seen.records.get(t["user_id"], {})
      people = [{**user.get("name", {}), "dob": user.get("dob")}]
    elif swap:
      for p in people:
        if _name(p) == swap.groups()[:2]:
          p["first_name"], p["last_name"] = (
            w.title() for w in swap.groups()[2:]
          )
    if people != list(t["passengers"]):
      yield Wanted(
        act, {"reservation_id": t["reservation_id"], "passengers": people}
      )


def _name(passenger: Mapping[str, Any]) -> tuple[str, str]:
  return passenger["first_name"].lower(), passenger["last_name"].lower()


def _with(swap, state, text: str, trips) -> list[Trip]:
  """The trip of the passenger who was named, where no trip was."""
  if not swap or any(t["reservation_id"].lower() in text for t in trips):
    return []
  first = [state.seen.first[t["reservation_id"]] for t in trips]
  return [
    t for t in first
    if not flown(t) and swap.groups()[:2] in map(_name, t["passengers"])
  ][:1]  # fmt: skip


def _changes(state, text: str, trips) -> Iterator[Wanted | None]:
  """Another cabin, other flights, or both in one call."""
  cabin = _new_cabin(text)
  moves = _moves(text)
  if not cabin and not moves:
    return
  verbs = "change|upgrade|downgrade|modify|push|move|delay|switch|reschedule"
  for t in meant(text, trips, verbs)[:1]:
    t = state.seen.first[t["reservation_id"]]
    new = cabin or t["cabin"]
    if flown(t) or (moves and t["cabin"] == "basic_economy"):
      yield None
    elif moves:
      yield from _within(text, t, _reroute(state, text, t, new), state)
    elif new != t["cabin"]:
      yield _recabin(state, text, t, new)


def _new_cabin(text: str) -> str:
  """ "From economy to business" is business; "" where none is named."""
  m = _CABIN.search(text)
  if not m:
    return ""
  clause = re.split(r"[.;?\n]", text[m.start() :])[0]
  goal = re.search(r"\b(?:to|into|in) (?:a |the |full )?" + _CABINS, clause)
  return (goal or m).group(1).replace(" ", "_")


def _within(text: str, t: Trip, calls, state) -> Iterator[Wanted | None]:
  """Calls whose look-ups are open, or whose price is within the budget."""
  cap = _CAP.search(text)
  for w in calls:
    if w is None or w.look or not cap:
      yield w
      continue
    fare = sum(
      _price(state, t, f, w.values["cabin"]) for f in w.values["flights"]
    )
    extra = fare * ledger.seats(t) - ledger.fare(t)
    yield w if extra <= float(cap.group(1)) else None


def _price(state, t: Trip, leg: Mapping[str, Any], cabin: str) -> float:
  """Of a flight on offer, else what it cost in the trip."""
  offer = state.seen.offers.get((leg["flight_number"], leg["date"]))
  if offer is not None:
    return offer["prices"][cabin]
  own = [f["price"] for f in t["flights"]
         if f["flight_number"] == leg["flight_number"]]  # fmt: skip
  return own[0] if own else 0.0


def _moves(text: str) -> bool:
  """Other flights or dates are wanted, not just another cabin."""
  return any(
    re.search(r"\b(day|date|nonstop|non-stop|direct|fastest|cheapest|back"
              r"|earlier|later|out)\b", m.group())
    for s in text.split("\n") for m in [_MOVE.search(s)] if m
  )  # fmt: skip


def _call(t: Trip, cabin: str, flights, look=None) -> Wanted:
  values = {"reservation_id": t["reservation_id"], "cabin": cabin,
            "flights": _numbers(flights)}  # fmt: skip
  return Wanted("update_reservation_flights", values, look)


def _numbers(flights) -> list[dict[str, str]]:
  """Flights as the tools take them."""
  return [
    {"flight_number": f["flight_number"], "date": f["date"]} for f in flights
  ]


def _recabin(state, text: str, t: Trip, cabin: str) -> Wanted | None:
  """The same flights in another cabin, if it is within the named budget."""
  cap = _CAP.search(text)
  if cap:
    extra = 0.0
    for f in t["flights"]:
      offer = state.seen.offers.get((f["flight_number"], f["date"]))
      if offer is None:
        where = {"origin": f["origin"], "destination": f["destination"],
                 "date": f["date"]}  # fmt: skip
        if _searched(state, "search_direct_flight", where):
          continue
        return _call(t, cabin, t["flights"], ("search_direct_flight", where))
      extra += offer["prices"][cabin] - f["price"]
    if extra * ledger.seats(t) > float(cap.group(1)):
      return None
  return _call(t, cabin, t["flights"])


def _offers(state, tools, where: Mapping[str, Any]):
  """(the first search that was not made, else None; what was found)."""
  for tool in tools:
    if not _searched(state, tool, where):
      return (tool, where), []
  key = entities.key_of(dict(where))
  return None, [
    x for tool in tools for x in state.seen.searches.get((tool, key), ())
  ]  # fmt: skip


def _searched(state, tool: str, where: Mapping[str, Any]) -> bool:
  return (tool, entities.key_of(dict(where))) in state.history


# ---------------------------------------------------------------- new flights
def _reroute(state, text: str, t: Trip, cabin: str) -> Iterator[Wanted | None]:
  """New flights for a part of the trip, the rest kept."""
  out, back = _halves(t)
  parts = [out, back]
  for k, part in enumerate(parts):
    if not part or not _concerned(text, t, k, bool(back)):
      continue
    date = _new_date(text, part, out, k)
    origin, end = part[0]["origin"], part[-1]["destination"]
    where = {"origin": origin, "destination": end, "date": date}
    direct = re.search(r"\b(nonstop|non-stop|direct flight)", text)
    look, offers = _offers(state, SEARCHES[: 1 if direct else 2], where)
    if look:
      yield _call(t, cabin, [*out, *back], look)
      return
    best = choose(offers, text, cabin, ledger.seats(t))
    if best is None:
      yield None
      return
    parts[k] = best
  flights = [*parts[0], *parts[1]]
  if [f["flight_number"] for f in flights] != [
    f["flight_number"] for f in t["flights"]
  ] or [f["date"] for f in flights] != [f["date"] for f in t["flights"]]:
    yield _call(t, cabin, flights)


SEARCHES = ("search_direct_flight", "search_onestop_flight")


def _halves(t: Trip) -> tuple[list, list]:
  """Outbound and return flights."""
  flights = list(t["flights"])
  for i, f in enumerate(flights):
    if f["destination"] == t["destination"]:
      return flights[: i + 1], flights[i + 1 :]
  return flights, []


def _concerned(text: str, t: Trip, k: int, round_trip: bool) -> bool:
  """Whether the outbound (0) or the return (1) part is to change."""
  if not round_trip:
    return k == 0
  back = re.search(r"\breturn\w*\b", text)
  out = re.search(r"\b(outgoing|outbound|departing|departure) (flight|trip)",
                  text)  # fmt: skip
  if not back and not out:
    return k == 0
  return bool(back if k else out)


def _new_date(text: str, part, out, k: int) -> str:
  date = part[0]["date"]
  if k and re.search(r"\bsame day as the depart", text):
    return out[0]["date"]
  m = re.search(r"\bto (?:may|june|april) (\d{1,2})\b", text)
  if m:
    return f"{date[:8]}{int(m.group(1)):02d}"
  m = re.search(r"\b(\d|one|two|three) days? (?:out|later|after)\b"
                r"|\bout (\d|one|two|three) days?\b"
                r"|\bby (\d|one|two|three) days?\b", text)  # fmt: skip
  if m:
    return shifted(date, _number(next(g for g in m.groups() if g)))
  if re.search(r"\b(next day|day after|following day)\b", text):
    return shifted(date, 1)
  return date


# ---------------------------------------------------------------- Book flight
_BOOK = re.compile(r"\b(?:want|like|need|trying|looking) to (?:fly|book)\b")


def _books(state, text: str, trips) -> Iterator[Wanted | None]:
  """A new booking, there and back, by the flights of `choose`."""
  users = [r for r in state.seen.records.values() if "payment_methods" in r]
  ways = _journey(state, text)
  if not ways or not users:
    return
  people = _travellers(state, users[0])
  cabin = re.search(_CABINS, text)
  cabin = cabin.group(1).replace(" ", "_") if cabin else "economy"
  flights = []
  for where in ways:
    look, offers = _offers(state, SEARCHES, where)
    if look:
      yield Wanted("book_reservation", {}, look)
      return
    best = choose(offers, text, cabin, len(people))
    if best is None:
      yield None
      return
    flights += best
  values = {
    "origin": ways[0]["origin"], "destination": ways[0]["destination"],
    "flight_type": "round_trip" if len(ways) > 1 else "one_way",
    "cabin": cabin, "flights": _numbers(flights), "passengers": people,
    **_extras(text, users[0], cabin, flights, len(people)),
  }  # fmt: skip
  yield Wanted("book_reservation", values)


def _journey(state, text: str) -> list[dict[str, str]]:
  """Arguments of a search for each way to be flown."""
  said = _BOOK.search(text)
  route = _route(text[said.start() :]) if said else None
  dates = [e.value for e in state.seen.of("date")
           if e.source == "user" and e.value >= NOW[:10]]  # fmt: skip
  if not route or not dates:
    return []
  back = bool(re.search(r"\bround[- ]trip\b", text)) and len(dates) > 1
  ways = [(*route, dates[0]), (*route[::-1], dates[-1])][: 1 + back]
  return [
    {"origin": a, "destination": b, "date": day} for a, b, day in ways
  ]  # fmt: skip


def _extras(
  text: str, user: Mapping[str, Any], cabin: str, flights, n: int
) -> dict[str, Any]:
  """Bags beyond the allowance, insurance, and shares of the whole price."""
  m = re.search(r"\b(\d|no|one|two|three|four) (?:checked )?"
                r"(?:bag|suitcase|baggage|luggage)", text)  # fmt: skip
  bags = _number(m.group(1)) if m else 0
  paid = max(bags - ledger.free_bags(user.get("membership", ""), cabin, n), 0)
  insured = bool(re.search(r"(?<!not )\b(want|buy|add|need) (the )?(travel )?"
                           r"insurance", text))  # fmt: skip
  fare = sum(f["prices"][cabin] for f in flights)
  price = n * (fare + ledger.INSURANCE_FEE * insured) + ledger.BAG_FEE * paid
  return {
    "user_id": user["user_id"], "total_baggages": bags,
    "nonfree_baggages": paid, "insurance": "yes" if insured else "no",
    "payment_methods": _shares(text, user, price),
  }  # fmt: skip


def _route(text: str) -> tuple[str, str] | None:
  """ "From New York to Seattle": the first airport of each city."""
  names: dict[str, str] = {}
  for code in entities.CITIES:
    for name in _says(code):
      names.setdefault(name, code)
  known = "|".join(sorted(names, key=len, reverse=True))
  m = re.search(rf"\bfrom ({known})\b.{{0,20}}?\bto ({known})\b", text)
  return (names[str(m[1])], names[str(m[2])]) if m else None


def _travellers(state, user: Mapping[str, Any]) -> list[dict[str, Any]]:
  """The caller, then those whose names and birthdays were told."""
  own = {**user.get("name", {}), "dob": user.get("dob")}
  told = [e.value for e in state.seen.of("passenger") if e.source == "user"]
  return [own, *(p for p in told if p != own)]


def _shares(text: str, user: Mapping[str, Any], price: float) -> list[Any]:
  """At most one certificate, gift cards, then a card: those that were named.

  Of several certificates the largest. The card is the one whose last digits
  were said, else the first.
  """
  methods = list(user["payment_methods"].values())
  kinds = {k: [m for m in methods if m["source"] == k]
           for k in ("certificate", "gift_card", "credit_card")}  # fmt: skip
  kinds["certificate"].sort(key=lambda m: -ledger.balance(m))
  kinds["credit_card"].sort(key=lambda m: m.get("last_four", "-") not in text)
  order = kinds["certificate"][: "certificate" in text]
  order += kinds["gift_card"] if "gift card" in text else []
  return ledger.split(price, order + kinds["credit_card"][:1])


def shifted(date: str, days: int) -> str:
  day = datetime.date.fromisoformat(date) + datetime.timedelta(days=days)
  return day.isoformat()


def choose(offers, text: str, cabin: str, seats: int):
  """The itinerary that fits what was said, the cheapest of those that do.

  An itinerary is a list of flights of one way. Free seats for all, hours that
  were named, direct before others where it is preferred, the fastest if asked.
  """
  fit = [
    x for x in offers
    if all(f["available_seats"][cabin] >= seats for f in x)
    and _in_hours(text, x)
  ]  # fmt: skip
  if not fit:
    return None
  price = lambda x: sum(f["prices"][cabin] for f in x)
  if "fastest" in text:
    return min(fit, key=lambda x: (_hours(x), price(x)))
  prefers = re.search(r"\bprefer (direct|nonstop)", text)
  return min(fit, key=lambda x: (len(x) > 1 if prefers else 0, price(x)))


def _clock(text: str, words: str) -> int | None:
  m = re.search(rf"\b{words} (\d{{1,2}}) ?(am|pm)\b", text)
  if not m:
    return None
  return int(m.group(1)) % 12 + 12 * (m.group(2) == "pm")


def _in_hours(text: str, x) -> bool:
  """Every flight departs within the hours that were named."""
  first = _clock(text, "(?:after|before|earlier than)") if re.search(
    r"\bnot\b[^.]*\bbefore\b", text) else _clock(text, "after")  # fmt: skip
  last = None
  if not re.search(r"\bnot\b[^.]*\bbefore\b", text):
    last = _clock(text, "before")
  hours = [int(f["scheduled_departure_time_est"][:2]) for f in x]
  return all(
    (first is None or h >= first) and (last is None or h < last) for h in hours
  )


def _hours(x) -> float:
  """From the first departure to the last arrival."""
  start = _moment(x[0]["date"], x[0]["scheduled_departure_time_est"])
  return (
    _moment(x[-1]["date"], x[-1]["scheduled_arrival_time_est"]) - start
  ).total_seconds() / 3600


def _moment(date: str, clock: str) -> datetime.datetime:
  clock, _, later = clock.partition("+")
  time = datetime.datetime.fromisoformat(f"{date}T{clock}")
  return time + datetime.timedelta(days=int(later or 0))
