"""psi(s, c): the candidates of a pointer against what was said, done and read.

A group of columns is a function; a column has a name and one value a candidate.
STOP, the last option of a list that may be closed, has columns of its own.
"""

from __future__ import annotations

import functools
import math
import re
import zlib

import numpy as np

from jax_cl.agents import dialogue, mentions
from jax_cl.agents.dialogue import HINT, WISH
from jax_cl.tasks import actions, entities
from jax_cl.tasks.language import intents, reading

# Column -> place in the row.
NAMES = {
  name: i
  for i, name in enumerate((
    # of STOP
    "stop", "stop_second", "stop_place", "stop_left", "stop_more", "stop_named",
    # the value itself, and its past
    "spoken", "spoken_now", "used_here", "used", "written", "rank", "new",
    "by_user", "derived",
    # its words among the user's
    "rarity", "named", "named_fully", "rarest", "most_named",
    # what was chosen before
    "related_first", "related", "aligned", "similar", "most_similar",
    "available", "sold_out",
    # a variant against the item it replaces
    "kept", "unchanged", "asked", "unasked", "cheaper", "as_asked",
    # the line that is about it
    "line_verb", "line_rarity",
    # pairs of the above
    "in_turn", "unused_related", "rarest_related", "named_related",
    "rarest_aligned", "all_related", "excepted", "named_twice",
    # extremes, and those that were asked for
    "biggest", "smallest", "cheapest", "dearest",
    "biggest_asked", "smallest_asked", "cheapest_asked", "dearest_asked",
    "free_biggest", "free_smallest", "free_cheapest",
    "named_unwritten", "free_as_asked",
    # its mention
    "mentioned", "verb_here", "verb_other", "mentioned_related", "verb_related",
    "status_here",
    # an order and the named things in it
    "order_open", "order_many", "order_verb", "order_both", "order_status",
    "order_unwritten",
    # a variant against what was said of that item
    "said_unchanged", "said_asked", "said_unasked", "said_cheaper",
    "said_as_asked", "up_asked", "down_asked", "up_unasked", "down_unasked",
    "free_elsewhere",
    # the reading of the user's wishes
    "first_wish", "any_wish", "item_wish", "item_unwished", "stop_complete",
    "stop_early", "best_variant", "variant_gap", "hint", "unopened",
    "first_unopened", "refused", "reason", "value_kind", "value_both",
    "value_name", "value_asked", "likely",
  ))
}  # fmt: skip
NUMERIC = 96  # named columns
BUCKETS = 16  # hashed categorical fields
WIDTH = NUMERIC + BUCKETS  # Dc

# Words that ask for an extreme, in the order of `_extremes`.
CUES = (
  re.compile(r"\b(max\w*|most|bigge\w+|large\w*|high\w*|longe\w+|more|upgrade"
             r"|bright\w+|fast\w*|late\w*)\b"),
  re.compile(r"\b(min\w*|least|small\w*|low\w*|short\w*|less|downgrade"
             r"|early|earli\w+)\b"),
  re.compile(r"\b(cheap\w*|save|lowest price|least expensive)\b"),
  re.compile(r"\b(most expensive|expensive|lottery)\b"),
)  # fmt: skip
ALL = re.compile(r"\b(all|every|everything|both|entire)\b")
EXCEPT = re.compile(r"\b(?:except|but not|other than|keep|besides)\b(.*)")
_SKIP = ("name", "price", "available", "status")  # no options of a variant


def psi(
  state: actions.State, choice: actions.Choice, similar: np.ndarray
) -> np.ndarray:
  """float32[options, WIDTH]; `similar`, see `Featurizer.likeness`."""
  f = dialogue.Columns(NAMES, len(choice.options), WIDTH)
  a = About(state, choice)
  real = dialogue.Columns(NAMES, 0, 0)
  real.values = f.values[: len(a.options)]  # a view: STOP's row stays apart
  _values(real, a)
  _words(real, a)
  _links(real, a, similar)
  _lines(real, a)
  _pairs(real, a)
  if a.aligned is not None:
    _changes(real, a)
  _extremes(real, a)
  _mentions(real, a)
  _orders(real, a)
  _buckets(real, a)
  if len(a.options) < len(choice.options):
    _stop(f, a)
  if state.space.reads:
    _wishes(f, a)
  return f.values


