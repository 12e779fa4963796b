"""Which variant of a product is meant: options, comparatives, prices.

What was said of a thing is matched with the options that its product comes in,
so that "20 hours", "waterproof" or "softer" need no list of products here: a
value is spoken of by its own words or those that tell it from the other values
of its option; a comparative moves an option that has an order; what was not
spoken of stays as it is.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import NamedTuple

from jax_cl.tasks import actions, entities
from jax_cl.tasks.language.clauses import plain

SKIP = ("name", "price", "available", "status", "value", "kind")
CHEAP = re.compile(
  r"\b(cheap\w*|lowest price|(least|less) expensive|sav(e|ing)\b"
  r"|costs? (the )?(least|less(?! than))|maximum money back|most affordable"
  r"|lowest cost|lower price)\b"
)
DEAR = re.compile(
  r"\b((?<!less )(?<!least )expensive|pric(ier|iest)|dear(er|est)"
  r"|costs? (the )?mo(re|st)(?! than)|(more|most) costly|high(er|est) price)\b"
)
_TOO = re.compile(  # "a bit large" is too large
  r"\b(?:a (?:bit|little|tad)|slightly|rather|somewhat|way|far)(?: too)?"
  r" (?=(?:large|big|small|tight|loose|short|long|tall|heavy|bright|dim)\b)"
)
_FREE = re.compile(
  r"\b(any|do not (care|mind)|no matter|does not matter|whatever|regardless)\b"
)
_SAME = re.compile(
  r"\b(same|equal|identical|unchanged|untouched|stays?|remains?|keep\w*|kept"
  r"|as (it is|before|now|they are)|left|without (any )?chang\w+)\b"
)
_REST = re.compile(
  r"\b(everything else|(all )?the rest|other(wise)?( \w+)? (the same|equal)"
  r"|nothing else|no (other|further) changes?|other (options|features|specs))\b"
)
_AGAIN = re.compile(
  r"\b(same (item|specs?|product|one|model|kind|thing|version)"
  r"|exact same (item|one|thing|product|model)|identical"
  r"|(new|fresh) (pair|copy|unit)"
  r"|replacement)\b"
)
_RANKED = re.compile(  # several values in the order of liking
  r">|\bprefer|\bor\b|\bfirst choice\b|\bis best\b|\bfavou?r|\bbeats?\b|\bideal"
)
_EXTREME = re.compile(r"\b(max\w*|min\w*|most|least|fewest|\w{3,}est)\b")
UNITS = {
  "ft": ("foot", "feet"), "l": ("liter", "liters", "litre", "litres"),
  "inch": ("inches", "in"), "lbs": ("pounds", "lb"),
  "ml": ("milliliters",), "mm": ("millimeters",),
  "mah": (), "gb": (), "mp": ("megapixel", "megapixels"), "tb": (),
}  # fmt: skip
_NUMBERS = "two three four five six seven eight".split()
_SIZES = {"s": "small", "m": "medium", "l": "large", "xl": "extra large"}
_SCALE = {
  "xs": 0, "s": 1, "small": 1, "m": 2, "medium": 2, "l": 3, "large": 3,
  "xl": 4, "xxl": 5, "low": 1, "high": 3, "beginner": 1, "intermediate": 2,
  "expert": 3, "basic": 1, "professional": 2, "portable": 0,
}  # fmt: skip
# (words, where they point, options they speak of)
_COMPARE: tuple[tuple[str, int, str], ...] = (
  (r"tall(?:er|est)|higher(?= (?:one|version|model))", 1, "height|length"),
  (r"short(?:er|est)", -1, "height|length"),
  (r"long(?:er|est)", 1, "length|battery"),
  (r"bright(?:er|est)", 1, "brightness"),
  (r"dim(?:mer|mest)|less bright|darker light", -1, "brightness"),
  (r"heav(?:ier|iest)", 1, "weight"),
  (r"light(?:er|est)(?! color)", -1, "weight"),
  (r"thick(?:er|est)", 1, "thickness"),
  (r"thin(?:ner|nest)", -1, "thickness"),
  (r"wid(?:er|est)", 1, "field|length"),
  (r"eas(?:ier|iest)|simpler|less difficult", -1, "difficulty|pieces"),
  (r"hard(?:er|est)(?! ?shell)|more (?:difficult|challenging)", 1,
   "difficulty|pieces"),
  (r"fast(?:er|est)|more powerful", 1, "processor|pressure|speed|output"),
  (r"(?:big|larg|great)\w*(?:er|est)|roomier|more spacious|sizes? up", 1,
   "size|capacity|storage|length|height|room|frame|diameter|piece|weight"),
  (r"small(?:er|est)|more compact|sizes? down", -1,
   "size|capacity|storage|length|height|room|frame|diameter|piece|weight"),
)  # fmt: skip
_OPPOSITE = {
  "big": -1, "large": -1, "tall": -1, "long": -1, "heavy": -1, "bright": -1,
  "difficult": -1, "hard": -1, "high": -1, "complicated": -1, "small": 1,
  "short": 1, "little": 1, "light": 1, "easy": 1, "low": 1, "dim": 1,
  "weak": 1, "tight": 1, "loose": -1, "slow": 1,
}  # fmt: skip
_MEANS = {
  "tall": "height|length", "long": "length", "short": "height|length",
  "heavy": "weight", "light": "weight", "bright": "brightness",
  "dim": "brightness", "difficult": "difficulty|pieces",
  "hard": "difficulty|pieces", "complicated": "difficulty|pieces",
  "easy": "difficulty|pieces", "weak": "output|capacity|pressure",
}  # fmt: skip
_ANY_SIZE = "size|capacity|storage|length|height|room|frame|diameter|piece"
_MORE = (
  r"more|most|max\w*|higher|greater|larger|bigger|increased?|upgrade\w*|extra"
  r"|longer"
)
_LESS = (
  r"less|min\w*|fewest|least|lower|fewer|smaller|reduced?|downgrade\w*|shorter"
)


class Move(NamedTuple):
  """An option that shall go up or down."""

  up: bool
  extreme: bool = False
  step: bool = False  # to the next value, not further


class Goal(NamedTuple):
  """What is wanted of a thing, by option."""

  values: dict[str, list[str]]  # those spoken of, the preferred one first
  moves: dict[str, Move]
  same: frozenset[str]  # said to stay as they are
  free: bool  # options that were not spoken of do not matter
  cheap: bool
  dear: bool
  again: bool  # the same thing anew
  text: str


def options_of(e: entities.Entity) -> dict[str, str]:
  return {k: v for k, v in e.fields.items() if k not in SKIP}


def goal(
  scope: str, old: entities.Entity, known: Sequence[entities.Entity]
) -> Goal:
  """Reads what was said of a thing; `known` are its product's variants."""
  low = _TOO.sub("too ", digits(plain(scope)))
  mine = options_of(old)
  table = {
    k: list(dict.fromkeys(e.fields[k] for e in known if k in e.fields))
    for k in mine
  }
  if listed := _listed(low, table):
    return Goal(listed, {}, frozenset(), False, False, False, False, low)
  wanted = _unless_same(low, mine, _spoken(low, mine, table))
  moves = _moves(low, mine, table, wanted)
  wanted = {k: v for k, v in wanted.items() if k not in moves}
  for k, own in mine.items():
    if goal_value := _relative(low, own, table[k]):
      wanted[k] = [goal_value]
      moves.pop(k, None)
  rest = bool(_REST.search(low))
  same = frozenset(
    k for k in mine
    if k not in wanted and k not in moves and (rest or _kept(low, k))
  )  # fmt: skip
  cheap, dear = bool(CHEAP.search(low)), bool(DEAR.search(low))
  free = cheap or dear or bool(_FREE.search(low))
  head = old.fields.get("name", "?").lower().split()[-1]
  anew = _AGAIN.search(low) or re.search(rf"\bsame {re.escape(head)}\b", low)
  again = bool(anew) and not wanted and not moves
  return Goal(wanted, moves, same, free and not rest, cheap, dear, again, low)


