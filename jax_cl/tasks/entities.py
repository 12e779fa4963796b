"""What has been named so far in a conversation: typed things to point at.

A pointer may only choose among entities that the user or a tool has named in
this episode, constants of the schemas and policies, and simple arithmetic over
both. An `Entity` is a value with what is known of it (`fields`) and the ids it
stands next to (`links`): an item is linked to its order and its product.

Types follow the schemas: an `order_id` parameter takes an `order`. A parameter
this table does not know takes values of leaves with its own name, so that a
user's domain works without touching this file.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

# Patterns over any text, tool output or speech. Order matters within a type.
PATTERNS: dict[str, str] = {
  "user": r"\b[a-z]+_[a-z]+_\d{3,5}\b",
  "email": r"[\w.+-]+@[\w-]+\.\w[\w.]*\w",
  "order": r"#W\d{7}\b",
  "phone": r"\b\d{3}-\d{3}-\d{4}\b",
  "payment": r"\b(?:credit_card|gift_card|paypal|certificate)_\d+\b",
  "customer": r"\bC\d{4}\b",
  "line": r"\bL\d{4}\b",
  "bill": r"\bB\d{4,}\b",
  "flight": r"\bHAT\d{3}\b",
}
# Patterns that would fire everywhere in tool output: read in speech only.
SPEECH: dict[str, str] = {
  "zip": r"\b\d{5}\b",
  "reservation": r"\b(?=[A-Z0-9]*[A-Z])[A-Z0-9]{6}\b",
  "airport": r"\b[A-Z]{3}\b",
}
# Leaf keys of tool output that name an entity: key -> type.
KEYS: dict[str, str] = {
  "user_id": "user",
  "email": "email",
  "order_id": "order",
  "orders": "order",
  "product_id": "product",
  "reservation_id": "reservation",
  "reservations": "reservation",
  "payment_method_id": "payment",
  "payment_id": "payment",
  "customer_id": "customer",
  "line_id": "line",
  "line_ids": "line",
  "bill_id": "bill",
  "bill_ids": "bill",
  "phone_number": "phone",
  "origin": "airport",
  "destination": "airport",
  "iata": "airport",
  "flight_number": "flight",
  "date": "date",
}
# What a whole object is known by: the first of these keys that it has.
RECORDS = ("order_id", "reservation_id", "product_id", "user_id")
UNIONS: dict[str, tuple[str, ...]] = {"id": ("line", "bill", "customer")}
MONTHS = {
  m: i + 1
  for i, m in enumerate(
    "jan feb mar apr may jun jul aug sep oct nov dec".split()
  )
}
_DATE = re.compile(
  r"\b(?:(\d{4})-(\d\d)-(\d\d)|(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"
  r"[a-z]*\.?\s+(\d{1,2})(?:st|nd|rd|th)?)\b",
  re.I,
)
_DAY_FIRST = re.compile(  # "the 20th of May", "20 May", and no "2 may do"
  r"\b(\d{1,2})(?:(?:st|nd|rd|th)(?: of)?| of)? "
  r"(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*"
)
_PERSON = re.compile(r"\b([A-Z][a-z]+) ([A-Z][a-z]+)\b")
_BORN = re.compile(
  r"\b([A-Z][a-z]+) ([A-Z][a-z]+)\b[^.;]{0,30}?(\d{4}-\d\d-\d\d)"
)
_ADDRESS = re.compile(
  r"(\d+ [A-Z][\w ]+?),\s*(?:((?:Suite|Apt|Unit|Apartment)\.? ?\w+),\s*)?"
  r"([A-Z][A-Za-z .]+?),\s*(?:([A-Z]{2}|[A-Z][a-z]+(?: [A-Z][a-z]+)?),?\s*)?"
  r"(?:USA,?\s*)?(\d{5})"
)
_NUMBER = re.compile(r"(?<![\w#.-])\$?(\d+(?:\.\d+)?)(?![\w-])")
# What `list_all_airports` answers, and names people say instead.
CITIES: Mapping[str, tuple[str, ...]] = {
  "SFO": ("san francisco",), "JFK": ("new york", "nyc"),
  "LAX": ("los angeles",), "ORD": ("chicago",), "DFW": ("dallas",),
  "DEN": ("denver",), "SEA": ("seattle",), "ATL": ("atlanta",),
  "MIA": ("miami",), "BOS": ("boston",), "PHX": ("phoenix",),
  "IAH": ("houston",), "LAS": ("las vegas", "vegas"), "MCO": ("orlando",),
  "EWR": ("newark", "new york"), "CLT": ("charlotte",),
  "MSP": ("minneapolis",), "DTW": ("detroit",), "PHL": ("philadelphia",),
  "LGA": ("laguardia", "new york"),
}  # fmt: skip
# USPS codes, as addresses in tool results have them.
STATES: dict[str, str] = dict(
  (pair[:2], pair[3:]) for pair in (
    "AL:alabama,AK:alaska,AZ:arizona,AR:arkansas,CA:california,CO:colorado,"
    "CT:connecticut,DE:delaware,DC:washington dc,FL:florida,GA:georgia,"
    "HI:hawaii,ID:idaho,IL:illinois,IN:indiana,IA:iowa,KS:kansas,KY:kentucky,"
    "LA:louisiana,ME:maine,MD:maryland,MA:massachusetts,MI:michigan,"
    "MN:minnesota,MS:mississippi,MO:missouri,MT:montana,NE:nebraska,"
    "NV:nevada,NH:new hampshire,NJ:new jersey,NM:new mexico,NY:new york,"
    "NC:north carolina,ND:north dakota,OH:ohio,OK:oklahoma,OR:oregon,"
    "PA:pennsylvania,RI:rhode island,SC:south carolina,SD:south dakota,"
    "TN:tennessee,TX:texas,UT:utah,VT:vermont,VA:virginia,WA:washington,"
    "WV:west virginia,WI:wisconsin,WY:wyoming"
  ).split(",")
)  # fmt: skip
ADDRESS = ("address1", "address2", "city", "state", "country", "zip")


def key_of(value: Any) -> str:
  """Canonical text of a JSON value: two values are one entity iff equal."""
  return json.dumps(value, sort_keys=True)


@dataclasses.dataclass
class Entity:
  """One thing that can be pointed at. Grows as more is said of it."""

  type: str
  value: Any  # what goes into the argument; a dict fills a group of them
  fields: dict[str, str]
  links: set[str]
  turn: int  # when it was first named
  source: str  # "user" | "tool" | "schema" | "derived"
  memo: dict[str, Any] = dataclasses.field(default_factory=dict)
  # of whoever describes it; emptied when a field changes

  @functools.cached_property
  def key(self) -> str:
    return key_of(self.value)

  @functools.cached_property
  def id(self) -> str:
    """The short name others link to."""
    v = self.value
    return v if isinstance(v, str) else self.key


class Seen:
  """Every entity of an episode, by type, in the order of first mention."""

  def __init__(self, year: int = 2024):
    self.by_type: dict[str, dict[str, Entity]] = {}
    self.answers: set[str] = set()
    self.records: dict[str, Any] = {}  # id -> the object as last seen
    self.first: dict[str, Any] = {}  # id -> the object as first seen
    # Of searches: (tool, key of its arguments) -> itineraries, lists of
    # flights; (number, date) -> the flight on offer, or its status.
    self.searches: dict[tuple[str, str], list[Any]] = {}
    self.offers: dict[tuple[str, str], Any] = {}
    self.flight_status: dict[str, str] = {}
    self.year = year  # of the domain's clock: "May 20" has no year

  def add(
    self,
    type: str,
    value: Any,
    turn: int,
    source: str,
    fields: Mapping[str, str] | None = None,
    links: Iterable[str] = (),
  ) -> Entity:
    table = self.by_type.setdefault(type, {})
    entity = table.setdefault(
      key_of(value), Entity(type, value, {}, set(), turn, source)
    )
    if fields:
      entity.fields.update(fields)
      entity.memo.clear()
    entity.links.update(x for x in links if x != entity.id)
    return entity

  def types(self) -> set[str]:
    """Types, and unions of types, of which something was named."""
    held = (t for t, table in self.by_type.items() if table)
    named = {t for t in held if t not in UNIONS}  # `of` reads a union's parts
    return named | {u for u, ts in UNIONS.items() if named & set(ts)}

  def known(self, value: str) -> list[Entity]:
    """The value that was seen written like this; empty where none was."""
    e = self.by_type.get("value", {}).get(key_of(value))
    return [] if e is None else [e]

  def of(self, type: str) -> list[Entity]:
    """Entities of a type, or of the types a union stands for."""
    return [
      e
      for t in UNIONS.get(type, (type,))
      for e in self.by_type.get(t, {}).values()
    ]

  def read_speech(self, text: str, turn: int) -> None:
    """Adds what a user's words name."""
    self._patterns(text, turn, "user", PATTERNS | SPEECH)
    for m in _DATE.finditer(text):
      y, mo, d, name, day = m.groups()
      date = (
        f"{y}-{mo}-{d}"
        if y
        else f"{self.year}-{MONTHS[name[:3].lower()]:02d}-{int(day):02d}"
      )
      self.add("date", date, turn, "user")
    for day, name in _DAY_FIRST.findall(text):
      month = MONTHS[name[:3].lower()]
      self.add("date", f"{self.year}-{month:02d}-{int(day):02d}", turn, "user")
    for m in _PERSON.finditer(text):
      person = {"first_name": m.group(1), "last_name": m.group(2)}
      self.add("person", person, turn, "user", _role(text[: m.start()]))
    low = text.lower()
    for code, names in CITIES.items():
      if any(re.search(rf"\b{n}\b", low) for n in names):
        self.add("airport", code, turn, "user", {"city": names[0]})
    for user in re.findall(PATTERNS["user"], text):
      first, last = user.split("_")[:2]
      person = {"first_name": first.title(), "last_name": last.title()}
      self.add("person", person, turn, "user", {"role": "self"})
    for a1, a2, city, state, zip_code in _ADDRESS.findall(text):
      values = (a1, a2, city, self._state(state, city), "USA", zip_code)
      address: dict[str, str] = dict(zip(ADDRESS, values, strict=True))
      self.add("address", address, turn, "user", {**address})
    for first, last, born in _BORN.findall(text):
      person = {"first_name": first, "last_name": last, "dob": born}
      self.add("passenger", person, turn, "user")
    for number in _NUMBER.findall(text):
      value = float(number) if "." in number else int(number)
      if value < 100000:
        self.add("number", value, turn, "user")
    for quoted in re.findall(r"['\"“]([^'\"”]{2,60})['\"”]", text):
      self.add("quote", quoted, turn, "user")

  def _state(self, said: str, city: str) -> str:
    """The code of a state that was written out, or that a city lies in."""
    if len(said) == 2:
      return said
    codes = {name: code for code, name in STATES.items()}
    return codes.get((said or city).lower(), said)

  def read_result(self, text: str, turn: int, tool: str) -> None:
    """Adds what a tool's output names. Plain strings are read by pattern.

    The same answer is read once: a policy in a loop hears it a hundred times.
    """
    if text in self.answers:
      return
    self.answers.add(text)
    try:
      obj = json.loads(text)
    except json.JSONDecodeError:
      obj = text
    if isinstance(obj, dict) and obj and all(map(_is_number_id, obj.values())):
      self._index(obj, turn)
    elif isinstance(obj, (dict, list)):
      self._record(obj)
      self._walk(obj, (), turn, frozenset())
      self._derive(obj, turn, tool)
    else:
      self._patterns(str(obj), turn, "tool", PATTERNS)

  def read_look_up(self, text: str, turn: int, tool: str, given: Any) -> None:
    """What an answer means together with its question.

    A flight that a search finds is one of the day that was searched, also
    where the answer does not repeat it.
    """
    if tool == "get_flight_status":
      key = f"{given.get('flight_number')} {given.get('date')}"
      self.flight_status[key] = text
      return
    if not tool.startswith("search_"):
      return
    found = []
    for way in json.loads(text):
      flights = way if isinstance(way, list) else [way]
      flights = [{**f, "date": f.get("date") or given["date"]} for f in flights]
      found.append(flights)
      for f in flights:
        self.offers[f["flight_number"], f["date"]] = f
        leg = {"flight_number": f["flight_number"], "date": f["date"]}
        links = [f["origin"], f["destination"], f["date"]]
        self.add("leg", leg, turn, "tool", describe(f), links)
    self.searches[tool, key_of(given)] = found

  def _record(self, obj: Any) -> None:
    """Keeps whole objects, for arithmetic over them (`ledger`)."""
    if isinstance(obj, dict):
      id = next((str(obj[k]) for k in RECORDS if k in obj), None)
      if id is not None:
        self.records[id] = obj
        self.first.setdefault(id, obj)

  def _patterns(self, text, turn, source, patterns) -> None:
    for type, pattern in patterns.items():
      for value in re.findall(pattern, text):
        self.add(type, value, turn, source)

  def _walk(self, obj: Any, path: tuple, turn: int, links: frozenset) -> None:
    if isinstance(obj, list):
      for x in obj:
        self._walk(x, path, turn, links)
    elif isinstance(obj, dict):
      own = {str(v) for k, v in obj.items() if k in KEYS and _is_leaf(v)}
      self._object(obj, path, turn, links | own)
      for k, v in obj.items():
        if not _is_leaf(v):
          self._walk(v, (*path, k), turn, links | own)
        elif k in KEYS:
          self.add(KEYS[k], v, turn, "tool", links=links | own)
        else:
          self.add(k, v, turn, "tool", links=links | own)
    elif path and path[-1] in KEYS:
      self.add(KEYS[path[-1]], obj, turn, "tool", links=links)

  def _object(self, obj: dict, path: tuple, turn: int, links) -> None:
    """Objects that are entities as a whole, or describe one."""
    fields = describe(obj)
    parent = path[-1] if path else ""
    if "item_id" in obj:
      type = "variant" if "variants" in path else "item"
      self.add(type, obj["item_id"], turn, "tool", fields, links)
    if "id" in obj and "payment_methods" in path:
      self.add("payment", obj["id"], turn, "tool", fields, links)
    if set(ADDRESS) <= set(obj):
      address = {k: obj[k] for k in ADDRESS}
      self.add("address", address, turn, "tool", fields, links)
    if {"first_name", "last_name", "dob"} <= set(obj):
      keys = ("first_name", "last_name", "dob")
      person = {k: obj[k] for k in keys}
      self.add("passenger", person, turn, "tool", fields, links)
    if parent == "" and "name" in obj and "dob" in obj and "email" in obj:
      person = {**obj["name"], "dob": obj["dob"]}
      self.add("passenger", person, turn, "tool", {"role": "self"}, links)
    if "flight_number" in obj:
      leg = {"flight_number": obj["flight_number"], "date": obj.get("date")}
      if leg["date"]:
        self.add("leg", leg, turn, "tool", fields, links)
    for k, type in (
      ("order_id", "order"),
      ("reservation_id", "reservation"),
      ("product_id", "product"),
      ("line_id", "line"),
      ("bill_id", "bill"),
      ("customer_id", "customer"),
    ):
      if _is_leaf(obj.get(k)) and ("item_id" not in obj or k != "order_id"):
        inner = {str(v) for v in _leaf_values(obj, KEYS)}
        known = fields if k != "product_id" or "variants" in obj else {}
        if k == "product_id" and "name" in obj:
          known = {**known, "name": str(obj["name"])}
        self.add(type, obj[k], turn, "tool", known, links | inner)

  def _index(self, obj: dict, turn: int) -> None:
    """A flat table name -> product id, as `list_all_product_types` gives."""
    for name, value in obj.items():
      self.add("product", value, turn, "tool", {"name": name})

  def _derive(self, obj: Any, turn: int, tool: str) -> None:
    """Simple arithmetic over one result: counts, totals, differences."""
    if isinstance(obj, list):
      if obj and all(isinstance(x, dict) for x in obj):
        self.add("value", str(len(obj)), turn, "derived", {"kind": "count"})
      return
    links = {str(v) for k, v in obj.items() if k in KEYS and _is_leaf(v)}
    name = str(obj.get("name", "")) if _is_leaf(obj.get("name")) else ""
    for item in obj.get("items", ()):
      for k, v in item.get("options", {}).items():
        fields = {"kind": k, "name": str(item.get("name", ""))}
        self.add("value", str(v), turn, "tool", fields, links)
    priced = [x for x in obj.get("items", ()) if "price" in x and "name" in x]
    if priced:
      most = max(priced, key=lambda x: x["price"])
      fields = {"kind": "most expensive item"}
      self.add("value", str(most["name"]), turn, "tool", fields, links)
    if "items" in obj and isinstance(place := obj.get("address"), dict):
      for k in ("address1", "address2", "city", "state", "zip"):
        fields = {"kind": f"address {k}"}
        self.add("value", str(place.get(k, "")), turn, "tool", fields, links)
    if "variants" in obj:
      free = [v for v in obj["variants"].values() if v.get("available")]
      fields = {"kind": "available options", "name": name}
      self.add("value", str(len(free)), turn, "derived", fields, links)
      least = min(free, key=lambda v: v.get("price", 0.0), default={})
      for k, v in least.get("options", {}).items():
        fields = {"kind": f"cheapest {k}", "name": name}
        self.add("value", str(v), turn, "tool", fields, links)
    if isinstance(people := obj.get("passengers"), list):
      if (id := obj.get("reservation_id")) is not None:
        fields = {"passengers": str(len(people))}
        self.add("reservation", id, turn, "tool", fields)
    for k in ("items", "flights"):
      prices = [x["price"] for x in obj.get(k, ()) if "price" in x]
      if prices:
        total = f"{sum(prices):.2f}".removesuffix(".00")
        fields = {"kind": f"total price of {k}", "of": tool}
        self.add("value", total, turn, "derived", fields, links)
    for k, v in walk_leaves(obj):
      if k[-1] in ("tracking_id", "amount", "balance", "price") and _is_leaf(v):
        text = f"{v:.2f}" if isinstance(v, float) else str(v)
        fields = {"kind": " ".join(map(str, k[-2:])), "name": name}
        text = text.removesuffix(".00")
        self.add("value", text, turn, "derived", fields, links)
    methods = obj.get("payment_methods")
    if isinstance(methods, dict):
      for source in ("gift_card", "certificate"):
        own = [
          m.get("amount", m.get("balance", 0))
          for m in methods.values()
          if m.get("source") == source
        ]
        if own:
          total = f"{sum(own):.2f}".removesuffix(".00")
          fields = {"kind": f"sum of {source.replace('_', ' ')} balances"}
          self.add("value", total, turn, "derived", fields, links)