class About:
  """A pointer's choice and what its groups of columns share."""

  def __init__(self, state: actions.State, choice: actions.Choice):
    assert state.act is not None and choice.slot is not None
    self.state, self.choice = state, choice
    self.act, self.slot, self.place = state.act, choice.slot, choice.position
    self.options = [e for e in choice.options if e is not actions.STOP]
    self.view = dialogue.view(state)
    self.said = self.view.said
    self.verb = state.act.tool.split("_")[0]
    self.chosen = [e for es in state.picks.values() for e in es]
    self.says_all = bool(ALL.search(self.said.low))
    related = lambda e: any(actions.related(e, c) for c in self.chosen)
    self.related = np.array([related(e) for e in self.options], np.bool_)
    self.bags = [dialogue.bag(e) for e in self.options]
    self.counts: dict[str, int] = {}
    for bag in self.bags:
      for w in bag:
        self.counts[w] = self.counts.get(w, 0) + 1
    self.named = [self._named(e) for e in self.options]

  def _named(self, e: entities.Entity) -> float:
    """`dialogue.named` by the user so far, kept with the entity."""
    stamp = len(self.said.texts)
    if e.memo.get("named", (None,))[0] != stamp:
      e.memo["named"] = (stamp, dialogue.named(e, self.said.words))
    return e.memo["named"][1]

  def rarity(self, shared: set[str]) -> float:
    """sum_w 1 / (number of candidates that have w)."""
    return math.fsum(1 / self.counts[w] for w in shared)  # of any order

  @functools.cached_property
  def aligned(self) -> entities.Entity | None:
    """The old item that the variant to be chosen replaces."""
    if self.slot.type != "variant":
      return None
    old = self.state.picks.get("item_ids", ())
    items = [e for e in old if e is not actions.STOP]
    return items[self.place] if self.place < len(items) else None

  @functools.cached_property
  def same(self) -> list[bool]:
    """Which options are of the product to be replaced; all if there is none."""
    old = self.aligned
    return [old is None or _shares(e, old) for e in self.options]

  @functools.cached_property
  def about(self) -> str:
    """What was said of the item to be replaced, else all that was said."""
    mention = mentions.NOWHERE
    if self.aligned is not None:
      mention = self.view.mentions.get(self.aligned.key, mention)
    if not mention.scope:
      return self.said.low
    return f"{mention.before[-40:]} {mention.scope}"

  @functools.cached_property
  def cues(self) -> list[bool]:
    return [bool(c.search(self.about)) for c in CUES]


# ---------------------------------------------------------------- option groups
def _stop(f, a: About) -> None:
  """Of STOP: how many were picked, and whether something is left to pick."""
  left = any(n >= 1 and r for n, r in zip(a.named, a.related, strict=True))
  f.values[-1, : NAMES["spoken"]] = (
    1,
    a.place == 1,
    min(a.place, 5) / 5,
    left,
    a.says_all and bool(a.related.any()),
    max(a.named, default=0),
  )


def _values(f, a: About) -> None:
  state, text, latest = a.state, a.said.text, a.view.latest
  plain = ["" if isinstance(e.value, dict) else str(e.value) for e in a.options]
  here = state.used.get((a.act.name, a.slot.name), set())
  turns = [e.turn for e in a.options]
  f["spoken"] = [bool(v) and v in text for v in plain]
  f["spoken_now"] = [bool(v) and v in latest for v in plain]
  f["used_here"] = [e.key in here for e in a.options]
  f["used"] = [e.key in a.view.used for e in a.options]
  f["written"] = [e.key in state.written for e in a.options]
  f["rank"] = 1 / np.arange(1, len(a.options) + 1)
  f["new"] = np.array(turns) == max(turns, default=0)
  f["by_user"] = [e.source == "user" for e in a.options]
  f["derived"] = [e.source == "derived" for e in a.options]


