"""Which payment method the user means: rules of language and of the policies.

What was named counts in the order in which it was named, the last first where
the user changed their mind; what the policy does not take is passed over:
returns go to the original method or to a gift card, a gift card must cover
what it pays, certificates pay for bookings alone. Without a word about it, the
method that paid stands. A feature, as all of `reading`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from jax_cl.tasks import entities, ledger
from jax_cl.tasks.language import reading

_CARD = r"\b(?:credit ?card|visa|mastercard|master card|amex|american express)"
_KINDS = {
  "gift_card": re.compile(r"\b(gift ?cards?|gc)\b"),
  "paypal": re.compile(r"\bpaypal\b"),
  "certificate": re.compile(r"\b(certificates?|vouchers?)\b"),
  "credit_card": re.compile(rf"{_CARD}\b|\bcard ending\b|\bmy \d{{4}} card\b"),
}
_BRANDS = {
  "visa": "visa", "mastercard": "mastercard", "master card": "mastercard",
  "amex": "american_express", "american express": "american_express",
}  # fmt: skip
_CHANGED = re.compile(
  r"chang\w+ (my|your) mind|decide differently|on second thoughts?"
  r"|reconsider\w*"
)
_NOT_PAYING = re.compile(  # talk about gift cards that chooses none
  r"(balances?|sum of|how much)[^.]*\b(gift ?cards?|certificates?)\b"
  r"|gift ?cards?( and [a-z]+)? balances?"
)


def best(state, act: str, options: Sequence[entities.Entity]) -> int:
  """The option that pays or is paid, by what was said and what may be."""
  text = _NOT_PAYING.sub(" ", " ".join(state.user_texts).lower())
  own = _NOT_PAYING.sub(" ", _said_of_picks(state))
  paid = original(state)
  need = _need(state, act)

  least = re.search(r"\b(smallest|lowest) balance", text)

  def rank(i: int) -> tuple:
    e = options[i]
    return (
      not _may(act, e, paid, need), _named(own, e, paid), _named(text, e, paid),
      _balance(e) if least else 0.0, e.id != paid, i,
    )  # fmt: skip

  return min(range(len(options)), key=rank)


def _said_of_picks(state) -> str:
  """What was said of the items that are picked."""
  scopes = reading.read(state).scopes
  picked = (e.key for es in state.picks.values() for e in es)
  return " ".join(scopes.get(k, "") for k in picked)


def original(state) -> str:
  """The method that first paid for what is being picked, or ""."""
  for es in state.picks.values():
    for e in es:
      record = state.seen.first.get(e.id)
      if record and (history := record.get("payment_history")):
        first = history[0]
        return first.get("payment_method_id") or first.get("payment_id", "")
  return ""


def _may(act: str, e: entities.Entity, paid: str, need: float) -> bool:
  source = _source(e)
  if act.startswith("return"):
    return e.id == paid or source == "gift_card"
  if act.endswith("_payment") and e.id == paid:
    return False
  if source == "certificate":
    return act.startswith("book")
  return source != "gift_card" or _balance(e) >= need


def _source(e: entities.Entity) -> str:
  return e.fields.get("source") or re.sub(r"_\d+$", "", e.id)


def _balance(e: entities.Entity) -> float:
  text = e.fields.get("balance") or e.fields.get("amount") or "inf"
  return float(text.split("; ")[-1])


def _need(state, act: str) -> float:
  """What the picks cost beyond what was paid, 0 where unknown."""
  if act.endswith("_payment"):
    picked = [e.id for es in state.picks.values() for e in es]
    return sum(ledger.total(state.seen.first.get(i, {})) for i in picked)
  if trip := next(iter(state.picks.get("reservation_id", ())), None):
    return ledger.price_of_change(state.seen, trip.value, state.picks)
  old = [e.id for e in state.picks.get("item_ids", ()) if e.type == "item"]
  new = [e.id for e in state.picks.get("new_item_ids", ())]
  if len(old) != len(new):
    return 0.0
  price = lambda i: ledger.price_of(state.seen, i) or 0.0
  return sum(map(price, new)) - sum(map(price, old))


def _named(text: str, e: entities.Entity, paid: str) -> float:
  """Place of the method among those named; large where it is not."""
  source = _source(e)
  places = [m.start() for m in _KINDS[source].finditer(text)]
  if source == "credit_card":
    places = _card_places(text, e, places)
  if e.id == paid:
    places += [m.start() for m in re.finditer(r"\boriginal\b", text)]
    places = [
      p for p in places
      if not re.search(r"\bother (card|payment)", text[p - 8 : p + 20])
    ]  # fmt: skip
  elif source == "credit_card":
    places += [m.start() for m in re.finditer(r"\bother card\b", text)]
  if not places:
    return float("inf")
  if re.search(r"\b(smallest|lowest) balance", text):
    return 0.0
  if _CHANGED.search(text):
    return -max(places)
  return min(places)


def _card_places(text: str, e: entities.Entity, places: list[int]) -> list[int]:
  """Of several cards, the number or the brand that was named decides."""
  if (four := e.fields.get("last_four")) and four in text:
    return [text.find(four)]
  if re.search(r"\bending (in )?\d{4}|\b\d{4} card", text):
    return []
  brands = [b for w, b in _BRANDS.items() if w in text]
  if brands and e.fields.get("brand", "").lower() not in brands:
    return []
  return places
