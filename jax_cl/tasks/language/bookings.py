"""Flights: what a caller asks for, and what the airline policy makes of it.

Rules of language (`asked`, `trips`) find what is asked for, and of which
reservation; rules of the policy (tau2's airline `policy.md`, whose sections
the functions name) decide whether an agent may do it. The outcome are intents:
calls with their arguments, look-ups they need, and whether something must be
refused. They read `actions.State` alone and hold no word of any task; they are
features, and the scorer learns how far to trust them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from jax_cl.tasks import entities, ledger
from jax_cl.tasks.language import asked, itineraries
from jax_cl.tasks.language.trips import (
  DAY_AGO,
  NOW,
  Trip,
  described,
  flown,
  meant,
)

_COVERED = re.compile(
  r"\b(sick\w*|ill|illness|unwell|flu|fever|covid|pneumonia|injur\w+"
  r"|broke (?:my|his|her)|surgery|health|medical|doctor\w*|hospital\w*"
  r"|diagnos\w*|disease|heart|feel\w* (?:\w+ )?well|weather|storms?\w*"
  r"|hurricane|blizzard|snow\w*|flood\w*|tornado)\b"
)


class Wanted(NamedTuple):
  """A call that seems wanted and may be made, look-ups it needs first."""

  act: str
  values: Mapping[str, Any]
  look: tuple[str, Mapping[str, Any]] | None = None


class Plan(NamedTuple):
  wanted: tuple[Wanted, ...]
  denied: bool  # something was asked for that the policy forbids


class Call(NamedTuple):
  """What the rules of the policy read."""

  state: Any
  text: str  # the whole speech, a sentence a line
  trips: list[Trip]
  asks: list[asked.Ask]

  def of(self, *kinds: str) -> list[asked.Ask]:
    return [a for a in self.asks if a.kind in kinds]

  def about(
    self, *kinds: str, past: bool = False
  ) -> list[tuple[asked.Ask, Trip]]:
    """Asks of these kinds, each with the trips it is about, none twice."""
    out: dict[str, tuple[asked.Ask, Trip]] = {}
    for a in self.of(*kinds):
      for t in meant(a, self.state.user_texts, self.trips, past):
        out.setdefault(t["reservation_id"], (a, t))
    return list(out.values())

  def user(self, t: Trip) -> Mapping[str, Any]:
    return self.state.seen.records.get(t["user_id"], {})


Outcome = Iterator[Wanted | None]  # None: what the policy forbids


def plan(state) -> Plan:
  """What the dialogue so far asks for, calls in the order to be made.

  Kept until something happens.
  """
  stamp = (state.turn, len(state.history))
  if state.memo.get("plan", (None,))[0] != stamp:
    state.memo["plan"] = (stamp, _plan(state))
  return state.memo["plan"][1]


def _plan(state) -> Plan:
  text = asked.joined(state.user_texts)
  trips = [r for r in state.seen.records.values() if r.get("reservation_id")]
  asks = asked.asks(state.user_texts)
  asks = _not_of_booking(Call(state, text, trips, asks))
  first = [a for a in asks if not a.fallback]
  out, denied = _judged(Call(state, text, trips, first))
  if denied and len(first) < len(asks):
    done = {_about(w) for w in out}
    second = [a for a in asks if a.fallback]
    if any(a.kind == "cabin" for a in second):  # the flights, in that cabin
      second += [a for a in first if a.kind == "move"]
    more, _ = _judged(Call(state, text, trips, second))
    out += [w for w in more if _about(w) not in done]
  if denied and re.search(r"\b(don't|do not) make any\b", text):
    out = []
  return Plan(tuple(w for w in out if not _tried(state, w)), denied)


def _not_of_booking(call: Call) -> list[asked.Ask]:
  """Asks without those that only say what a new booking shall be like."""
  ways = [a for a in call.of("book") if _new_way(call, a)]
  if not ways:
    return call.asks
  near = {a.at for a in ways}
  return [
    a for a in call.asks
    if a.kind in ("book", "cancel", "gesture")
    or (a.at not in near and described(a.sentence, call.trips))
  ]  # fmt: skip


def _judged(call: Call) -> tuple[list[Wanted], bool]:
  of_trips = (_changes, _passengers, _bags, _cancels, _gestures, _forbidden)
  rules: tuple[Callable[[Call], Outcome], ...] = (
    *(of_trips if call.trips else ()), _books,
  )  # fmt: skip
  found = [x for rule in rules for x in rule(call)]
  return [w for w in found if w is not None], None in found


def _about(w: Wanted) -> tuple[str, str]:
  return w.act, str(w.values.get("reservation_id", w.values.get("user_id")))


def _tried(state, w: Wanted) -> bool:
  for slot in ("reservation_id", "user_id"):
    if slot in w.values:
      used = state.used.get((w.act, slot), set())
      return entities.key_of(w.values[slot]) in used
  return False


# -------------------------------------------------------------- Cancel flight
def _cancels(call: Call) -> Outcome:
  for _, t in call.about("cancel"):
    if t.get("status") == "cancelled":
      continue
    if cancellable(call, t):
      yield _cancel(t)
    elif _DROPPED.search(call.text) and (look := _unknown_status(call, t)):
      yield _cancel(t, look)
    else:
      yield None


_DROPPED = re.compile(  # the airline cancelled a flight
  r"\b(?:was|were|been|got|is|has been) cancell?ed\b|\bcancell?ed by\b"
  r"|\byou(?: \w+)? cancell?ed\b"
)


def _cancel(t: Trip, look=None) -> Wanted:
  values = {"reservation_id": t["reservation_id"]}
  return Wanted("cancel_reservation", values, look)


def cancellable(call: Call, t: Trip) -> bool:
  """One of: booked within 24 hours, cancelled by the airline, business,
  insured for a covered reason; and nothing flown yet.
  """
  known = _known(call.state, t)
  gone = [f for f in t["flights"] if f["date"] < NOW[:10]
          and known.get(_at(f)) != "cancelled"]  # fmt: skip
  return not gone and (
    "cancelled" in known.values()
    or t.get("created_at", "") > DAY_AGO
    or t.get("cabin") == "business"
    or (t.get("insurance") == "yes" and bool(_COVERED.search(call.text)))
  )


def _at(f: Mapping[str, Any]) -> str:
  return f"{f['flight_number']} {f['date']}"


# -------------------------------------------------- Refunds and Compensation
def _gestures(call: Call) -> Outcome:
  """A certificate for a cancelled or delayed flight, the facts confirmed."""
  if not call.of("gesture"):
    return
  late = re.search(r"\b(delay\w*|late|cancell?ed|cancell?ation|never took off)",
                   call.text)  # fmt: skip
  about = _complained(call) if late else []
  if not late or not about:
    yield None
    return
  kind = "delayed" if late[1].startswith(("delay", "late")) else "cancelled"
  for t in about:
    if not _deserves(call, t):
      yield None
      continue
    look = _unknown_status(call, t)
    if look is None and kind not in _statuses(call, t).values():
      yield None
      continue
    amount = ledger.GESTURES[kind] * ledger.seats(t)
    values = {"user_id": t["user_id"], "amount": amount}
    yield Wanted("send_certificate", values, look)


def _deserves(call: Call, t: Trip) -> bool:
  return (
    call.user(t).get("membership") in ("silver", "gold")
    or t.get("insurance") == "yes"
    or t.get("cabin") == "business"
  )


def _complained(call: Call) -> list[Trip]:
  """The trip a complaint is about: "the most recent" is one under way."""
  begun = [t for t in call.trips if t["flights"][0]["date"] <= NOW[:10]]
  if begun and re.search(r"\b(most recent|last|latest) (reserv|flight|trip)",
                         call.text):  # fmt: skip
    return [max(begun, key=lambda t: t["flights"][0]["date"])]
  events = [
    asked.Ask("gesture", s, s, n, False)
    for n, s in enumerate(map(asked.plain, call.state.user_texts))
    if re.search(r"\b(delay\w*|late|cancell?ed|cancell?ation)\b", s)
  ]
  for a in (*events, *call.of("gesture")):
    if found := meant(a, call.state.user_texts, call.trips, past=True):
      return found
  return []


def _legs(call: Call, t: Trip) -> list[Mapping[str, Any]]:
  """Flights of a trip that a complaint may be about."""
  days, ways = asked.days(call.text), asked.routes(call.text)
  for test in (
    lambda f: f["flight_number"].lower() in call.text,
    lambda f: any(f["origin"] in a and f["destination"] in b for a, b in ways),
    lambda f: f["date"] in days,
  ):
    if found := [f for f in t["flights"] if test(f)]:
      return found
  return list(t["flights"])


def _known(state, t: Trip) -> dict[str, str]:
  """Flights of a trip whose status was looked up."""
  status = state.seen.flight_status
  return {k: status[k] for k in map(_at, t["flights"]) if k in status}


def _statuses(call: Call, t: Trip) -> dict[str, str]:
  named = [_at(f) for f in _legs(call, t)]
  return {k: v for k, v in _known(call.state, t).items() if k in named}


def _unknown_status(call: Call, t: Trip):
  known = _statuses(call, t)
  if any(v in ("delayed", "cancelled") for v in known.values()):
    return None
  for f in _legs(call, t):
    if _at(f) not in known:
      values = {"flight_number": f["flight_number"], "date": f["date"]}
      return "get_flight_status", values
  return None


# -------------------------------------------------------------- Modify flight
def _forbidden(call: Call) -> Outcome:
  """Bags are not removed, passengers neither added nor removed, insurance is
  not added to a reservation."""
  for _ in call.about("unbag", "count", "insure"):
    yield None


def _bags(call: Call) -> Outcome:
  """Bags can be added, not removed; membership and cabin say what is free."""
  asks = [(a, t) for a, t in call.about("bags") if not _only_asks(a.sentence)]
  for a, t in asks[:1]:
    first = call.state.seen.first[t["reservation_id"]]
    had = first.get("total_baggages", 0)
    n = ledger.seats(t) if re.search(_EACH, a.sentence) else 1
    total = _total_bags(a.clause, had, n) or _total_bags(a.sentence, had, n)
    if total is None or total <= had:
      continue
    free = ledger.free_bags(
      call.user(t).get("membership", ""), t.get("cabin", ""), ledger.seats(t)
    )
    paid = max(total - free, first.get("nonfree_baggages", 0), 0)
    values = {
      "reservation_id": t["reservation_id"], "total_baggages": total,
      "nonfree_baggages": paid,
    }  # fmt: skip
    yield Wanted("update_reservation_baggages", values)


_EACH = r"\b(?:each|every passenger|per (?:person|passenger)|apiece)\b"


def _only_asks(sentence: str) -> bool:
  return bool(re.search(r"\bhow many\b|\bnumber of\b|\ballow(ed|ance)\b|\?$",
                        sentence)) and "add" not in sentence  # fmt: skip


def _total_bags(text: str, had: int, each: int = 1) -> int | None:
  """ "Three bags instead of two", "one more bag", "a bag for each"."""
  found = asked.bags(text)
  if found is None:
    return None
  word, n = found[0], found[1] * each
  whole = (
    r"\b(?:in total|total|altogether|all in all|instead of|there will be|to \d)"
  )
  more = re.search(
    r"\b(?:more|extra|additional|another|add\w*|further|second|third)\b", text
  )
  if re.search(whole, text) or not more:
    return n if re.search(whole, text) or n > had else had + n
  return had + (1 if word in ("second", "third") else n)


def _passengers(call: Call) -> Outcome:
  """They may be changed, their number may not."""
  for a in call.of("people"):
    for t in meant(a, call.state.user_texts, call.trips)[:1]:
      t = call.state.seen.first[t["reservation_id"]]
      people = [dict(p) for p in t["passengers"]]
      old = _leaving(call, a, people)
      new = _coming(call, a, people, old) if old else None
      if old is None or new is None:
        continue
      people[people.index(old)] = new
      values = {"reservation_id": t["reservation_id"], "passengers": people}
      yield Wanted("update_reservation_passengers", values)
      return


_OWN = re.compile(  # the caller's seat is given away
  r"\b(?:myself|me|mine)\b|\bmy (?:seat|place|name|ticket|flight)\b"
  r"|\bi (?:can't|cannot|can not|won't|will not|am not|must not)\b"
)


def _leaving(call: Call, a: asked.Ask, people) -> dict[str, Any] | None:
  """The passenger whose seat or name changes: who is named, or the caller.

  "Bob's wife" does not name Bob. Who leaves may be told beside the wish.
  """
  told = [asked.plain(s) for s in call.state.user_texts]
  beside = "\n".join(told[max(0, a.at - 1) : a.at + 2])
  names = [r.get("name") for r in call.state.seen.records.values()]
  me = [p for p in people if _only_name(p) in names]
  for text in (a.sentence, beside):
    text = re.sub(r"\b[a-z]+'s (?=wife|husband|son|daughter|sister|brother"
                  r"|friend|partner)", "", text)  # fmt: skip
    first = [p for p in people if asked.says(text, p["first_name"])]
    whole = [
      p for p in first if asked.says(text, " ".join(_only_name(p).values()))
    ]
    for some in (whole, first):
      for p in (*(p for p in some if p not in me), *some):
        return p
    if me and _OWN.search(text):
      return me[0]
  return people[0] if len(people) == 1 else None


def _only_name(p: Mapping[str, Any]) -> dict[str, str]:
  return {k: p[k] for k in ("first_name", "last_name")}


def _coming(call: Call, a: asked.Ask, people, old) -> dict[str, Any] | None:
  """Who takes the place, or the name as it should be.

  A name that shares a part with the old one corrects it; others need a
  birthday: the caller's, a saved passenger's, or one that was told.
  """
  aboard = [_only_name(p) for p in people]
  text = " ".join(call.state.user_texts)
  known = {}
  for r in call.state.seen.records.values():
    for p in (*r.get("saved_passengers", ()), *_caller(r)):
      known[p["first_name"], p["last_name"]] = p
  for e in call.state.seen.of("passenger"):
    p = e.value
    known.setdefault((p["first_name"], p["last_name"]), p)
  low = asked.plain(text)
  if fixed := _corrected(call, a, aboard, old):
    return fixed
  for (x, y), p in known.items():
    if f"{x} {y}".lower() in low and _only_name(p) not in aboard:
      mine = any(r.get("name") == _only_name(p)
                 for r in call.state.seen.records.values())  # fmt: skip
      if not mine:
        return {**_only_name(p), "dob": p["dob"]}
  if re.search(r"\b(?:i|me|myself)\b", a.sentence):
    for r in call.state.seen.records.values():
      for p in _caller(r):
        if _only_name(p) not in aboard:
          return p
  return None


def _caller(record: Mapping[str, Any]) -> list[dict[str, Any]]:
  if "membership" not in record:
    return []
  return [{**record["name"], "dob": record["dob"]}]


def _corrected(call: Call, a: asked.Ask, aboard, old) -> dict[str, Any] | None:
  """The old passenger under another first or last name."""
  if not re.search(
    r"name|spell|misspel|passport|correct|should|mistake", a.sentence
  ):
    return None
  for e in call.state.seen.of("person"):
    p = e.value
    same = [k for k in p if p[k] == old[k]]
    if len(same) == 1 and p not in aboard:
      return {**p, "dob": old["dob"]}
  for key, name in asked.corrected(a.sentence):
    if name != old[key].lower():
      return {**old, key: name.title()}
  return None


# ----------------------------------------------------- Change flights or cabin
def _changes(call: Call) -> Outcome:
  """Another cabin, other flights, or both in one call, for a trip."""
  about: dict[str, tuple[list[asked.Ask], Trip]] = {}
  for kind in ("cabin", "move"):
    for a in call.of(kind):
      for t in meant(a, call.state.user_texts, call.trips):
        about.setdefault(t["reservation_id"], ([], t))[0].append(a)
  for asks, t in about.values():
    t = call.state.seen.first[t["reservation_id"]]
    moves = [a for a in asks if a.kind == "move"]
    cabins = [c for a in asks if a.kind == "cabin"
              for c in asked.cabins(a.clause) or asked.cabins(a.sentence)
              if c != t["cabin"]]  # fmt: skip
    single = re.search(r"\b(?:only|just)\b[^.]*\b(?:one|[a-z]+ [a-z]+)\b",
                       asks[0].sentence)  # fmt: skip
    if not cabins and not moves:
      continue
    if flown(t) or (moves and t["cabin"] == "basic_economy"):
      yield None
    elif cabins and not moves and single and _names_one(asks[0].sentence, t):
      yield None  # all passengers fly in one cabin
    else:
      yield from _first_that_may(call, t, cabins, moves)


def _first_that_may(call: Call, t: Trip, cabins, moves) -> Outcome:
  """In the first of the cabins that is within the budget."""
  for n, cabin in enumerate(dict.fromkeys(cabins or [t["cabin"]])):
    found = list(_change(call, t, cabin, moves))
    yield from found if n == 0 or None not in found else ()
    if None not in found:
      return


def _names_one(sentence: str, t: Trip) -> bool:
  named = [p for p in t["passengers"]
           if asked.says(sentence, p["first_name"])]  # fmt: skip
  return 0 < len(named) < ledger.seats(t)


def _change(call: Call, t: Trip, cabin: str, moves) -> Outcome:
  if moves:
    calls = itineraries.reroute(call.state, call.text, moves, t, cabin)
  else:
    calls = iter([(itineraries.numbers(t["flights"]), None)])
  for flights, look in calls:
    if flights is None:
      yield None
      return
    values = {"reservation_id": t["reservation_id"], "cabin": cabin,
              "flights": flights}  # fmt: skip
    w = Wanted("update_reservation_flights", values, look)
    yield w if look else _affordable(call, t, w)


def _affordable(call: Call, t: Trip, w: Wanted) -> Wanted | None:
  """The call, with the look-ups its price needs, if that is within limits."""
  most, least = asked.limits(call.text)
  if most is None and least is None:
    return w
  cabin, fare = w.values["cabin"], 0.0
  own = {(f["flight_number"], f["date"]): f for f in t["flights"]}
  for leg in w.values["flights"]:
    at = leg["flight_number"], leg["date"]
    offer, kept = call.state.seen.offers.get(at), own.get(at)
    if kept and cabin == t["cabin"]:
      fare += kept["price"]
    elif offer is not None:
      fare += offer["prices"][cabin]
    elif kept:
      where = {k: kept[k] for k in ("origin", "destination", "date")}
      if not itineraries.searched(call.state, itineraries.DIRECT, where):
        return w._replace(look=(itineraries.DIRECT, where))
  extra = fare * ledger.seats(t) - ledger.fare(t)
  if most is not None and extra > most:
    return None
  if least is not None and -extra < least:
    return None
  return w


# ---------------------------------------------------------------- Book flight
def _books(call: Call) -> Outcome:
  """A new booking, there and back, by the flights of `choose`."""
  users = [r for r in call.state.seen.records.values()
           if "payment_methods" in r]  # fmt: skip
  for a in call.of("book") if users else ():
    if ways := _new_way(call, a):
      yield from _booking(call, users[0], ways)
      return


def _new_way(call: Call, a: asked.Ask) -> list[dict[str, str]]:
  """The ways to be flown, unless they are those of a reservation there is."""
  days = set(asked.days(a.sentence))
  for x, y in asked.routes(a.clause) or asked.routes(a.sentence):
    for t in call.trips:
      if t["origin"] in x and t["destination"] in y:
        if days & {f["date"] for f in t["flights"]}:
          return []
  return _journey(call, a)


_SEVERAL = re.compile(r"\b(?:two|both|three|all)\b[^.;\n]{0,24}\bcertificates")


def _booking(call: Call, user: Mapping[str, Any], ways) -> Outcome:
  state, text = call.state, call.text
  people = _travellers(call, user)
  cabin = next(iter(asked.cabins(text)), "economy")
  flights: list[Any] = []
  for k, where in enumerate(ways):
    found, look = itineraries.find(state, text, where, cabin, len(people), k)
    if look:
      yield Wanted("book_reservation", {}, look)
      return
    if found is None:
      yield None
      return
    flights += found
  if _SEVERAL.search(text):
    yield None  # one certificate at most
  yield Wanted("book_reservation", {
    "origin": ways[0]["origin"], "destination": ways[0]["destination"],
    "flight_type": "round_trip" if len(ways) > 1 else "one_way",
    "cabin": cabin, "flights": itineraries.numbers(flights),
    "passengers": people,
    **_extras(text, user, cabin, flights, len(people)),
  })  # fmt: skip


def _journey(call: Call, a: asked.Ask) -> list[dict[str, str]]:
  """Arguments of a search for each way to be flown."""
  near = "\n".join(
    asked.plain(s) for s in call.state.user_texts[a.at : a.at + 2]
  )
  routes = (
    asked.routes(a.clause) or asked.routes(a.sentence) or asked.routes(near)
  )
  days = [d for d in asked.days(call.text) if d >= NOW[:10]]
  if not routes or not days:
    return []
  origin, end = routes[0][0][0], routes[0][1][0]
  codes = [e.value for e in call.state.seen.of("airport")
           if e.value.lower() in call.text]  # fmt: skip
  origin = next((c for c in codes if c in routes[0][0]), origin)
  end = next((c for c in codes if c in routes[0][1]), end)
  back = re.search(r"\bround[- ]trip\b|\b(?:come|fly|get|go|way|flight) back\b"
                   r"|\breturn\w*\b", call.text)  # fmt: skip
  one = re.search(r"\bone[- ]way\b", call.text)
  ways = [(origin, end, days[0]), (end, origin, days[-1])]
  return [
    {"origin": a, "destination": b, "date": day}
    for a, b, day in ways[: 1 + bool(back and not one and len(days) > 1)]
  ]


def _extras(
  text: str, user: Mapping[str, Any], cabin: str, flights, n: int
) -> dict[str, Any]:
  """Bags beyond the allowance, insurance, and shares of the whole price."""
  bags = _booked_bags(text, n)
  paid = max(bags - ledger.free_bags(user.get("membership", ""), cabin, n), 0)
  insured = any(
    re.search(r"\b(?:want|buy|add|need|take|with|include|get)\b[^.,]*"
              r"\binsurance", s)
    and not re.search(r"\b(?:no|not|without|n't)\b[^.,]*\binsurance|n't\b", s)
    for s in text.split("\n")
  )  # fmt: skip
  fare = sum(f["prices"][cabin] for f in flights)
  price = n * (fare + ledger.INSURANCE_FEE * insured) + ledger.BAG_FEE * paid
  return {
    "user_id": user["user_id"], "total_baggages": bags,
    "nonfree_baggages": paid, "insurance": "yes" if insured else "no",
    "payment_methods": _shares(text, user, price),
  }  # fmt: skip


def _booked_bags(text: str, n: int) -> int:
  """Checked bags of all who fly; "one each" counts for everybody."""
  for s in re.split(r"[.\n]", text):
    found = asked.bags(s)
    if found and not re.search(r"\bhand\b|\bcarry|n't\b|\bfree\b", s):
      each = re.search(r"\b(?:each|both|every)\b", s)
      return found[1] * (n if each else 1)
  return 0


def _travellers(call: Call, user: Mapping[str, Any]) -> list[dict[str, Any]]:
  """The caller, then saved passengers and others whose names were told."""
  own = {**user.get("name", {}), "dob": user.get("dob")}
  saved = [
    {k: p[k] for k in ("first_name", "last_name", "dob")}
    for p in user.get("saved_passengers", ())
    if f"{p['first_name']} {p['last_name']}".lower() in call.text
  ]
  told = [e.value for e in call.state.seen.of("passenger")
          if e.source == "user"]  # fmt: skip
  out = [own]
  out += [p for p in (*saved, *told) if p not in out]
  return out


def _shares(text: str, user: Mapping[str, Any], price: float) -> list[Any]:
  """At most one certificate, gift cards, then a card: those that were named.

  What shall not be used is left out. Of several certificates the one whose
  amount was named, the smaller one where it is asked for and enough, else the
  largest. The card is the one whose last digits or brand were said.
  """
  methods = list(user["payment_methods"].values())
  kinds = {k: [m for m in methods if m["source"] == k]
           for k in ("certificate", "gift_card", "credit_card")}  # fmt: skip
  use = lambda word: any(
    re.search(word, s) and not re.search(
      r"\b(?:no|not|without|keep|never|untouched)\b|n't\b|\bbalances?\b", s)
    for s in re.split(r"[.\n;]", text)
  )  # fmt: skip
  order = []
  if use(r"\bcertificate|\bvoucher") or use(r"\$\d+ one\b"):
    order += _certificate(text, kinds["certificate"], price)
  if use(r"\bgift ?card"):
    most = re.search(r"\b(?:most|largest|biggest|highest)\b", text)
    cards = sorted(kinds["gift_card"], key=lambda m: -ledger.balance(m)
                   if most else 0)  # fmt: skip
    m = re.search(r"\b(one|two|three|\d)\b[^.\n]{0,12}\bgift ?cards\b", text)
    order += cards[: asked.number(m[1]) if m and most else 3]
  rank = lambda m: (
    m.get("last_four", "-") not in text,
    m.get("brand", "-").replace("_", " ") not in text.replace("master card",
                                                              "mastercard"),
  )  # fmt: skip
  order += sorted(kinds["credit_card"], key=rank)[:1]
  if sum(map(ledger.balance, order)) < price:
    order = _certificate("", kinds["certificate"], price) + kinds["gift_card"]
  return ledger.split(price, order)


def _certificate(text: str, certificates, price: float) -> list[Any]:
  """The one certificate that a booking may use."""
  dear = sorted(certificates, key=lambda m: -ledger.balance(m))
  named = [m for m in dear
           if re.search(rf"\${int(ledger.balance(m))}\b", text)]  # fmt: skip
  enough = [m for m in dear if ledger.balance(m) >= price]
  if re.search(r"\b(?:small\w+|lowest|least)\b", text) and enough:
    return enough[-1:]
  return (named or dear)[:1]
