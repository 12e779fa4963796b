"""What the user seems to want done: rules of language over the dialogue.

A wish is an act with the things it is meant for: "return everything except
the speaker" names items under a verb, and the status of their order decides
which tool that verb stands for. Wishes are features of the scorer, not its
decisions: it learns from demonstrations and rewards how far to trust them.

The rules know verbs, head nouns, quantifiers, exceptions, comparatives and
preferences. They read `actions.State` alone and hold no word of any task; acts
are found by the words of their tools' names.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import NamedTuple

from jax_cl.tasks import actions, bookings, entities

# verb -> (what becomes of the thing, first word of the tool meant)
VERBS: dict[str, tuple[str, str]] = {
  **{v: ("remove", "return") for v in (
    "return", "refund", "send back", "get rid of", "no longer need",
    "no longer want", "don't need", "do not need",
  )},
  **{v: ("remove", "cancel") for v in ("cancel", "remove", "undo")},
  **{v: ("replace", "exchange") for v in ("exchange", "swap", "replace")},
  **{v: ("replace", "modify") for v in (
    "modify", "modification", "change", "switch", "adjust", "upgrade",
    "downgrade", "update", "new pair",
  )},
  **{v: ("look", "") for v in (
    "know", "check", "wonder", "tell", "inquire", "how many", "how much",
    "total", "tracking", "price of", "ask which", "ask what",
  )},
  **{v: ("keep", "") for v in (
    "keep", "except", "but not", "other than", "besides", "apart from",
    "excluding", "instead of",
  )},
}  # fmt: skip
_VERB = re.compile(rf"\b({'|'.join(sorted(VERBS, key=len, reverse=True))})")
_ALL = re.compile(r"\b(all|everything|every|both|entire)\b")
_END = re.compile(r"[.;?!](?=\s)\n?|\n")
_DECLINE = re.compile(
  r"(not possible|cannot|can't|impossible)[^.]*"
  r"(forget|do not (do|want)|don't(?! care)"
  r"|no (exchange|cancel|change)|not cancel|never)"
)
_FALLBACK = re.compile(  # "if it is not available, cancel the order"
  r"\bif (?:it|that|this|there|the)\b[^.\n]*\b(?:not|no|unavailable)\b"
  r"[^.\n]*\b(?:cancel|return)\b"
)
CHEAP = re.compile(r"\b(cheap\w*|lowest price|least expensive|less expensive"
                   r"|save|maximum money back)\b")  # fmt: skip
DEAR = re.compile(r"\b((?<!less )(?<!least )expensive|lottery|priciest)\b")
UP = re.compile(r"\b(max\w*|most|bigg\w+|larg\w+er|larger|high\w*|longer|more"
                r"|brighter|faster|later|heavier|fullest)\b")  # fmt: skip
DOWN = re.compile(r"\b(min\w*|small\w*er|smaller|low\w*|short\w*|less|fewest"
                  r"|fewer|lighter|slower|easi\w+|earlier)\b")  # fmt: skip
EXTREME = re.compile(r"\b(max\w*|min\w*|most|\w+est|least)\b")
SLIP = re.compile(r"\bby (mistake|accident)|accidental|mistaken")
UNITS = {
  "ft": ("foot", "feet"), "l": ("liter", "liters"), "inch": ("inches", "in"),
  "lbs": ("pounds",), "ml": ("milliliters",),
}  # fmt: skip
SKIP = ("name", "price", "available", "status", "value", "kind")


def flat(text: str) -> str:
  """Lower case, "t-shirt" and "e-reader" in one word."""
  return re.sub(r"\b([a-z])-([a-z]{3,})", r"\1\2", text.lower())


class Wish(NamedTuple):
  """An act that seems wanted, and what it is for."""

  act: str  # name of a tool
  order: entities.Entity
  items: tuple[entities.Entity, ...] = ()


class Said(NamedTuple):
  """One mention of an item."""

  at: int
  fate: str  # "remove" | "replace" | "look" | "keep" | ""
  verb: str  # first word of the tool meant
  only: bool  # "only exchange the lamp"
  scope: str  # the words around it that may describe what is wanted
  declined: bool = False  # "if one item is not possible, forget it"


class Reading(NamedTuple):
  wishes: tuple[Wish, ...]
  scopes: dict[str, str]  # item key -> what was said of it
  text: str


def read(state: actions.State) -> Reading:
  """The reading of an episode so far, kept until something is said or seen.

  Empty where the action space says that nothing is read (`ActSpace.reads`).
  """
  stamp = (len(state.user_texts), state.turn, len(state.history))
  if state.memo.get("reading", (None,))[0] != stamp:
    state.memo["reading"] = (stamp, _read(state))
  return state.memo["reading"][1]


def _read(state: actions.State) -> Reading:
  text = flat("\n".join(state.user_texts)) + "\n"
  if not state.space.reads:
    return Reading((), {}, text)
  orders = [_as_first_seen(state, o) for o in state.seen.of("order")]
  if not orders:
    return Reading(tuple(_bookings(state)), {}, text)
  items = state.seen.of("item")
  states = {o.id: o.fields.get("status", "") for o in orders}
  status = lambda e: [states[x] for x in e.links if x in states]
  inside = {o.id: _contents(state, o, items) for o in orders}
  known = {e.key for es in inside.values() for e in es}
  items = [e for e in items if e.key in known]
  said = _mentions(text, items, status)
  chosen = _choose(text, orders, items, inside, said)
  scopes = {
    k: " ".join(s.scope for s in ss if s.fate in ("replace", "remove"))
    for k, ss in said.items()
  }  # fmt: skip
  if _FALLBACK.search(text):
    variants = state.seen.of("variant")
    for (id, key), fate in chosen.items():
      old = next(e for e in inside[id] if e.key == key)
      if fate == "replace" and sold_out(variants, old, scopes.get(key, "")):
        chosen[id, key] = "remove"
  tools = [a for a in state.space.acts if a.write]
  wishes: list[Wish] = _addresses(state, text, orders, inside, said, tools)
  wishes += _payments(text, orders, tools)
  for o in orders:
    for fate in ("replace", "remove"):
      own = tuple(e for e in inside[o.id] if chosen.get((o.id, e.key)) == fate)
      act = _tool(tools, fate, o.fields.get("status", "")) if own else None
      if act:
        wishes.append(Wish(act, o, own))
  return Reading(tuple(wishes), scopes, text)


def _bookings(state: actions.State) -> list[Wish]:
  """What the airline's policy lets be done of what was asked for."""
  out = []
  for w in bookings.plan(state).wanted:
    for slot, type in (("reservation_id", "reservation"), ("user_id", "user")):
      if slot in w.values:
        key = entities.key_of(w.values[slot])
        if key not in state.seen.by_type.get(type, {}):
          continue
        out.append(Wish(w.act, state.seen.by_type[type][key]))
        break
  return [w for w in out if w.act in state.space.index]