def _words(f, a: About) -> None:
  rarity = np.array([a.rarity(bag & a.said.words) for bag in a.bags])
  named = np.array(a.named)
  f["rarity"] = np.minimum(rarity, 4) / 4
  f["named"] = named
  f["named_fully"] = named >= 1
  f["rarest"] = (rarity > 0) & (rarity == rarity.max(initial=0))
  f["most_named"] = (named > 0) & (named == named.max(initial=0))


def _links(f, a: About, similar: np.ndarray) -> None:
  if a.chosen:
    f["related_first"] = [actions.related(e, a.chosen[0]) for e in a.options]
  f["related"] = a.related
  f["aligned"] = np.array(a.same) & (a.aligned is not None)
  near = f["similar"] = similar[: len(a.options)]
  f["most_similar"] = near >= similar.max(initial=-np.inf)
  free = [e.fields.get("available") for e in a.options]
  f["available"] = [x == "True" for x in free]
  f["sold_out"] = [x == "False" for x in free]


def _lines(f, a: About) -> None:
  """The line of the user's that shares most words with a candidate."""
  verbs = set(dialogue.words(a.act.name.replace("_", " ")))
  lines = [a.said.nearest_line(bag) for bag in a.bags]
  f["line_verb"] = [bool(verbs & line) for line in lines]
  f["line_rarity"] = [
    min(a.rarity(bag & line), 4) / 4
    for bag, line in zip(a.bags, lines, strict=True)
  ]


def _pairs(f, a: About) -> None:
  without = {w for m in EXCEPT.findall(a.said.low) for w in dialogue.words(m)}
  twice = lambda e: sum(
    dialogue.share(name, a.said.words) >= 1 for name in dialogue.names(e)
  )
  f["in_turn"] = np.arange(len(a.options)) == a.place
  f["unused_related"] = a.related * (1 - f["used"])
  f["rarest_related"] = f["rarest"] * a.related
  f["named_related"] = f["named_fully"] * a.related
  f["rarest_aligned"] = f["aligned"] * f["rarest"]
  f["all_related"] = a.says_all * a.related
  if without:
    f["excepted"] = [dialogue.named(e, without) >= 1 for e in a.options]
  f["named_twice"] = [
    n >= 1 and twice(e) > 1 for e, n in zip(a.options, a.named, strict=True)
  ]
  f["named_unwritten"] = f["named_fully"] * (1 - f["written"])


def _changes(f, a: About) -> None:
  """What a variant keeps and changes of the item it would replace."""
  old, heard = a.aligned, set(dialogue.words(a.about))
  assert old is not None
  whole, said, steps = np.zeros((3, len(a.options), 6), np.float32)
  for i, e in enumerate(a.options):
    if a.same[i]:
      whole[i] = _change(e, old, a.said.words)
      said[i] = _change(e, old, heard)
      steps[i, :2] = _compared(e, old)
  up, down = steps[:, 0], steps[:, 1]
  first, last = NAMES["kept"], NAMES["said_unchanged"]
  f.values[:, first : first + 6] = whole
  f.values[:, last : last + 5] = said[:, 1:]
  f["up_asked"], f["down_asked"] = up * a.cues[0], down * a.cues[1]
  f["up_unasked"] = up * (not a.cues[0])
  f["down_unasked"] = down * (not a.cues[1])
  f["free_as_asked"] = f["aligned"] * f["available"] * f["as_asked"]
  f["free_elsewhere"] = (
    f["available"] * f["said_unasked"] * (f["unasked"] == 0) * np.array(a.same)
  )


def _extremes(f, a: About) -> None:
  """The largest, smallest, cheapest, dearest, and whether it was asked for."""
  names = ("biggest", "smallest", "cheapest", "dearest")
  columns = zip(*_extreme(a.options, a.same)) if a.options else ()
  for name, cue, column in zip(names, a.cues, columns):
    f[name] = column
    f[f"{name}_asked"] = f[name] * cue
  for name in names[:3]:
    f[f"free_{name}"] = f["available"] * f[f"{name}_asked"]


