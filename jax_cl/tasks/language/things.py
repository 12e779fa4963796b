"""Which of the things seen so far a user's words name: orders and items.

A thing is called by its product's name, by the noun in it, or by one of a few
words for the same (`SYNONYMS`, plain English). Of several that answer to a
name, those are meant whose options, price, order or company the words describe.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jax_cl.tasks import entities
from jax_cl.tasks.language import variants
from jax_cl.tasks.language.clauses import flat, plain

SYNONYMS: Mapping[str, tuple[str, ...]] = {
  "bookshelf": ("bookcase", "shelf", "shelves", "book shelf"),
  "tshirt": ("tee", "shirt"),
  "smartphone": ("phone", "cell"), "bicycle": ("bike",),
  "laptop": ("computer", "pc"), "luggage": ("luggage", "suitcase", "trolley"),
  "vacuum": ("vacuum", "hoover", "cleaner"), "jacket": ("fleece",),
  "headphones": ("headset", "headphone"), "earbuds": ("earphone", "bud"),
  "charger": ("power bank",), "bulb": ("light",), "lamp": ("light",),
  "puzzle": ("jigsaw",), "security": ("camera",),
  "ereader": ("e reader", "reader"),
  "espresso": ("espresso maker", "coffee machine", "coffee maker"),
  "coffee": ("coffee machine", "coffeemaker"), "makeup": ("cosmetics",),
  "shoes": ("sneaker", "trainer"), "sneakers": ("shoe", "trainer"),
  "perfume": ("fragrance", "scent"), "skateboard": ("board",),
  "sunglasses": ("shades", "glasses"), "grill": ("bbq", "barbecue"),
  "dumbbell": ("weights",), "backpack": ("rucksack", "bag"),
  "umbrella": ("parasol",), "camera": ("cam",), "watch": ("wristwatch",),
  "notebook": ("notepad",), "purifier": ("air cleaner",),
}  # fmt: skip
_GENERIC = ("set", "kit", "machine", "maker", "cleaner")
_ORDERED = (  # words that make what follows the mark of an order
  r"\b(?:(?:order|parcel|package|shipment|purchase|delivery|orders)"
  r"(?: (?:that|which|it|i|is|are|was|also|still|already))*"
  r" (?:with|has|have|having|contain\w*|includ\w*|of|for|in|it is in)"
  r"|one(?: (?:that|which|also|still|already))*"
  r" (?:with|has|have|having|contain\w*|includ\w*|it is in))"
  r"(?: the| my| an?| both| two)?(?: \w+){0,2} $"
  r"|\b(?:received|ordered|bought|arrived|came)(?: together| along)? with"
  r"(?: the| my| an?)(?: \w+)? $"
)


class Name(NamedTuple):
  """A place in a clause where things are named."""

  start: int
  end: int
  names: frozenset[str]  # of products, as exactly as the words allow
  marks: bool  # it tells which order is meant, nothing of the thing
  plural: bool


@dataclasses.dataclass(frozen=True)
class Shelf:
  """The orders of a caller and what was in them when first seen."""

  orders: tuple[entities.Entity, ...]
  inside: Mapping[str, tuple[entities.Entity, ...]]  # order id -> items

  @functools.cached_property
  def items(self) -> tuple[entities.Entity, ...]:
    held = {e.key: e for es in self.inside.values() for e in es}
    return tuple(held.values())

  @functools.cached_property
  def names(self) -> tuple[str, ...]:
    names = (e.fields.get("name", "") for e in self.items)
    return tuple(dict.fromkeys(n for n in names if n))

  @functools.cached_property
  def keys(self) -> frozenset[str]:
    """Words that options are called by: "color", "frame size"."""
    return frozenset(
      w
      for e in self.items
      for k in variants.options_of(e)
      for w in k.split()
      if len(w) > 2
    )

  def status(self, order: str) -> str:
    return next(
      (o.fields.get("status", "") for o in self.orders if o.id == order), ""
    )

  def homes(self, e: entities.Entity) -> list[str]:
    """Ids of the orders that hold an item."""
    return [o.id for o in self.orders if e in self.inside[o.id]]


def shelf(state) -> Shelf:
  orders = tuple(_as_first_seen(state, o) for o in state.seen.of("order"))
  items = state.seen.of("item")
  return Shelf(orders, {o.id: _contents(state, o, items) for o in orders})


def _as_first_seen(state, order: entities.Entity) -> entities.Entity:
  """The order with its first status: a return must not start another one."""
  first = state.seen.first.get(order.id, {})
  fields = {**order.fields, "status": first.get("status", "")}
  return dataclasses.replace(order, fields=fields, memo={})


def _contents(state, order, items) -> tuple[entities.Entity, ...]:
  first = state.seen.first.get(order.id, {})
  ids = [x.get("item_id") for x in first.get("items", ())]
  return tuple(e for e in items if e.value in ids)


# ----------------------------------------------------------------------- names
@functools.lru_cache(maxsize=4096)
def _ways(name: str) -> tuple[tuple[re.Pattern, int], ...]:
  """What a product is called, and how exactly each way names it."""
  words = re.findall(r"[a-z0-9]+", flat(name))
  head = words[-2] if words[-1] in _GENERIC and len(words) > 1 else words[-1]
  ways = [(" ".join(words), 3), (head, 1)]
  if len(words) > 2:
    ways.append((" ".join(words[-2:]), 2))
  for w in words:
    for s in SYNONYMS.get(w, SYNONYMS.get(w.rstrip("s"), ())):
      ways.append((s, 1))
  if head.endswith(("shelf", "watch", "board")):
    ways.append((head[-5:], 1))
  return tuple((_pattern(text), n) for text, n in ways)


def _pattern(text: str) -> re.Pattern:
  words, stem = text, re.escape(text)
  if words.endswith("f"):
    stem = rf"{stem[:-1]}(?:f|ves)"
  elif words.endswith("y"):
    stem = rf"{stem[:-1]}(?:y|ies)"
  elif words.endswith("s") and not words.endswith("ss"):
    stem = rf"{stem}?"
  else:
    stem = rf"{stem}(?:s|es)?"
  return re.compile(rf"\b{stem}\b(?!\w)")


@functools.lru_cache(maxsize=1 << 14)
def named(text: str, names: tuple[str, ...]) -> list[Name]:
  """Where products are named, from left to right, the longest way first."""
  found: list[tuple[int, int, int, str]] = []
  for name in names:
    words = set(re.findall(r"[a-z0-9]+", flat(name))[:-1])
    for way, exact in _ways(name):
      for m in way.finditer(text):
        before = re.findall(r"[a-z0-9]+", text[: m.start()])[-3:]
        close = exact + bool(words & set(before))
        found.append((m.start(), m.end(), close, name))
  out: list[Name] = []
  for start, end in _apart([(s, e) for s, e, _, _ in found]):
    here = [f for f in found if f[0] < end and f[1] > start]
    best = max(f[2] for f in here)
    known = frozenset(n for _, _, c, n in here if c == best)
    marks = re.search(_ORDERED, text[:start]) or re.match(
      r" orders?\b", text[end:]
    )
    word = text[start:end]
    plural = word.endswith("s") and not any(
      flat(n).endswith(word) for n in known
    )
    out.append(Name(start, end, known, bool(marks), plural))
  return out


def _apart(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
  """Spans that do not overlap, longer ones first."""
  out: list[tuple[int, int]] = []
  for s, e in sorted(set(spans), key=lambda x: (x[0] - x[1], x[0])):
    if all(e <= a or s >= b for a, b in out):
      out.append((s, e))
  return sorted(out)


# ---------------------------------------------------------------- which of them
def ids(text: str, held: Shelf) -> list[str]:
  """Orders that are named by their number."""
  return [o.id for o in held.orders if flat(o.id).lstrip("#") in text]


def states(text: str) -> tuple[str, ...]:
  """Statuses that the words speak of."""
  out = ()
  if re.search(
    r"\bpending\b|\bjust (ordered|placed)|\bon order\b|not? (been )?shipped"
    r"|not (been )?(delivered|arrived)|\byou ordered\b|\bi ordered\b", text,
  ):  # fmt: skip
    out += ("pending",)
  if re.search(
    r"(?<!not )(?<!been )\b(received|arrived|delivered|already have|got)\b",
    text,
  ):
    out += ("delivered",)
  return out


def fitting(verb: str, fate: str) -> tuple[str, ...]:
  """Statuses of orders in which a verb can be carried out, the likely first."""
  return {
    "return": ("delivered",), "cancel": ("pending",),
    "exchange": ("delivered", "pending"), "modify": ("pending", "delivered"),
  }.get(verb, ("pending", "delivered") if fate else ())  # fmt: skip


def narrow(
  same: Sequence[entities.Entity], about: str
) -> list[entities.Entity]:
  """Of several items, those that words describe best: options, price."""
  same = list(same)
  if len(same) < 2:
    return same
  if variants.DEAR.search(about) or variants.CHEAP.search(about):
    price = lambda e: float(e.fields.get("price", 0) or 0)
    least = variants.CHEAP.search(about)
    return [(min if least else max)(same, key=price)]
  text = variants.digits(plain(about))
  if left := _by_size(same, text, "er"):
    return left
  best = spoken_of(same, text)
  if len(best) == len(same) and (left := _by_size(same, text, "")):
    return left
  return best


def spoken_of(
  same: Sequence[entities.Entity], text: str
) -> list[entities.Entity]:
  """Those of which most values are named that not all of them have."""
  score = [0.0] * len(same)
  for k in {k for e in same for k in variants.options_of(e)}:
    values = [e.fields.get(k, "") for e in same]
    told = {
      v for v in set(values)
      if v and variants.says(text, v, values) is not None
    }  # fmt: skip
    if len(set(values)) > 1:
      score = [s + (v in told) for s, v in zip(score, values, strict=True)]
  return [e for e, s in zip(same, score, strict=True) if s == max(score)]


def _by_size(
  same: list[entities.Entity], text: str, form: str
) -> list[entities.Entity]:
  """ "The smaller backpack", "the taller one" of two; "the small one" too."""
  m = re.search(
    rf"\bthe (small|short|light|big|larg|tall|long|heav)\w*{form}\b", text
  )
  if not m:
    return []
  for k in variants.options_of(same[0]):
    ranks = [variants.rank(e.fields.get(k, "")) for e in same]
    known = [r for r in ranks if r is not None]
    if len(known) == len(same) and len(set(known)) > 1:
      least = m.group(1) in ("small", "short", "light")
      aim = min(known) if least else max(known)
      return [e for e, r in zip(same, ranks, strict=True) if r == aim]
  return []


def in_company(
  own: Sequence[entities.Entity], held: Shelf, told: set[str]
) -> list[entities.Entity]:
  """Those whose order holds most of what else was named."""
  scores = []
  for e in own:
    names = [
      {x.fields.get("name", "") for x in held.inside[h]} for h in held.homes(e)
    ]
    scores.append(max((len(n & told) for n in names), default=0))
  return [e for e, n in zip(own, scores, strict=True) if n == max(scores)]