def _as_first_seen(state, order: entities.Entity) -> entities.Entity:
  """The order with its first status: a return must not start another one."""
  first = state.seen.first.get(order.id, {})
  fields = {**order.fields, "status": first.get("status", "")}
  return dataclasses.replace(order, fields=fields, memo={})


def _contents(state, order: entities.Entity, items) -> list[entities.Entity]:
  """What was in an order when it was first seen."""
  first = state.seen.first.get(order.id, {})
  ids = {x.get("item_id") for x in first.get("items", ())}
  return [e for e in items if e.value in ids]


def _tool(tools: Sequence[actions.Act], fate: str, status: str) -> str | None:
  """The tool for what is to become of things in an order of this status."""
  state_word = status.split(" ")[0]
  for a in tools:
    first, rest = a.tool.split("_")[0], a.tool.split("_")[1:]
    if state_word not in rest or not state_word or "(" in status:
      continue
    if fate == "remove" and first in ("return", "cancel"):
      return a.name
    if fate == "replace" and first in ("exchange", "modify"):
      if rest[-1] == "items":
        return a.name
  return None


# -------------------------------------------------------------------- mentions
def _ways(name: str) -> list[re.Pattern]:
  """Patterns for what a thing is called: head noun, or first word alone."""
  words = re.findall(r"[a-z0-9]+", flat(name))
  if not words:
    return []
  heads = [re.sub(r"(?<=[^s])s$", "", words[-1])]
  if heads[0] in ("set", "kit", "machine", "maker") and len(words) > 1:
    heads = [words[-2]] + [f"coffee {heads[0]}"] * (words[-2] == "espresso")
  if len(heads[0]) > 7:
    heads.append(heads[0][-5:])  # bookshelf, wristwatch
  out = []
  for head in heads:
    stem = re.sub(r"(f|fe|y)$", "", head) if len(head) > 4 else head
    out.append(rf"\b\w*{re.escape(stem)}(?:s|es|f|fe|y|ves|ies)?\b")
  if len(words) > 1:  # "the jigsaw", "luggage": nothing else follows
    out.append(
      rf"\b{re.escape(words[0])}s?(?=\W*(?:and|or|to|in|might|i|for|is|,|\.|$)\b)"
    )
  return [re.compile(x) for x in out]