def _listed(low: str, table: dict[str, list[str]]) -> dict[str, list[str]]:
  """Options written as a list: "... to {'color': 'red', 'size': 'l'}"."""
  found = re.findall(r"\bto (\{[^}]*\})", low)
  pairs = re.findall(r"'([^']+)': '([^']+)'", found[-1]) if found else ()
  return {
    k: [v]
    for key, value in pairs for k, values in table.items() for v in values
    if (key, value) == (plain(k), digits(plain(v)))
  }  # fmt: skip


def variant_scores(
  options: Sequence[entities.Entity],
  old: entities.Entity,
  scope: str,
  like: entities.Entity | None = None,
) -> list[float]:
  """How well each variant answers what was said of the item, 0 if it cannot.

  Spoken values count most, then a comparative, then keeping what was not
  spoken of; a price decides among equals. `like` is the item it shall be the
  same as.
  """
  own = [e for e in options if e is not actions.STOP and e.links & old.links]
  fit = [e in own and e.fields.get("available") != "False" for e in options]
  aim = goal(scope, old, own)
  if like is not None:
    values = {k: [v] for k, v in options_of(like).items()}
    values = {**values, **aim.values}
    aim = aim._replace(values=values, moves={}, again=False)
  prices = [_price(e) for e, ok in zip(options, fit, strict=True) if ok]
  low, high = min(prices, default=0.0), max(prices, default=0.0)
  out = []
  for e, ok in zip(options, fit, strict=True):
    if not ok:
      out.append(0.0)
      continue
    score = 20.0 + _fits(e, old, aim) + 12.0 * (str(e.value) in scope)
    if aim.cheap or aim.dear:
      part = (_price(e) - low) / ((high - low) or 1.0)
      score += 0.9 * (part if aim.dear and not aim.cheap else 1 - part)
    out.append(max(score, 0.1))
  return out


