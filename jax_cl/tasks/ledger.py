"""Arithmetic over what was seen and done: totals, refunds, fares, allowances.

An agent may say or pay numbers that no tool spells out: what a return brings
back, what three flights cost for two people, how many bags are free. They are
sums and products of numbers in tool results by the rules of the domains'
policies. Nothing here reads what the user said, and nothing here knows a task.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jax_cl.tasks import entities
from jax_cl.tasks.language import asked

# The airline policy's checked bags without a fee: membership -> a passenger in
# basic economy, economy, business. Each other bag costs 50 dollars.
CABINS = ("basic_economy", "economy", "business")
FREE_BAGS: Mapping[str, tuple[int, int, int]] = {
  "regular": (0, 1, 2), "silver": (1, 2, 3), "gold": (2, 3, 4),
}  # fmt: skip
BAG_FEE = 50
INSURANCE_FEE = 30  # a passenger
# Certificates the policy allows, dollars a passenger of the reservation.
GESTURES: Mapping[str, int] = {"cancelled": 100, "delayed": 50}

DAYS = (-2, -1, 1, 2, 3)  # to move a flight by


class Done(NamedTuple):
  """A call that moved money."""

  act: str
  id: str  # of the order or the reservation
  back: float  # to the user; below 0 it costs


def exact(state, amount: float) -> list[entities.Entity]:
  """The value seen of an amount of money; empty where none was."""
  return state.seen.known(text(amount))


def text(amount: float) -> str:
  """An amount as it is said: cents where there are any."""
  return f"{abs(amount):.2f}".removesuffix(".00")


def calls(state) -> Iterable[tuple[str, dict[str, Any]]]:
  """(act, arguments) of every act so far that did not fail."""
  for (name, arguments), error in zip(state.history, state.errors, strict=True):
    if not error:
      yield name, json.loads(arguments)


def total(order: Mapping[str, Any]) -> float:
  return sum(x["price"] for x in order.get("items", ()))


def price_of(seen: entities.Seen, item: str) -> float | None:
  """The price of an item or a variant, by its id."""
  for kind in ("variant", "item"):
    e = seen.by_type.get(kind, {}).get(entities.key_of(item))
    if e is not None and e.fields.get("price"):
      return float(e.fields["price"].split("; ")[0])
  return None


def settled(state) -> list[Done]:
  """What each call of an order or a reservation brought back, in order."""
  return [d for name, a in calls(state) if (d := _settle(state.seen, name, a))]


def _settle(seen, name: str, a: Mapping[str, Any]) -> Done | None:
  order = seen.first.get(a.get("order_id", ""))
  if order is None:
    return None
  prices = {x["item_id"]: x["price"] for x in order.get("items", ())}
  old = sum(prices.get(i, 0.0) for i in a.get("item_ids", ()))
  if name.startswith("cancel"):
    return Done(name, a["order_id"], total(order))
  if name.startswith("return"):
    return Done(name, a["order_id"], old)
  if "new_item_ids" in a:
    new = sum(price_of(seen, i) or 0.0 for i in a["new_item_ids"])
    return Done(name, a["order_id"], old - new)
  return None


# -------------------------------------------------------------------- airline
def seats(reservation: Mapping[str, Any]) -> int:
  return len(reservation.get("passengers", ()))


def fare(reservation: Mapping[str, Any]) -> float:
  """What the flights of a reservation cost for all who fly."""
  flights = reservation.get("flights", ())
  return sum(f.get("price", 0) for f in flights) * seats(reservation)


def moved(state) -> dict[str, float]:
  """Reservation -> what was paid since it was first seen; below 0, refunds."""
  out = {}
  for id, r in state.seen.records.items():
    if "flights" in r and "payment_history" in r:
      before = len(state.seen.first[id].get("payment_history", ()))
      new = [p["amount"] for p in r["payment_history"][before:]]
      if new:
        out[id] = sum(new)
  return out


def charged(state) -> list[float]:
  """What bookings of this conversation took from a card."""
  old = {
    id for r in state.seen.first.values() for id in r.get("reservations", ())
  }
  return [
    p["amount"]
    for id, r in state.seen.records.items() if "flights" in r and id not in old
    for p in r.get("payment_history", ())
    if p["payment_id"].startswith("credit_card")
  ]  # fmt: skip


def paid(reservation: Mapping[str, Any]) -> float:
  return sum(p["amount"] for p in reservation.get("payment_history", ()))


def ahead(state, price: Callable[[Any], float] = fare) -> float | None:
  """What all trips cost that are not over; None until all were looked up."""
  trips = [r for r in state.seen.records.values() if "flights" in r]
  ids = {id for r in state.seen.records.values()
         for id in r.get("reservations", ())}  # fmt: skip
  if not trips or not ids <= {r["reservation_id"] for r in trips}:
    return None
  return sum(
    price(r) for r in trips
    if r.get("status") != "cancelled"
    and any(f["date"] >= state.today for f in r["flights"])
  )  # fmt: skip


def free_bags(membership: str, cabin: str, passengers: int) -> int:
  """Checked bags without a fee, for all passengers together."""
  if membership not in FREE_BAGS or cabin not in CABINS:
    return 0
  return FREE_BAGS[membership][CABINS.index(cabin)] * passengers


def balance(method: Mapping[str, Any]) -> float:
  """What a payment method holds; a card has no limit."""
  if method.get("source") not in ("gift_card", "certificate"):
    return float("inf")
  return float(method.get("amount", method.get("balance", 0)))


def price_of_booking(seen, picks: Mapping[str, Sequence[Any]]) -> float:
  """Fares for all passengers, insurance and bags of a booking being made."""

  def values(slot: str) -> list[Any]:
    return [e.value for e in picks.get(slot, ()) if e.type != "stop"]

  n, cabin = len(values("passengers")), (values("cabin") or [""])[0]
  legs = [(f["flight_number"], f["date"]) for f in values("flights")]
  offers = [seen.offers[x]["prices"] for x in legs if x in seen.offers]
  price = n * sum(p.get(cabin, 0) for p in offers)
  if values("insurance") == ["yes"]:
    price += INSURANCE_FEE * n
  return price + BAG_FEE * sum(values("nonfree_baggages"))


def price_of_change(seen, id: str, picks: Mapping[str, Sequence[Any]]) -> float:
  """What other flights, another cabin or more bags cost beyond what was paid.

  A flight that is kept in its cabin keeps its price. 0 where it cannot be
  told: a learner may change what it has never looked at.
  """
  trip = seen.records.get(id, {})
  if "flights" not in trip:
    return 0.0
  if bags := picks.get("nonfree_baggages"):
    more = bags[0].value - trip.get("nonfree_baggages", 0)
    return float(BAG_FEE * max(more, 0))
  cabin = [e.value for e in picks.get("cabin", ())]
  own = {(f["flight_number"], f["date"]): f["price"] for f in trip["flights"]}
  price = 0.0
  for leg in [e.value for e in picks.get("flights", ()) if e.type == "leg"]:
    at = leg["flight_number"], leg["date"]
    if at in own and cabin == [trip.get("cabin")]:
      price += own[at]
    elif at in seen.offers:
      price += seen.offers[at]["prices"].get(cabin[0] if cabin else "", 0)
    else:
      return 0.0
  return price * seats(trip) - fare(trip)


def unpaid(seen, picks: Mapping[str, Sequence[Any]]) -> float:
  paid = [e.value for e in picks.get("payment_methods", ())]
  return price_of_booking(seen, picks) - sum(
    p["amount"] for p in paid if isinstance(p, dict)
  )


def _part(method: Mapping[str, Any], left: float) -> dict[str, Any]:
  part = min(balance(method), left)
  whole = int(part) if float(part).is_integer() else round(part, 2)
  return {"payment_id": method["id"], "amount": whole}


def split(price: float, methods: Sequence[Any]) -> list[dict[str, Any]]:
  """`price` from the methods in order, each as far as it reaches."""
  out = []
  for m in methods:
    if price > 0 and balance(m) > 0:
      out.append(_part(m, price))
      price -= out[-1]["amount"]
  return out


def shares(seen, picks: Mapping[str, Sequence[Any]]) -> list[entities.Entity]:
  """Each method of the profile with what it can pay of what is still open."""
  left = max(unpaid(seen, picks), 0.0)
  used = {e.value["payment_id"] for e in picks.get("payment_methods", ())
          if isinstance(e.value, dict)}  # fmt: skip
  out = []
  for r in seen.records.values():
    for m in r.get("payment_methods", {}).values():
      if m["id"] in used or (used and not min(balance(m), left)):
        continue
      fields = {k: str(v) for k, v in m.items() if k != "id"}
      out.append(
        entities.Entity(
          "payment_amount", _part(m, left), fields, {m["id"]}, 0, "derived"
        )  # fmt: skip
      )
  return out


# ----------------------------------------------------------------- candidates
def derive(state) -> None:
  """Adds the numbers that the latest result makes known, as candidates."""
  seen, turn = state.seen, state.turn

  def add(kind: str, amount: float, *links: str) -> None:
    fields = {"kind": kind}
    seen.add("value", text(amount), turn, "derived", fields, links)

  done = settled(state)
  for d in done:
    add("refund money back" if d.back >= 0 else "difference to pay", d.back,
        d.id)  # fmt: skip
    back = sum(x.back for x in done if x.id == d.id and x.back > 0)
    if (order := seen.first.get(d.id)) and total(order) - back > 0:
      add("total of the remaining items", total(order) - back, d.id)
  if len(done) > 1:
    add("total refund money back", sum(d.back for d in done))
  bought: dict[str, list[float]] = {}
  for o in seen.first.values():
    for x in o.get("items", ()):
      bought.setdefault(x["name"], []).append(x["price"])
  for name, prices in bought.items():
    if len(prices) > 1:
      add(f"total price of all {name.lower()}", sum(prices))
  for id, r in seen.records.items():
    if "flights" in r and r.get("reservation_id"):
      _renamed(state, r)
      _derive_trip(state, id, r, add)
  moves, spent = moved(state), charged(state)
  if len(moves) > 1:
    add("total refund money back", sum(moves.values()))
  if len(spent) > 1:
    add("total charged to the card", sum(spent))
  for what, price in (("cost of", fare), ("paid for", paid)):
    if rest := ahead(state, price):
      add(f"total {what} all trips ahead", rest)


def _renamed(state, r: Mapping[str, Any]) -> None:
  """Passengers under a name that was told, and people whose birthday was.

  A name that shares a part with a passenger's is theirs, corrected.
  """

  def add(p: Mapping[str, Any]) -> None:
    state.seen.add("passenger", dict(p), state.turn, "derived", {},
                   [r["reservation_id"]])  # fmt: skip

  for e in state.seen.of("person"):
    for p in r["passengers"]:
      if sum(e.value[k] == p[k] for k in e.value) == 1:
        add({**e.value, "dob": p["dob"]})
  for said in map(asked.plain, state.user_texts):
    for day in asked.births(said):
      for e in state.seen.of("person"):
        if asked.says(said, e.value["first_name"]):
          add({**e.value, "dob": day})
    for key, name in asked.corrected(said):
      for p in r["passengers"]:
        if asked.says(said, p["first_name"]) or len(r["passengers"]) == 1:
          add({**p, key: name.title()})


def _derive_trip(state, id: str, r: Mapping[str, Any], add) -> None:
  seen, turn = state.seen, state.turn
  n, key = seats(r), entities.key_of(id)
  done = seen.by_type["reservation"][key].memo
  stamp = (r.get("cabin"), len(r.get("payment_history", ())))
  if done.get("derived") == stamp:
    return
  for what, rate in GESTURES.items():
    fields = {"kind": f"certificate for a {what} flight", "rate": str(rate)}
    seen.add("number", rate * n, turn, "derived", fields, [id])
  add("total cost of flights", fare(r), id)
  add("total paid", paid(r), id)
  if (new := moved(state).get(id)) is not None:
    add("refund money back" if new < 0 else "difference to pay", new, id)
  for f in r["flights"]:
    day = datetime.date.fromisoformat(f["date"])
    for k in DAYS:
      date = (day + datetime.timedelta(days=k)).isoformat()
      fields = {"days later": str(k)}
      seen.add("date", date, turn, "derived", fields, [id])
  user = seen.records.get(r.get("user_id", ""), {})
  bags = free_bags(user.get("membership", ""), r.get("cabin", ""), n)
  add("suitcases bags allowed", bags, id)
  seen.by_type["reservation"][key].memo["derived"] = stamp