def _places(text: str, names) -> dict[int, dict[str, int]]:
  """Position -> name -> how exactly it is named there."""
  out: dict[int, dict[str, int]] = {}
  for name in names:
    words = re.findall(r"[a-z0-9]+", flat(name))
    for way in _ways(name):
      for m in way.finditer(text):
        before = re.findall(
          r"[a-z0-9]+", text[max(0, m.start() - 30) : m.start()]
        )
        exact = len(set(words[:-1]) & set(before[-2:]))
        exact += any(w.startswith(m.group()[:4]) for w in words)
        at = out.setdefault(m.start(), {})
        at[name] = max(at.get(name, 0), exact)
  return out


def _mentions(text: str, items, status) -> dict[str, list[Said]]:
  """Every mention of every item, by key. `status(e)`: of its orders."""
  names: dict[str, list] = {}
  for e in items:
    names.setdefault(e.fields.get("name", ""), []).append(e)
  ends = [m.start() for m in _END.finditer(text)] + [len(text)]
  verbs = [(m.start(), *VERBS[m.group(1)]) for m in _VERB.finditer(text)]
  places = _places(text, names)
  known = {
    p: {n for n, x in at.items() if x == max(at.values())}
    for p, at in places.items()
  }  # fmt: skip
  starts = sorted(places)
  out: dict[str, list[Said]] = {}
  for n, p in enumerate(starts):
    if re.search(r"\bwith (the|my|an?) (\w+ )?$", text[:p]):
      continue  # "the backpack I received with the vacuum cleaner"
    start = max([e for e in ends if e < p], default=0)
    stop = min(e for e in ends if e >= p)
    later = next(
      (q for q in starts[n + 1 :] if not known[p] & known[q]), len(text)
    )
    after = min(later, _third(ends, p))
    if later < len(text) and re.search(
      r"^\S+(\s\S+)?,?( and| or|,)( the| my| your| a)?\s*(\w+\s){0,2}$",
      text[p:later][:60],
    ):
      after = _third(ends, later)  # "the bed and the chair to the cheapest"
    fate, verb = _verb_of(text, verbs, start, p, stop)
    if re.match(r"\w+ order\b", text[p:]):
      fate, verb = "look", ""  # "my laptop order" is an order
    clause = text[max(start, starts[n - 1] if n else 0) : p]
    left = max([v[0] for v in verbs if start <= v[0] < p] + [p - len(clause)])
    goal = re.search(r"\b(to|for|into|with|in)\b", text[p:after])
    scope = text[p + goal.start() : after] if goal else text[p:after]
    about = text[left:p] + text[p : p + (goal.start() if goal else stop - p)]
    if re.search(r"\bfor an? [\w ]*$", text[left:p]):
      scope = text[left:after]  # "for a large red jacket with a half zipper"
    only = fate in ("remove", "replace") and re.search(
      r"^(?!.*\bif\b).*\bonly\b", text[start:p].strip(". \n")
    )
    word = re.match(r"\w+( \w+)?", text[p:]).group()
    several = re.search(r"\b(all|both|every)\b[\w ]{0,25}$", text[:p])
    counted = re.search(r"\b(two|three|\d)\b[\w ]{0,15}$", text[:p])
    for name in known[p]:
      own = _timely(
        names[name], status, verb, text[max(start, p - 25) : p + 45]
      )
      which = re.findall(r"\b(?:more|most|less|least) expensive one", text)
      if which and len(own) > 1 and "expensive" not in about:
        about = f"{about} {which[-1]}"
      if len(own) > 1:
        about += _told_later(text)
      if not (several and not re.search(r"\bsmall|large\b", about)):
        own = _which(own, about, word)
        if not counted:
          own = _in_company(
            own, items, {n for ns in known.values() for n in ns}
          )
      for e in own:
        out.setdefault(e.key, []).append(
          Said(
            p,
            fate,
            verb,
            bool(only),
            scope,
            bool(
              _DECLINE.search(
                text[start : ends[min(ends.index(stop) + 1, len(ends) - 1)]]
              )
            ),
          )
        )
  return out