def _fits(e: entities.Entity, old: entities.Entity, aim: Goal) -> float:
  score, changed = 0.0, False
  for k, own in options_of(old).items():
    v = e.fields.get(k, "")
    changed |= v != own
    if k in aim.values:
      wanted = aim.values[k]
      score += 4.0 - 0.5 * wanted.index(v) if v in wanted else -2.0
    elif k in aim.moves:
      score += _moved(aim.moves[k], own, v)
    elif v == own:
      score += 2.0 if k in aim.same else 0.001 if aim.free else 1.0
  if aim.again:
    return score + 3.0 * (not changed)
  return score - 2.0 * (not changed and not aim.cheap)


def _moved(move: Move, own: str, value: str) -> float:
  a, b = rank(value), rank(own)
  if a is None or b is None or a == b or (a > b) != move.up:
    return -2.0
  far = min(abs(a - b) / (abs(b) + 1), 2.0)
  return 3.0 + (0.3 * far if move.extreme else -0.3 * far)


def sold_out(
  variants: Sequence[entities.Entity], old: entities.Entity, scope: str
) -> bool:
  """What was said of the item holds of no variant that is there."""
  own = [e for e in variants if e.links & old.links]
  if not own:
    return False
  aim = goal(scope, old, own)
  free = [e for e in own if e.fields.get("available") != "False"]
  if aim.again:
    return all(e.value != old.value for e in free)
  if not aim.values and not aim.moves:
    return False
  mine = options_of(old)

  def meets(e: entities.Entity) -> bool:
    v = e.fields.get
    return (
      all(v(k) in ws for k, ws in aim.values.items())
      and all(_moved(m, mine[k], v(k, "")) > 0 for k, m in aim.moves.items())
      and all(v(k) == mine[k] for k in aim.same)
    )

  return not any(map(meets, free))


def _price(e: entities.Entity) -> float:
  return float(e.fields.get("price", 0) or 0)


# ------------------------------------------------------------------ the values
def says(text: str, value: str, others: Sequence[str] = ()) -> int | None:
  """Where a value of an option is spoken of, None where it is not.

  By its own words, by a size or number in other words, or by a word that the
  other values of the option do not have.
  """
  for way in _ways(value, tuple(others)):
    if m := re.search(rf"(?<![\w.]){way}(?:s|en)?(?!\w)", text):
      return m.start()
  return None