def _role(before: str) -> dict[str, str]:
  """ "My name is", "I'm": the caller."""
  own = re.search(r"\b(name is|name:|I am|I'm|i am|i'm|this is)\s*$", before)
  return {"role": "self"} if own else {}


def _is_number_id(x: Any) -> bool:
  return isinstance(x, str) and re.fullmatch(r"\d{8,}", x) is not None


def _is_leaf(x: Any) -> bool:
  return isinstance(x, (str, int, float, bool)) and x != ""


def _leaf_values(obj: Any, keys) -> Iterable[Any]:
  for path, v in walk_leaves(obj):
    if path and path[-1] in (*keys, "item_id", "payment_id"):
      yield v


def walk_leaves(obj: Any, path: tuple = ()) -> Iterable[tuple[tuple, Any]]:
  """(path, value) of every leaf; list indices are left out of paths."""
  if isinstance(obj, dict):
    for k, v in obj.items():
      yield from walk_leaves(v, (*path, str(k)))
  elif isinstance(obj, (list, tuple)):
    for v in obj:
      yield from walk_leaves(v, path)
  elif obj is not None:
    yield path, obj


def describe(obj: Mapping[str, Any]) -> dict[str, str]:
  """Flat `key -> text` of an object, two levels deep, ids left out."""
  out: dict[str, str] = {}
  for path, v in itertools.islice(walk_leaves(obj), 200):
    key = path[-1]
    if key.endswith(("_id", "_ids")) or key == "id" or "variants" in path:
      continue
    text = str(v)
    if key in out and text not in out[key]:
      out[key] = f"{out[key]}; {text}"
    else:
      out.setdefault(key, text)
  return out