def _in_company(own: list, items, told: set[str]) -> list:
  """Of several of one name, those whose order holds more of what was named."""
  inside: dict[str, set[str]] = {}
  for e in items:
    for x in e.links:
      inside.setdefault(x, set()).add(e.fields.get("name", ""))
  orders = [[x for x in e.links if x.startswith("#")] for e in own]
  scores = [
    max((len(inside[x] & told) for x in xs), default=0) for xs in orders
  ]
  return [e for e, n in zip(own, scores, strict=True) if n == max(scores)]


def _told_later(text: str) -> str:
  """Which one was meant, in a sentence of its own: "It is the red one." """
  said = re.findall(r"(?:^|\n)(?:it is|it's|the [\w-]+ one)\b[^.\n]*", text)
  return "".join(f" {x}" for x in said if not re.search(r"\btwo|both\b", x))


def _timely(same: list, status, verb: str, near: str) -> list:
  """Those of one name whose order is in the state that is spoken of."""
  if re.search(r"\bpending\b|just (ordered|placed)", near):
    want = ("pending",)
  elif re.search(r"\b(received|delivered|arrived)\b", near):
    want = ("delivered",)
  else:
    want = {
      "return": ("delivered",), "exchange": ("delivered", "pending"),
      "cancel": ("pending",), "modify": ("pending", "delivered"),
    }.get(verb, ())  # fmt: skip
  for w in want:
    if own := [e for e in same if any(s.startswith(w) for s in status(e))]:
      return own
  return same


def _third(ends: list[int], p: int) -> int:
  after = [e for e in ends if e >= p]
  return after[min(1, len(after) - 1)]


def _verb_of(text, verbs, start: int, p: int, stop: int) -> tuple[str, str]:
  """The verb an object stands under: before it, else after, else earlier."""
  before = [v for v in verbs if start <= v[0] < p]
  if before:
    last = before[-1]
    if re.search(r"\bcheck\b.*\b(whether|if)\b", text[start:p]):
      return "look", ""
    if last[1] == "keep" and re.match(r"instead of", text[last[0] :]):
      before = before[:-1] or [last]
      last = before[-1]
    return last[1], last[2]
  after = [
    v for v in verbs if p < v[0] <= stop and v[1] in ("remove", "replace")
  ]
  after = after or [v for v in verbs if p < v[0] <= stop and v[1] == "look"]
  if after:
    return after[0][1], after[0][2]
  near = [
    v
    for v in verbs
    if stop < v[0] < stop + 120 and v[1] in ("remove", "replace")
  ]
  if near and re.search(
    r"\b(it|them|one|this|that)\b", text[near[0][0] : near[0][0] + 40]
  ):
    return near[0][1], near[0][2]
  earlier = [v for v in verbs if v[0] < start]
  return (earlier[-1][1], earlier[-1][2]) if earlier else ("", "")


def _which(same: list, clause: str, word: str) -> list:
  """Of several items of one name, those that the clause describes best."""
  if len(same) < 2:
    return same
  if DEAR.search(clause) or CHEAP.search(clause):
    price = lambda e: float(e.fields.get("price", 0) or 0)
    less = re.search(r"\b(less|least|cheap\w*)\b", clause)
    return [(min if less else max)(same, key=price)]
  values: dict[str, int] = {}
  for e in same:
    for v in _options(e).values():
      values[v] = values.get(v, 0) + 1
  telling = {v for v, n in values.items() if n < len(same) and _says(clause, v)}
  score = [sum(v in telling for v in _options(e).values()) for e in same]
  return [e for e, s in zip(same, score, strict=True) if s == max(score)]


def _options(e: entities.Entity) -> dict[str, str]:
  return {k: v for k, v in e.fields.items() if k not in SKIP}