@functools.lru_cache(maxsize=1 << 14)
def _ways(value: str, others: tuple[str, ...]) -> list[str]:
  v = plain(value)
  if v in _SIZES or v == "xxl" or v == "xs":
    size = _SIZES.get(v, v)
    return [size, rf"size {v}", rf"{v}[ -]siz\w+", rf"(?:an?|to|in|of) {v}"]
  if v.isdigit():
    return [rf"{v}"] if len(v) > 2 else [rf"size {v}", rf"{v}"]
  if m := re.fullmatch(r"(\d+(?:\.\d+)?)[ -]?([a-z]+)", v):
    n, unit = re.escape(m.group(1)), m.group(2)
    units = (unit, unit.rstrip("s"), *UNITS.get(unit.rstrip("s"), ()))
    return [rf"{n}[ -]?{u}" for u in dict.fromkeys(units)]
  ways = [
    re.sub(
      r"[ -]", "[ -]?", re.escape(v).replace(r"\ ", " ").replace(r"\-", "-")
    )
  ]
  ways += [re.escape(v[:-1])] * (len(v) > 5 and v.endswith("s"))
  taken = {
    w for o in others if o != value for w in re.findall(r"\w+", plain(o))
  }
  words = [w for w in re.findall(r"[a-z]+", v) if w not in taken]
  if len(re.findall(r"[a-z]+", v)) > 1:
    ways += [w for w in words if len(w) > 3 or w == "ac"]
  elif words and len(v) >= 7:  # "soft material" is softshell
    ways += [v[:4], v[:5], f"{v[:4]} {v[4:]}"]
  return ways


def _spoken(
  low: str, mine: dict[str, str], table: dict[str, list[str]]
) -> dict[str, dict[str, int]]:
  """Option -> values spoken of -> where."""
  text = _without_others(low)
  out: dict[str, dict[str, int]] = {}
  for k, values in table.items():
    if set(map(str.lower, values)) <= {"yes", "no"}:
      found = _yes_or_no(text, k)
      if found in values:
        out[k] = {found: 0}
      continue
    without = [v for v in values if re.match(r"(?:none|not? \w+)$", v)]
    if without and re.search(
      rf"\b(?:no|without|none|not (?:want|need))(?: an?| any)? {re.escape(k)}",
      text,
    ):
      out[k] = {without[0]: 0}
      continue
    for v in values:
      at = says(text, v, values)
      if at is not None and v != "none":
        out.setdefault(k, {})[v] = at
  return _by_neighbour(text, out)


def _without_others(low: str) -> str:
  """Without what is not wanted: "instead of Apple", "too small"."""
  low = re.sub(r"\btoo \w+|\bnot \w+ enough", " ", low)
  return re.sub(
    r"\b(?:instead of|rather than|and not|not the|(?<!if )(?<!is )not"
    r"(?= (?:a |the )?\w+(?:$|,)))(?: the| a| an)? [^,.;]*?"
    r"(?=,|\.|;|$| but | and | to | for )", " ", low,
  )  # fmt: skip


def _yes_or_no(text: str, key: str) -> str:
  word = key.replace("resistance", "resistan(?:t|ce)").replace(" ", "[ -]?")
  if not (m := re.search(rf"\b{word}\b|\b{key.replace(' ', '')}\b", text)):
    return ""
  left = text[max(0, m.start() - 30) : m.start()].rpartition(" . ")[2]
  right = text[m.end() : m.end() + 20].partition(" . ")[0]
  if _FREE.search(left + m.group() + right):
    return ""
  if re.search(r"\b(?:about|whether|same)\b[^,]{0,12}$", left):
    return ""
  if re.match(r",? (?:is |being )?(?:the )?(?:same|unchanged|as it)\b", right):
    return ""
  before = text[max(0, m.start() - 20) : m.start()]
  return (
    "no" if re.search(r"\b(no|not|non|without)\b[ -]?\w*", before) else "yes"
  )


def _by_neighbour(text: str, out: dict[str, dict[str, int]]):
  """ "High ventilation" is not said of the size: the option's name decides."""
  for k in list(out):
    for v in list(out[k]):
      rivals = [o for o in out if o != k and _equal_word(v, out[o])]
      if not rivals:
        continue
      named = lambda o, w=v: _near(text, w, o)
      sure = any(_near(text, w, k) for w in out[k] if w != v)
      if (any(map(named, rivals)) or sure) and not named(k):
        del out[k][v]
    if not out[k]:
      del out[k]
  return out