def _mentions(f, a: About) -> None:
  """Where the user named it, and with which verb."""
  found = [a.view.mentions.get(e.key, mentions.NOWHERE) for e in a.options]
  status = [e.fields.get("status", "") for e in a.options]
  f["mentioned"] = [bool(m.scope) for m in found]
  f["verb_here"] = [a.verb in m.verbs for m in found]
  f["verb_other"] = [bool(m.verbs) and a.verb not in m.verbs for m in found]
  f["mentioned_related"] = f["mentioned"] * a.related * (1 - f["written"])
  f["verb_related"] = f["verb_here"] * a.related
  f["status_here"] = [bool(s) and s in a.act.tool for s in status]


def _orders(f, a: About) -> None:
  """An order by the named things in it that nothing was done with."""
  items = [m.entity for m in a.view.matters if m.entity.type == "item"]
  for row, e in zip(f.values, a.options, strict=True):
    if e.type != "order":
      continue
    inside = [x for x in items if actions.related(x, e)]
    verb = any(a.verb in a.view.mentions[x.key].verbs for x in inside)
    status = row[NAMES["status_here"]]
    first = NAMES["order_open"]
    row[first : first + 6] = (
      bool(inside),
      min(len(inside), 3) / 3,
      verb,
      status * verb,
      status * bool(inside),
      status * (1 - row[NAMES["written"]]),
    )


@functools.lru_cache(maxsize=1 << 14)
def _bucket(key: str, value: str) -> int | None:
  """The column of a categorical field; None of texts that are none."""
  if len(value) >= 24 or re.search(r"\d\d", value):
    return None
  return NUMERIC + zlib.crc32(f"{key}={value}".encode()) % BUCKETS


def _buckets(f, a: About) -> None:
  for row, e in zip(f.values, a.options, strict=True):
    for k, v in e.fields.items():
      if (at := _bucket(k, v)) is not None:
        row[at] += 1


# ------------------------------------------------------------------ wish groups
def _wishes(f, a: About) -> None:
  """How the options, STOP too, agree with the reading of the user's wishes."""
  type_, options = a.slot.type, a.choice.options
  wishes = [w for w in a.view.wishes if w.act == a.act.name]
  picked = {e.key for e in a.chosen}
  own = next((w for w in wishes if w.order.key in picked), None)
  if type_ in ("order", "reservation", "user") and wishes:
    orders = [w.order.key for w in wishes]
    f["first_wish"] = [WISH * (e.key == orders[0]) for e in options]
    f["any_wish"] = [WISH * (e.key in orders) for e in options]
  elif type_ in ("item", "number") and own:
    _items(f, options, {e.key for e in own.items}, picked)
  elif type_ == "variant" and a.aligned is not None:
    _variants(f, a, a.aligned)
  elif type_ == "product":
    unopened = [p.key for p in a.view.unopened]
    f["unopened"] = [WISH * (e.key in unopened) for e in options]
    f["first_unopened"] = [WISH * (e.key in unopened[:1]) for e in options]
  if a.slot.name == "reason":
    slip = reading.slipped(a.state)
    f["reason"] = [
      WISH * (("mistake" in str(e.value)) == slip) for e in options
    ]
  failed, name = a.state.failed, a.act.name
  f["hint"] = HINT * np.array(intents.hint(a.state, a.choice))
  f["refused"] = [WISH * ((name, e.key) in failed) for e in options]
  likely = _likely(a)
  f["likely"] = [WISH * (i == likely) for i in range(len(options))]
  if type_ == "value":
    _told(f, a)


def _items(f, options, mine: set[str], picked: set[str]) -> None:
  """Items of the order that is acted on, and STOP."""
  stop = np.array([e is actions.STOP for e in options])
  wanted = np.array([e.key in mine for e in options])
  f["item_wish"] = WISH * wanted
  f["item_unwished"] = WISH * (~stop & ~wanted)
  f["stop_complete"] = WISH * (stop & (mine <= picked))
  f["stop_early"] = WISH * (stop & (not mine <= picked))


def _variants(f, a: About, old: entities.Entity) -> None:
  said = reading.read(a.state)
  scope = said.scopes.get(old.key) or said.text
  like = reading.like_of(a.state, old, scope)
  score = reading.variant_scores(a.choice.options, old, scope, like)
  best = max(score, default=0.0)
  f["best_variant"] = [WISH * (s == best) for s in score]
  f["variant_gap"] = [WISH / 2 * max(s - best, -4) for s in score]