def _says(text: str, value: str) -> bool:
  """A value of an option is spoken of, whole words; 'S' by 'small' too."""
  v = flat(value)
  long = {"s": "small", "m": "medium", "l": "large", "xl": "extra large"}
  ways = [v, v.replace(" ", "-"), v.replace("-", " ")]
  ways += [v[:-1]] * (len(v) > 5 and v.endswith("s"))
  if v in long:
    ways = [rf"{long[v]}", rf"size {v}", rf"{v} size"]
  if m := re.fullmatch(r"(\d+)\s?-?([a-z]+)", v):
    n, unit = m.groups()
    for u in (unit, *UNITS.get(unit, ())):
      ways += [f"{n} {u}", f"{n}-{u}", f"{n}{u}"]
  head = re.match(r"([a-z]{3,})(?: adapter|-\w+| \w{3,})?$", v)
  if head and len(head.group(1)) > 3 and " " in v:
    ways.append(head.group(1))
  if v == "ac adapter":
    ways.append("ac")
  if any(re.search(rf"(?<!\w){re.escape(w)}(?!\w)", text) for w in ways):
    return True
  m = re.match(r"[a-z]{8,}$", v)  # "soft material" is softshell
  return bool(m) and any(
    len(w) > 3 and v.startswith(w) for w in re.findall(r"[a-z]+", text)
  )


# -------------------------------------------------------------------- choosing
def _choose(text, orders, items, inside, said) -> dict[tuple[str, str], str]:
  """(order id, item key) -> fate."""
  out: dict[tuple[str, str], str] = {}
  kept = {k for k, ss in said.items() if any(s.fate == "keep" for s in ss)}
  named = {o.id for o in orders if flat(o.id).lstrip("#") in text}
  only = {s.fate for ss in said.values() for s in ss if s.only}
  sweep = _sweeps(text, [s.at for ss in said.values() for s in ss])
  for fate, verb, about in sweep:
    for o in orders:
      status = o.fields.get("status", "")
      if not _fits(verb, fate, status, about):
        continue
      if named and o.id not in named and "order" not in about[:40]:
        continue
      inner = [e for e in inside[o.id] if e.key in said]
      if said and not inner and re.match(r" order\b(?!s)", about):
        continue  # "the entire order" is that of what was spoken of
      if re.match(r"[^.]{0,12}\b(in it|(on|in) (that|the) order)\b", about):
        if not any(s.fate for e in inner for s in said[e.key]):
          continue
      for e in inside[o.id]:
        if e.key not in kept:
          out[o.id, e.key] = fate
  for e in items:
    acts = [s for s in said.get(e.key, ()) if s.fate in ("remove", "replace")]
    if any(s.only for s in acts):
      acts = [s for s in acts if s.only]
    acts = [s for s in acts if s.fate not in only or s.only]
    if not acts or e.key in kept:
      continue
    s = acts[0]
    if s.declined and all(
      not o.fields.get("status", "").startswith("delivered")
      for o in orders if o.id in e.links
    ):  # fmt: skip
      continue
    homes = [o for o in orders if o.id in e.links]
    homes.sort(key=lambda o: -sum(x.key in said for x in inside[o.id]))
    best = [o for o in homes if o.id in named] or homes
    fit = [
      o for o in best if _fits(s.verb, s.fate, o.fields.get("status", ""), "")
    ]
    for o in (fit or best)[:1]:
      out.setdefault((o.id, e.key), s.fate)
      if not sweep:
        out[o.id, e.key] = s.fate
  for key in _lone_item(text, orders, inside):
    out.setdefault(key, "replace")
  cancels = [m.end() for m in re.finditer(r"\bcancel\w*\b", text)]
  for o in orders:  # an order named by its number alone
    at = text.find(flat(o.id).lstrip("#"))
    whole = any(0 < at - c < 40 for c in cancels)
    if at >= 0 and whole and "pending" in o.fields.get("status", ""):
      for e in inside[o.id]:
        out[o.id, e.key] = "remove"
  if re.search(r"\bregret\b[^.]*\bkeep\b|\bwant to keep it\b", text):
    out = {k: v for k, v in out.items() if v != "remove"}
  return out


def _lone_item(text: str, orders, inside) -> list[tuple[str, str]]:
  """ "Change my pending order's item to red": it has but one."""
  if not re.search(
    r"\b(change|modify|switch)\b[^.]*\bpending order\b[^.]*\bitem\b", text
  ):
    return []
  pending = [o for o in orders if o.fields.get("status") == "pending"]
  keys = [(o.id, e.key) for o in pending for e in inside[o.id]]
  return keys if len(keys) == 1 else []