def _equal_word(v: str, others: dict[str, int]) -> bool:
  own = _SIZES.get(v.lower(), v.lower())
  return any(_SIZES.get(o.lower(), o.lower()) == own for o in others)


def _near(text: str, value: str, key: str) -> bool:
  v = _SIZES.get(value.lower(), value.lower())
  head = key.split()[-1][:5]
  return bool(
    re.search(rf"\b{v}(?:[ -]\w+)? {head}|\b{head}\w*(?: \w+)? {v}\b", text)
  )


def _unless_same(low, mine, spoken) -> dict[str, list[str]]:
  """What is said of the thing as it is, is not wanted of the new one."""
  out = {}
  for k, at in spoken.items():
    values = sorted(at, key=lambda v, at=at: at[v])
    if not _RANKED.search(low):
      values = [v for v in values if v != mine[k]] or values
    out[k] = values
  return out


def _kept(low: str, key: str) -> bool:
  """ "Same size", "the color stays", "with its zoom left as it is"."""
  words = key.split() + ["size"] * bool(re.search(_ANY_SIZE, key))
  for w in words:
    for m in re.finditer(rf"\b{re.escape(w)}\w*", low):
      near = low[max(0, m.start() - 40) : m.end() + 40]
      if _SAME.search(near) and not re.search(r"[.;]", low[m.end() : m.end()]):
        return True
  return False


# ---------------------------------------------------------------- comparatives
def _moves(low, mine, table, spoken) -> dict[str, Move]:
  out: dict[str, Move] = {}
  ordered = [
    k for k in mine
    if rank(mine[k]) is not None and spoken.get(k, [mine[k]]) == [mine[k]]
  ]  # fmt: skip
  step = bool(re.search(r"\b(one size|a bit|slightly|a little|next)\b", low))
  extreme = bool(_EXTREME.search(re.sub(r"\b(most|least) expensive", "", low)))
  for k in ordered:  # "more storage", "a higher resolution"
    head = k.split()[0]
    for words, up in ((_MORE, True), (_LESS, False)):
      said = re.search(rf"\b(?:{words})(?: the| in)?(?: \w+)? {head}", low)
      if said and not re.match(r"\w+ expensive", said.group()):
        out[k] = Move(up, extreme, step)
        low = low.replace(said.group(), " ")
  for words, way, keys in _COMPARE:
    if re.search(rf"\b(?:{words})\b", low):
      for k in _pointed(keys, ordered, mine):
        out.setdefault(k, Move(way > 0, extreme, step))
  if out:
    return out
  for m in re.finditer(r"\btoo (\w+)|\bnot (\w+) enough", low):
    word = m.group(1) or m.group(2)
    way = _OPPOSITE.get(word, 0) * (1 if m.group(1) else -1)
    means = _MEANS.get(word, _ANY_SIZE) if way else ""
    for k in _pointed(means, ordered, mine):
      return {k: Move(way > 0, extreme, step)}
  return out


def _pointed(keys: str, ordered: list[str], mine) -> list[str]:
  """The option that a comparative speaks of: the first there is.

  None where that one's new value was said: "too hard, get the beginner one".
  """
  for word in filter(None, keys.split("|")):
    for k in mine:
      if word in k and rank(mine[k]) is not None:
        return [k] if k in ordered else []
  return []


def _relative(text: str, own: str, values) -> str | None:
  """The value that is "1000 more" or "500 pieces less" than the old one."""
  m = re.search(r"\b(\d+)\s+(?:\w+\s+)?(more|less|fewer)\b", text)
  if not m or not own.isdigit():
    return None
  step = int(m.group(1)) * (1 if m.group(2) == "more" else -1)
  aim = str(int(own) + step)
  return aim if aim in values else None


def rank(text: str) -> float | None:
  """The place of a value in the order of its option, if it has one."""
  low = text.lower()
  if low in _SCALE:
    return float(_SCALE[low])
  if m := re.match(r"(\d+)p$", low):
    return float(m.group(1)) / 1000
  m = re.search(r"\d+(?:\.\d+)?", low)
  return float(m.group()) if m else None


def digits(text: str) -> str:
  """ "two-piece" is "2-piece"."""
  for n, w in enumerate(_NUMBERS, 2):
    text = re.sub(rf"\b{w}\b(?! of)", str(n), text)
  return text