def _likely(a: About) -> int | None:
  """The caller's name, or the address that is meant."""
  if a.slot.type in ("person", "zip", "email", "user"):
    return reading.caller(a.state, a.choice.options)
  if a.slot.type == "address":
    text = reading.read(a.state).text
    return reading.address(a.state, a.choice.options, text)
  return None


def _told(f, a: About) -> None:
  """A value by the words for its kind and for what it is a value of."""
  heard, name = a.said.words, NAMES["value_kind"]
  for row, e in zip(f.values, a.options):  # STOP comes last and is left out
    kind = dialogue.share(dialogue.words(e.fields.get("kind", "")), heard)
    of = dialogue.share(dialogue.words(e.fields.get("name", "")), heard)
    row[name : name + 3] = WISH / 2 * np.array([kind, kind * of, of])
    row[name + 3] = WISH * (kind >= 1) * (of >= 1)


# -------------------------------------------------------------------- variants
def _shares(e: entities.Entity, item: entities.Entity) -> bool:
  """A variant of the item's product."""
  return bool(e.links & item.links) and "options" not in e.fields


def _change(
  new: entities.Entity, old: entities.Entity, heard: set[str]
) -> tuple[float, ...]:
  """Share of options kept, all kept, share of changes that were asked for,
  share changed unasked, cheaper, changed just as asked.
  """
  keys = [k for k in new.fields if k in old.fields and k not in _SKIP]
  changed = [k for k in keys if new.fields[k] != old.fields[k]]
  words = dialogue.words
  asked = [
    k
    for k in changed
    if (w := set(words(new.fields[k])) - set(words(old.fields[k])))
    and w <= heard
  ]
  n = max(len(keys), 1)
  price = lambda e: float(e.fields.get("price", 0))
  return (
    (n - len(changed)) / n,
    not changed,
    len(asked) / max(len(changed), 1),
    (len(changed) - len(asked)) / n,
    price(new) < price(old),
    len(asked) == len(changed) > 0,
  )


def _compared(new: entities.Entity, old: entities.Entity) -> tuple[bool, bool]:
  """(some size above the old one's, some size below it)."""
  pairs = [
    (_magnitude(v), _magnitude(old.fields[k]))
    for k, v in new.fields.items()
    if k in old.fields and k not in _SKIP
  ]
  known = [(a, b) for a, b in pairs if a is not None and b is not None]
  return any(a > b for a, b in known), any(a < b for a, b in known)


@functools.lru_cache(maxsize=1 << 14)
def _magnitude(text: str) -> float | None:
  """The number in an option's value: 10x, 1000ml, 15-inch, high."""
  scale = {"low": 0.0, "small": 0.0, "medium": 1.0, "large": 2.0, "high": 2.0}
  if text.lower() in scale:
    return scale[text.lower()]
  m = re.search(r"\d+(?:\.\d+)?", text)
  return float(m.group()) if m else None


def _extreme(options, same) -> list[tuple[bool, bool, bool, bool]]:
  """(largest, smallest, cheapest, dearest) among what can be compared.

  These are available and of the same product; sizes are the numbers of option
  values.
  """
  skip = (*_SKIP, "value", "kind")
  sizes: list[dict[str, float]] = []
  prices: list[float | None] = []
  for e, of_product in zip(options, same, strict=True):
    ok = of_product and e.fields.get("available") != "False"
    known = {k: _magnitude(v) for k, v in e.fields.items() if k not in skip}
    sizes.append({k: m for k, m in known.items() if ok and m is not None})
    prices.append(_magnitude(e.fields.get("price", "")) if ok else None)
  ranges: dict[str, tuple[float, float]] = {}
  for own in sizes:
    for k, m in own.items():
      low, high = ranges.get(k, (m, m))
      ranges[k] = min(low, m), max(high, m)
  told = {k: r for k, r in ranges.items() if r[0] < r[1]}
  asked = [p for p in prices if p is not None]
  return [
    (
      any(own[k] == told[k][1] for k in own if k in told),
      any(own[k] == told[k][0] for k in own if k in told),
      p is not None and p == min(asked),
      p is not None and p == max(asked),
    )
    for own, p in zip(sizes, prices, strict=True)
  ]