def _sweeps(text: str, named: list[int]) -> list[tuple[str, str, str]]:
  """(fate, verb, words after) of each "all", "everything" under a verb."""
  out = []
  for m in _ALL.finditer(text):
    p = m.end()
    if m.group() != "everything" and any(p <= q < p + 28 for q in named):
      continue  # "all bookshelves" is a mention
    about = text[p : p + 60]
    if re.match(
      r"\s+(of (it|this)|the (same|other|spec)|available|time|is|are|options?"
      r"|orders,)\b|[,.]",
      about,
    ):
      continue
    start = max([e.start() for e in _END.finditer(text[:p])], default=0)
    verbs = [VERBS[v.group(1)] for v in _VERB.finditer(text[start:p])]
    verbs = [v for v in verbs if v[0] in ("remove", "replace")]
    if verbs and "address" not in about and "prefer" not in text[start:p]:
      both = {v[1] for v in verbs}
      out += [(verbs[-1][0], v, about) for v in sorted(both)]
  return out


def _fits(verb: str, fate: str, status: str, about: str) -> bool:
  pending, delivered = status.startswith("pending"), status == "delivered"
  if "pending" in about[:30]:
    return pending
  if re.search(r"received|delivered|bought", about[:30]) and fate == "remove":
    return delivered
  return {
    "return": delivered, "cancel": pending,
    "exchange": delivered or pending, "modify": pending or delivered,
  }.get(verb, False)  # fmt: skip


def _addresses(state, text, orders, inside, said, tools) -> list[Wish]:
  out = []
  if not re.search(
    r"\b(change|modify|update|correct|switch)\w*\b[^.]{0,80}\baddress", text
  ):
    return out
  pending = [
    o for o in orders if o.fields.get("status", "").startswith("pending")
  ]
  named = [o for o in pending if flat(o.id).lstrip("#") in text]
  near = [
    o
    for o in pending
    if any(
      "address" in text[s.at : s.at + 60]
      for e in inside[o.id]
      for s in said.get(e.key, ())
    )
  ]
  spoken = near or [
    o
    for o in pending
    if any(
      s.fate in ("replace", "remove")
      for e in inside[o.id]
      for s in said.get(e.key, ())
    )
  ]
  every = re.search(r"\ball\b[^.]{0,30}\baddress", text)
  of = pending if every else (named[:1] or spoken[:1] or pending[:1])
  for a in tools:
    if a.tool.endswith("_address") and any(s.type == "order" for s in a.slots):
      out += [Wish(a.name, o) for o in of]
  own = re.search(
    r"\b(user|default)( default)? address\b(?! in| instead)", text
  ) and not re.search(r"\bto (my|the) default\b[^.]*$", text)
  for a in tools:
    if own and a.tool.endswith("_address") and a.slots[0].type == "user":
      out += [Wish(a.name, u) for u in state.seen.of("user")[:1]]
  return out


def _payments(text: str, orders, tools) -> list[Wish]:
  """ "Change the payment method of my order": of those named, else of one."""
  m = re.search(
    r"\b(change|modify|update|switch)\w*\b[^.\n]{0,40}\bpayment( method)?\b"
    r"[^.\n]{0,40}", text,
  )  # fmt: skip
  acts = [a.name for a in tools if a.tool.endswith("_payment")]
  if not m or not acts:
    return []
  pending = [o for o in orders if o.fields.get("status") == "pending"]
  named = [o for o in pending if flat(o.id).lstrip("#") in m.group()]
  of = named or (pending if len(pending) == 1 else [])
  return [Wish(a, o) for a in acts for o in of]


