"""Whether the condition of a clause is met by what was seen so far.

"If that one is sold out", "if it cannot be cancelled alone", "if it costs less
than 200": variants on offer, the domain's policy and prices answer them. None
where nothing seen so far can tell.
"""

from __future__ import annotations

import re
from typing import Any

from jax_cl.tasks.language import variants

Story = Any  # `story.Story`, which imports this module
Draft = Any

NEGATIVE = re.compile(
  r"\b(no|not|none|cannot|unavailable|impossible|out of stock|sold out"
  r"|refus\w+|denied|denies|too late|nothing|neither|fails?|unable|too low)\b"
)
_ALL_OR_NONE = re.compile(  # said of what cannot be done in part
  r"\ball or nothing\b|\bonly (?:way|option|choice|possibility)\b"
  r"|\b(?:only|must|ha(?:s|ve) to|needs? to)\b[^.]*"
  r"\b(?:whole|entire|complete|full)\b"
)
_STOCK = re.compile(
  r"\b(availab\w+|unavailable|stock|sold out|there (is|are)|exists?"
  r"|have (it|one|that)|can be found)\b"
)
_BALANCE = re.compile(
  r"\b(balance|cover|suffic\w+|enough|afford\w*)\b|gift card.*(low|short)"
)
_POSSIBLE = re.compile(
  r"\b(possible|impossible|can|cannot|could|able|unable|allow\w*|refus\w+"
  r"|denied|denies|too late|permitted|works?|be done|fails?|says? no|option)\b"
)
_MANY = re.compile(r"\b(multiple|several|both are|more than one|two or more)\b")
_LIMIT = re.compile(
  r"\b(less|under|below|cheaper|lower|more|over|above|greater|higher"
  r"|exceeds?)\b(?: expensive| costly)?(?: than)?"
  r" \$?(\d+(?:\.\d+)?)(?! (?:pieces|inch|gb|days))"
)


def negative(condition: str) -> bool:
  """It speaks of something that is not, or cannot be."""
  return bool(NEGATIVE.search(condition) or _ALL_OR_NONE.search(condition))


def holds(story: Story, condition: str, prior: list[Draft]) -> bool | None:
  """Whether a condition is met by what was seen; None: it cannot be told."""
  no = negative(condition)
  if _MANY.search(condition):
    return None
  if m := _LIMIT.search(condition):
    return _limit(story, condition, m.group(1), float(m.group(2)), prior)
  if _BALANCE.search(condition):
    return _affordable(story, prior) != no
  if re.search(r"\bgift ?card\b", condition) and "refund" in condition:
    return _refundable(story, prior) != no
  if _STOCK.search(condition) and prior:
    spoken = " ".join(_values(condition))
    gone = any(_gone(story, d, spoken) for d in prior if d.fate == "replace")
    return (not gone) != no
  if _POSSIBLE.search(condition) or _ALL_OR_NONE.search(condition):
    if not prior and not no:
      return None  # "if it is possible, ...": politeness
    return _feasible(story, prior) != no
  return None


def _gone(story: Story, d: Draft, more: str) -> bool:
  found = story.state.seen.of("variant")
  return variants.sold_out(found, d.item, " . ".join([*d.scope, more]))


def _feasible(story: Story, prior: list[Draft]) -> bool:
  """The policy lets all of it be done; what was not understood it does not."""
  if not prior:
    return False
  return all(
    story.possible(d) and not (d.fate == "replace" and _gone(story, d, ""))
    for d in prior
  )


def _refundable(story: Story, prior: list[Draft]) -> bool:
  """To a gift card: what is cancelled goes back to the method that paid."""
  first = story.state.seen.first
  for d in prior:
    paid = first.get(d.order, {}).get("payment_history", [{}])[0]
    if story.held.status(d.order) == "pending" and "gift" not in str(
      paid.get("payment_method_id")
    ):
      return False
  return any("gift" in e.id for e in story.state.seen.of("payment"))


def _limit(
  story: Story, condition: str, word: str, most: float, prior: list[Draft]
) -> bool | None:
  """A price compared: of the cheapest variant on offer, else of the thing."""
  drafts = prior or story.topic or story.spoken(condition)
  if not drafts:
    return None
  price = lambda e: float(e.fields.get("price", 0) or 0)
  free = [
    price(e) for e in story.state.seen.of("variant")
    if e.links & drafts[0].item.links and e.fields.get("available") != "False"
  ]  # fmt: skip
  own = min(free) if free and not prior else price(drafts[0].item)
  less = word in ("less", "under", "below", "cheaper", "lower")
  return own < most if less else own > most


def _affordable(story: Story, prior: list[Draft]) -> bool:
  """A gift card of the caller covers what the drafts cost more."""
  cards = [
    float(e.fields["balance"].split("; ")[-1])
    for e in story.state.seen.of("payment") if e.fields.get("balance")
  ]  # fmt: skip
  if not cards:
    return False
  if not prior:
    return any(
      sum(float(e.fields.get("price", 0)) for e in story.held.inside[o])
      <= max(cards) for o in story.orders
    )  # fmt: skip
  return sum(_extra(story, d) for d in prior) <= max(cards)


def _extra(story: Story, d: Draft) -> float:
  """What the variant that answers best costs beyond the item."""
  options = story.state.seen.of("variant")
  scores = variants.variant_scores(options, d.item, " . ".join(d.scope))
  if d.fate != "replace" or not any(scores):
    return 0.0
  price = lambda e: float(e.fields.get("price", 0) or 0)
  return price(options[scores.index(max(scores))]) - price(d.item)


def _values(condition: str) -> list[str]:
  """A condition without the words that make it one."""
  text = re.sub(NEGATIVE, " ", re.sub(_STOCK, " ", condition))
  return re.findall(r"[\w.-]+", text)
