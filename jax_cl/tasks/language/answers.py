"""What the user asks to be told: rules of language over the dialogue.

Each sentence with a question in it is matched with kinds of values: tracking
numbers, totals, refunds, options of a thing, balances. The values are
candidates that tools or simple arithmetic (`ledger`) brought up; the rules
only say which of them answer. They are features, as wishes are (`reading`):
the scorer learns how far to trust them. No word of any task is here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from jax_cl.tasks import entities, ledger
from jax_cl.tasks.language import reading, trip_answers, variants

_ASK = re.compile(
  r"\b(know|tell|told|say|hear|curious|find out|asks?|check|how (much|many)"
  r"|confirm the|inquire|wonder"
  r"|what|which|get the|provide|figure out|numeric|tracking|sum|amount)\b"
)
_MONEY = re.compile(
  r"\b(refund\w*|back|sav(e|ings?)|difference|owe|charged?|pay"
  r"|get in total|amount (i|of money)|i get|going to get|receiv\w+|come back"
  r"|returned)\b"
)
_CHOICE = re.compile(  # how much there is to choose from, or what it costs
  r"\b(?:how many|number of)\b[^.]*\b(?:option|avail|kind|type|variant"
  r"|version|model|choice|sort|style|different|stock|offer|sell|carr(?:y|ies)"
  r"|choose)"
  r"|\b(?:what|which|know|tell|ask)\b[^.]*\b(?:cheapest|least expensive)\b"
  r"[^.]*\b(?:avail|offer|stock|sell|right now|currently|you have|there is)"
)
_WHERE = re.compile(
  r"\b(?:which|what|whose)\b[^.]*\baddress\b|\bwhere\b[^.]*\b(?:sent"
  r"|ship\w*|deliver\w*|going|goes|headed)\b"
)
_TOTAL = re.compile(
  r"\b(?:total|price|paid|cost|worth|spent)\b[^.]*\border\b"
  r"|\border'?s? (?:total|price|cost)\b"
)
_PRICES = re.compile(
  r"\b(?:options?|variants?|choices|versions?|models|kinds|types|ones)\b"
  r"[^.]*\b(?:prices?|costs?)\b|\bprices? of (?:all|each|every)\b"
  r"|\bwhat (?:they|these|those|each)\b[^.]*\bcosts?\b"
)
_COST = re.compile(
  r"\bprices?\b|\bhow much\b|\bwhat\b[^.]*\b(?:paid|pay|costs?)\b"
)
_WHICH = re.compile(r"\b(?:what|which|how much|price|tell|know|ask|find out)\b")
_STATES = ("delivered", "pending", "cancelled", "processed")


def wanted(state) -> list[entities.Entity]:
  """Values that answer what was asked and have not been said, best first."""
  said = told(state)
  out: dict[str, entities.Entity] = {}
  before = ""
  for sentence in state.user_texts:
    low = sentence.lower()
    near, before = f"{before} {low}", low
    if _ASK.search(low):
      for e in _answers(state, low, near):
        if str(e.value) not in said:
          out.setdefault(e.key, e)
  return list(out.values())


def told(state) -> set[str]:
  """Values that were said in an inform."""
  return {
    str(v)
    for name, arguments in state.history if name == "say:inform"
    for v in json.loads(arguments)["values"]
  }  # fmt: skip


def _values(state, kind: str, link: str = "") -> list[entities.Entity]:
  return [
    e for e in state.seen.of("value")
    if kind in e.fields.get("kind", "") and (not link or link in e.links)
  ]  # fmt: skip


def _answers(state, low: str, near: str) -> Iterator[entities.Entity]:
  """Answers to a sentence; `near` begins one sentence earlier."""
  if "tracking" in low:
    for o in _orders(state, low, near)[:1]:
      yield from _values(state, "tracking", o["order_id"])[:1]
  if _WHERE.search(low):
    for o in _orders(state, low, near)[:1]:
      for v in o.get("address", {}).values():
        yield from state.seen.known(str(v))
  if "remaining" in low:
    yield from _values(state, "remaining")[-1:]
  elif _MONEY.search(low):
    yield from _money(state)
  elif _TOTAL.search(low):
    for o in _orders(state, low, near)[:1]:
      yield from ledger.exact(state, ledger.total(o))
  yield from _of_things(state, low)
  yield from _on_offer(state, low, near)
  yield from _dearest(state, low, near)
  if not state.seen.of("order"):
    yield from trip_answers.answers(state, low)


def _money(state) -> Iterator[entities.Entity]:
  """The sum of what was done, then its parts."""
  done = ledger.settled(state)
  if done:
    yield from ledger.exact(state, sum(d.back for d in done))
    for d in done:
      yield from ledger.exact(state, d.back)


def _orders(state, low: str, near: str) -> list[dict[str, Any]]:
  """Orders that a question may be about, the likeliest first."""
  orders = [r for r in state.seen.first.values() if "order_id" in r]
  orders = [state.seen.records[o["order_id"]] for o in orders]
  named = [o for o in orders if o["order_id"].lower().lstrip("#") in low]
  if named:
    return named
  if status := [
    s for s in _STATES
    if f"{s} order" in low
    or re.search(rf"\border (?:that )?(?:\w+ ){{0,3}}{s}\b", low)
  ]:  # fmt: skip
    first = state.seen.first
    return [
      o for o in orders
      if first[o["order_id"]].get("status", "").startswith(status[0])
    ]  # fmt: skip
  if re.search(r"\b(?:latest|last|newest|recent(?:ly)?)\b", low):
    return orders[-1:]  # a profile lists them as they were placed
  touched = {d.id for d in ledger.settled(state)}
  said = " ".join(state.user_texts).lower()

  def rank(i: int) -> tuple:
    o = orders[i]
    heads = {x["name"].lower().split()[-1].rstrip("s") for x in o["items"]}
    here = sum(h in near for h in heads)
    place = o.get("address", {})
    there = place.get("city", "?").lower() in low
    there |= entities.STATES.get(place.get("state", ""), "?") in low
    about = sum(h in said for h in heads) / max(len(heads), 1)
    return (-here, -there, o["order_id"] not in touched, -about, i)

  return [orders[i] for i in sorted(range(len(orders)), key=rank)]


def _of_things(state, low: str) -> Iterator[entities.Entity]:
  """Options, prices and counts of the things a sentence names."""
  for name in _names(state):
    if not _mentioned(low, name):
      continue
    if re.search(r"\bhow many\b|\bnumber of\b", low):
      yield from (
        e for e in _values(state, "available options")
        if e.fields.get("name") == name
      )  # fmt: skip
    items = [e for e in state.seen.of("item") if e.fields.get("name") == name]
    if re.search(r"\ball\b[^.]*\b(bought|ordered)\b", low) and items:
      yield from _values(state, f"total price of all {name.lower()}")[:1]
    elif _COST.search(low) and items:
      price = items[0].fields.get("price", "")
      yield from ledger.exact(state, float(price.split("; ")[0] or 0))
    for e in items:
      for k, v in e.fields.items():
        if k in ("name", "price") or not _asks_option(low, k):
          continue
        yield from state.seen.known(v)


def _on_offer(state, low: str, near: str) -> Iterator[entities.Entity]:
  """Prices of what could be had: of all that would do, or of the cheapest."""
  cheapest = variants.CHEAP.search(low)
  if not _PRICES.search(low) and not (cheapest and _WHICH.search(low)):
    return
  for name in _names(state):
    if not _mentioned(low if cheapest else near, name):
      continue
    free = [
      e for e in state.seen.of("variant")
      if e.fields.get("name", name) == name
      and e.fields.get("available") != "False" and e.links & _ids(state, name)
    ]  # fmt: skip
    if cheapest:
      free = sorted(free, key=_price)[:1]
    for e in _best_first(state, name, free):
      yield from ledger.exact(state, _price(e))
      if cheapest and re.search(r"\b(options?|features?|specs?|detail)", low):
        for v in variants.options_of(e).values():
          yield from state.seen.known(v)


def _best_first(state, name: str, free) -> list[entities.Entity]:
  """Variants in the order in which they answer what was said of the thing."""
  scopes = reading.read(state).scopes
  for old in state.seen.of("item"):
    if old.fields.get("name") == name and old.key in scopes and len(free) > 1:
      scores = variants.variant_scores(free, old, scopes[old.key])
      at = sorted(range(len(free)), key=lambda i: (-scores[i], i))
      return [free[i] for i in at]
  return list(free)


def _dearest(state, low: str, near: str) -> Iterator[entities.Entity]:
  """ "What is the most expensive item": its price, of the order meant."""
  if not re.search(r"\bmost expensive (item|thing|product|one)\b", low):
    return
  for o in _orders(state, low, near)[:1]:
    first = state.seen.first[o["order_id"]]
    most = max(first["items"], key=lambda x: x["price"], default=None)
    if most:
      yield from state.seen.known(most["name"])
      yield from ledger.exact(state, most["price"])


def _ids(state, name: str) -> set[str]:
  """Ids of the products of a name."""
  return {
    e.id for e in state.seen.of("product") if e.fields.get("name") == name
  }


def _price(e: entities.Entity) -> float:
  return float((e.fields.get("price") or "0").split("; ")[0])


def unopened(state) -> entities.Entity | None:
  """A product whose variants are asked for and were not looked up.

  None too where it is unknown which products there are: see `asks_of_stock`.
  """
  tried = state.used.get(("get_product_details", "product_id"), set())
  for low in _stock(state):
    for e in state.seen.of("product"):
      if e.key not in tried and _mentioned(low, e.fields.get("name", "")):
        return e
  return None


def asks_of_stock(state) -> bool:
  """A question about what is on offer, of a thing that is not known yet."""
  names = [e.fields.get("name", "") for e in state.seen.of("product")]
  return any(
    not any(n and _mentioned(low, n) for n in names) for low in _stock(state)
  )


def _stock(state) -> list[str]:
  """Sentences that ask how much choice there is."""
  return [t for x in state.user_texts if _CHOICE.search(t := x.lower())]


def _asks_option(low: str, key: str) -> bool:
  words = key.split()
  return all(re.search(rf"\b{w}s?\b", low) for w in words)


def _names(state) -> list[str]:
  kinds = ("item", "product")
  names = [e.fields.get("name", "") for k in kinds for e in state.seen.of(k)]
  return [n for n in dict.fromkeys(names) if n and "; " not in n]


def _mentioned(low: str, name: str) -> bool:
  head = re.sub(r"[^a-z ]", "", name.lower()).split()
  flat = re.sub(r"\b([a-z])-([a-z]{3,})", r"\1\2", low)
  return bool(head) and re.search(
    rf"\b\w*{re.escape(head[-1].rstrip('s'))}(s|es)?\b", flat
  ) is not None  # fmt: skip