# --------------------------------------------------------------------- variants
def variant_scores(
  options: Sequence[entities.Entity],
  old: entities.Entity,
  scope: str,
  like: entities.Entity | None = None,
) -> list[float]:
  """How well each variant answers what was said of the item, 0 if it cannot.

  Spoken values count most, then keeping what was not spoken of; a comparative
  moves one size; an extreme or a price decides among equals. `like` is the
  item it shall be the same as.
  """
  fit = [
    e is not actions.STOP
    and bool(e.links & old.links)
    and e.fields.get("available") != "False"
    for e in options
  ]
  mine = _options(old)
  spoken: dict[str, dict[str, float]] = {}
  low = _digits(re.sub(r"\binstead of [^,.]*", " ", scope))
  for key, own in mine.items():
    values = {
      e.fields.get(key, "") for e, k in zip(options, fit, strict=True) if k
    }
    for v in values:
      if v and _says(low, v) and not (v == own and _from(low, v)):
        spoken.setdefault(key, {})[v] = float(_place(low, v))
    near = [v for v in spoken.get(key, ()) if f"{v.lower()} {key}" in low]
    if moved := _relative(low, own, values):
      spoken[key] = {moved: 0.0}
    elif near:
      spoken[key] = {v: spoken[key][v] for v in near}
  for key in list(spoken):  # "high ventilation" is not said of the size
    if all(
      any(
        v.lower() in low and f"{v.lower()} {k}" in low for k in mine if k != key
      )
      for v in spoken[key]
    ):
      del spoken[key]
  sizes = re.sub(r"\b(most|more|less|least) expensive", " ", low)
  up, down = bool(UP.search(sizes)), bool(DOWN.search(sizes))
  cheap, dear = bool(CHEAP.search(low)), bool(DEAR.search(low))
  if like is not None:
    spoken |= {k: {like.fields[k]: 0.0} for k in mine if k in like.fields}
  if any(_size(own) is not None for k, own in mine.items() if k in spoken):
    up = down = False
  extreme = bool(EXTREME.search(low))
  free = cheap or dear or "do not care" in low or "don't care" in low
  prices = [
    float(e.fields.get("price", 0) or 0)
    for e, k in zip(options, fit, strict=True)
    if k
  ]
  span = (max(prices) - min(prices)) if prices else 0.0
  out = []
  for e, k in zip(options, fit, strict=True):
    if not k:
      out.append(0.0)
      continue
    moved = False
    s, changed = 5.0 + 6.0 * (str(e.value) in scope), False
    for key, own in mine.items():
      v = e.fields.get(key, "")
      changed |= v != own
      a, b = _size(v), _size(own)
      if key in spoken:
        wanted = sorted(spoken[key], key=lambda v, at=spoken[key]: at[v])
        s += 2.0 - 0.3 * wanted.index(v) if v in wanted else -1.0
      elif a is not None and b is not None and a != b and (up or down):
        right = (a > b) == (up and not down)
        step = abs(a - b) / (abs(b) + 1)
        moved |= right
        s += (1.5 + (0.3 if extreme else -0.1) * min(step, 2)) if right else -1
      elif v == own:
        s += 0.02 if free else 1.0
    if (up or down) and not moved and not spoken:
      s -= 2.5
    if span and (cheap or dear):
      p = (float(e.fields.get("price", 0) or 0) - min(prices)) / span
      s += 0.9 * (1 - p if cheap else p)
    if not changed and not cheap and not re.search(r"same (item|exact)", low):
      s -= 1.5
    out.append(max(s, 0.1))
  return out


def sold_out(variants, old: entities.Entity, scope: str) -> bool:
  """What was said of the item holds of variants, but of none that is there."""
  own = [e for e in variants if e.links & old.links]
  mine, low = _options(old), _digits(scope)
  wanted: dict[str, set[str]] = {}
  for key, value in mine.items():
    known = {e.fields.get(key, "") for e in own} - {""}
    if re.search(rf"\bsame\b[^.\n]*\b{re.escape(key)}\b", low):
      wanted[key] = {value}
    elif told := {
      v for v in known if _says(low, v) and not (v == value and _from(low, v))
    }:
      wanted[key] = told
  free = [e for e in own if e.fields.get("available") != "False"]
  return bool(own and wanted) and not any(
    all(e.fields.get(k) in vs for k, vs in wanted.items()) for e in free
  )


def like_of(
  state: actions.State, old: entities.Entity, scope: str
) -> entities.Entity | None:
  """ "The same type as the one I just ordered": the other item of the name."""
  if not re.search(
    r"\b(type|kind|same|one)\b[^.]{0,20}\b(i|you)\b[^.]{0,12}"
    r"\b(ordered|received|bought|have)\b", scope,
  ):  # fmt: skip
    return None
  name = old.fields.get("name")
  return next(
    (e for e in state.seen.of("item")
     if e.fields.get("name") == name and e.key != old.key), None,
  )  # fmt: skip


def _digits(text: str) -> str:
  """ "two-piece" is "2-piece"."""
  for n, w in enumerate("two three four five six".split(), 2):
    text = re.sub(rf"\b{w}\b", str(n), text)
  return text


def _relative(text: str, own: str, values) -> str | None:
  """The value that is "1000 more" or "500 pieces less" than the old one."""
  m = re.search(r"\b(\d+)\s+(?:\w+\s+)?(more|less|fewer)\b", text)
  if not m or not own.isdigit():
    return None
  step = int(m.group(1)) * (1 if m.group(2) == "more" else -1)
  goal = str(int(own) + step)
  return goal if goal in values else None


def _from(text: str, value: str) -> bool:
  """The value is what it is now: "from blue", "the 17-inch laptop to ..."."""
  v = re.escape(flat(value))
  return bool(
    re.search(rf"(from|my|the|blue|your)\s+{v}\b[^.]*\b(to|for|into)\b", text)
  )


def _place(text: str, value: str) -> int:
  at = text.find(flat(value).split(" ")[0])
  return at if at >= 0 else len(text)


_SCALE = {
  "s": 1, "small": 1, "m": 2, "medium": 2, "l": 3, "large": 3, "xl": 4,
  "xxl": 5, "low": 1, "high": 3, "beginner": 1, "intermediate": 2, "expert": 3,
}  # fmt: skip


def _size(text: str) -> float | None:
  low = text.lower()
  if low in _SCALE:
    return float(_SCALE[low])
  m = re.search(r"\d+(?:\.\d+)?", low)
  return float(m.group()) if m else None


# ------------------------------------------------- who calls, and where to
def caller(state: actions.State, options) -> int:
  """The option that names the caller: not yet refused, "my name is", latest."""
  refused = {key for _, key in state.failed}

  def rank(i: int) -> tuple:
    e = options[i]
    return (e.key in refused, e.fields.get("role") != "self", -e.turn, i)

  return min(range(len(options)), key=rank)


_PLACES = {"nyc": "new york", "la": "los angeles", "dc": "washington dc"}


def address(state: actions.State, options, text: str) -> int:
  """The address that is told, or whose place or order is named."""
  low = re.sub(
    r"\b(nyc|la|dc)\b", lambda m: f"{m.group()} {_PLACES[m.group()]}", text
  )
  home = re.search(r"\b(default|original|profile|home)\b", low)
  same = re.findall(r"(?:same as|of) order #?(w\d{7})", low)

  def score(i: int) -> tuple:
    e = options[i]
    n = 3.0 * (e.source == "user")
    n += 2.0 * (e.value.get("city", "?").lower() in low)
    n += 2.0 * (str(e.value.get("zip", "?")) in low)
    n += 2.0 * (e.value.get("address1", "?").lower() in low)
    orders = [x for x in e.links if x.startswith("#")]
    n += 1.0 * bool(home and not orders)
    n += 3.0 * any(flat(x).lstrip("#") in same for x in orders)
    return (n, -i)

  return max(range(len(options)), key=score)


# ----------------------------------------------------------- what is left
def open_wishes(state: actions.State) -> list[Wish]:
  """Wishes whose act has not been tried on their order."""
  out = []
  for w in read(state).wishes:
    slot = f"{w.order.type}_id"
    if w.order.key not in state.used.get((w.act, slot), set()):
      out.append(w)
  return out


def unopened(state: actions.State) -> list[entities.Entity]:
  """Products of items to be replaced whose variants have not been seen."""
  tried = state.used.get(("get_product_details", "product_id"), set())
  links = {
    x for w in open_wishes(state)
    if w.act.endswith("_items") and not w.act.startswith("return")
    for e in w.items for x in e.links
  }  # fmt: skip
  return [
    p for p in state.seen.of("product") if p.id in links and p.key not in tried
  ]


def contradicts(
  state: actions.State, choice: actions.Choice, index: int
) -> bool:
  """A demonstrated choice that what was said does not ask for.

  Gold may follow from what this user never reveals, or from what these rules
  do not understand. To clone it would teach that what is said does not matter.
  """
  if not state.space.reads:
    return False
  kinds = ("order", "user", "reservation")
  if not state.seen.of("order") and not state.seen.of("reservation"):
    return False  # no such thing in this domain
  wishes = open_wishes(state)
  option = choice.options[index]
  if choice.slot is None:
    if option.name == "say:done":
      return bool(wishes)
    return option.write and option.name not in {w.act for w in wishes}
  if not state.act.write:
    return False
  mine = [w for w in wishes if w.act == state.act.name]
  if choice.slot.type in kinds:
    return option.key not in {w.order.key for w in mine}
  picked = {e.key for es in state.picks.values() for e in es}
  if choice.slot.type == "item":
    own = next((w for w in mine if w.order.key in picked), None)
    wanted = {e.key for e in own.items} if own else set()
    if option is actions.STOP:
      return not wanted <= picked
    return option.key not in wanted
  return False
