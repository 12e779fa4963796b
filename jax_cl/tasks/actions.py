"""What an agent may do: tools and message acts, with typed pointers for values.

An action is a short program of choices. The tool head picks an *act* (a tool,
a request that the user operate a device, or something to say); then each *slot*
of the act is filled by pointing at an entity (`entities.py`) of the slot's
type. Lists are filled by pointing again until STOP. A choice with one option
is made without asking.

Masks come from schemas alone: an act is legal when every required slot has a
candidate. `tools = domain | seen | all` narrows the acts to those of the
episode's domain, of the domains seen so far, or not at all.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jax_cl.tasks import entities, ledger, speech
from jax_cl.types import ToolCall, ToolSchema, Turn

MAX_CANDIDATES = 48  # C, options of one pointer choice
MAX_PICKS = 8  # of one list
MAX_INFORM = 3  # values one message may carry
STOP = entities.Entity("stop", "<stop>", {}, set(), -1, "schema")

# parameter name -> entity type; "*" marks lists. Others: see `_slot_type`.
PARAMS: dict[str, str] = {
  "user_id": "user",
  "email": "email",
  "zip": "zip",
  "order_id": "order",
  "product_id": "product",
  "item_ids": "item*",
  "new_item_ids": "variant*",
  "payment_method_id": "payment",
  "payment_id": "payment",
  "reservation_id": "reservation",
  "origin": "airport",
  "destination": "airport",
  "date": "date",
  "flights": "leg*",
  "flight_number": "flight",
  "passengers": "passenger*",
  "payment_methods": "payment_amount*",
  "total_baggages": "count",
  "nonfree_baggages": "count",
  "amount": "number",
  "gb_amount": "number",
  "phone_number": "phone",
  "customer_id": "customer",
  "line_id": "line",
  "bill_id": "bill",
  "values": "value*",
}
# parameters that are pointed at together
GROUPS: dict[str, tuple[str, ...]] = {
  "address": entities.ADDRESS,
  "person": ("first_name", "last_name"),
}
# type of a slot -> the entities that its candidates are made of
SOURCES: dict[str, str] = {"payment_amount": "payment"}
# Free text that no verdict reads: one constant, so that the act is expressible.
CONSTANTS: dict[str, str] = {
  "summary": "The request is outside of what I can do for you.",
}
SAY = (
  "ask:user_id", "ask:email", "ask:name_zip", "ask:phone_number",
  "ask:location", "ask:refuel", "ask:details",
  "ask:items", "ask:reason", "ask:payment", "ask:reservation_id",
  "inform", "refuse", "confirm", "transfer", "done",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Slot:
  """A parameter, or a group of them, that one pointer fills."""

  name: str
  fields: tuple[str, ...]  # the parameters it fills
  type: str
  many: bool = False
  values: tuple[Any, ...] = ()  # of enums and constants


@dataclasses.dataclass(frozen=True)
class Act:
  """An entry of the tool head."""

  name: str  # "get_order_details", "request:toggle_data", "say:done"
  kind: str  # "tool" | "request" | "say"
  tool: str  # the tool's or the speech act's own name
  slots: tuple[Slot, ...]
  text: str  # what the frozen LLM reads to make w_i under the shared head
  domains: frozenset[str]
  write: bool = False  # it changes something

  @functools.cached_property
  def needs(self) -> frozenset[str]:
    """Types of entities without which the act is not legal."""
    return frozenset(
      SOURCES.get(s.type, s.type)
      for s in self.slots
      if not s.values and s.type != "count"
    )


def _enum(schema: Mapping[str, Any], root: Mapping[str, Any]) -> tuple:
  if "$ref" in schema:
    schema = root["$defs"][schema["$ref"].split("/")[-1]]
  if "enum" in schema:
    return tuple(schema["enum"])
  if schema.get("type") == "boolean":
    return (True, False)
  for option in schema.get("anyOf", ()):
    if values := _enum(option, root):
      return values
  return ()


def _slot_type(
  tool: str, name: str, schema, root, vocabulary: Mapping[str, tuple]
) -> Slot:
  """The slot of one parameter."""
  if values := _enum(schema, root):
    return Slot(name, (name,), f"enum:{name}", False, values)
  if name in CONSTANTS:
    return Slot(name, (name,), f"enum:{name}", False, (CONSTANTS[name],))
  values = vocabulary.get(f"{tool}.{name}", ())
  values = tuple(dict.fromkeys((*speech.CHOICES.get(name, ()), *values)))
  if values:
    return Slot(name, (name,), f"enum:{name}", False, tuple(values))
  type = PARAMS.get(name, name)
  return Slot(name, (name,), type.rstrip("*"), type.endswith("*"))


def slots_of(
  tool: ToolSchema, vocabulary: Mapping[str, tuple]
) -> tuple[Slot, ...]:
  """Required parameters as slots, groups folded, in the schema's order.

  But for shares of a payment, which come last.
  """
  root = tool.parameters
  required = list(root.get("required", root.get("properties", {})))
  out: list[Slot] = []
  done: set[str] = set()
  for name in required:
    if name in done:
      continue
    group = next(
      (g for g, f in GROUPS.items() if name in f and set(f) <= set(required)),
      None,
    )
    if group:
      out.append(Slot(group, GROUPS[group], group))
      done |= set(GROUPS[group])
      continue
    schema = root["properties"][name]
    out.append(_slot_type(tool.name, name, schema, root, vocabulary))
  # What is to be paid is known when all else is.
  return tuple(sorted(out, key=lambda s: s.type == "payment_amount"))


def _sentence(text: str) -> str:
  return re.split(r"(?<=[.!?])\s", " ".join(text.split()), maxsplit=1)[0]


def acts_of(domain, vocabulary: Mapping[str, tuple]) -> list[Act]:
  """The acts of a domain: its tools, requests to its user, and speech."""
  where = frozenset([domain.name])
  out = []
  for tool in domain.tools:
    text = f"{tool.name.replace('_', ' ')}: {_sentence(tool.description)}"
    slots = slots_of(tool, vocabulary)
    write = tool.kind == "write"
    out.append(Act(tool.name, "tool", tool.name, slots, text, where, write))
  for tool in domain.user_tools:
    if not domain.solo and tool.name not in speech.REQUESTS:
      continue  # no sentence asks for it
    words = tool.name.replace("_", " ")
    text = f"{words}: {_sentence(tool.description)}"
    slots = slots_of(tool, vocabulary)
    if domain.solo:
      write = tool.kind == "write"
      out.append(Act(tool.name, "tool", tool.name, slots, text, where, write))
    else:
      name = f"request:{tool.name}"
      text = f"ask the user to {text}"
      out.append(Act(name, "request", tool.name, slots, text, where))
  for say in ("done",) if domain.solo else SAY:
    slots = (Slot("values", ("values",), "value", True),)
    slots = slots if say == "inform" else ()
    text = f"say to the user: {say.replace(':', ' ')}"
    out.append(Act(f"say:{say}", "say", say, slots, text, where))
  return out


class ActSpace:
  """The acts of a whole stream in one order: the tool head's outputs.

  Tools of the same name and slots in two domains are one act. The size is
  fixed before training, so no parameter ever grows.
  """

  def __init__(
    self,
    domains: Sequence[Any],
    vocabularies: Mapping[str, Mapping[str, tuple]],
    reads: bool = True,
  ):
    self.reads = reads
    self.today = {d.name: d.today for d in domains}
    table: dict[str, Act] = {}
    for domain in domains:
      for act in acts_of(domain, vocabularies.get(domain.name, {})):
        if old := table.get(act.name):
          slots = _merge(old.slots, act.slots)
          domains_ = old.domains | act.domains
          act = dataclasses.replace(old, slots=slots, domains=domains_)
        table[act.name] = act
    self.acts: tuple[Act, ...] = tuple(table.values())
    self.index = {a.name: i for i, a in enumerate(self.acts)}
    slots = {(a.name, s.name): s.type for a in self.acts for s in a.slots}
    self.slots: tuple[tuple[str, str], ...] = tuple(sorted(slots))
    types = sorted(set(slots.values()))
    self.slot_types = tuple(types.index(slots[s]) for s in self.slots)
    self.slot_index = {s: i for i, s in enumerate(self.slots)}

  def __len__(self) -> int:
    return len(self.acts)


def _merge(a: Sequence[Slot], b: Sequence[Slot]) -> tuple[Slot, ...]:
  """Union of two domains' slots for a tool of one name."""
  out = []
  other = {s.name: s for s in b}
  for s in a:
    t = other.pop(s.name, s)
    values = tuple(dict.fromkeys(s.values + t.values))
    out.append(dataclasses.replace(s, values=values))
  return tuple(out) + tuple(other.values())


def sentences(text: str) -> list[str]:
  """Splits speech and plain tool output into short texts."""
  parts = re.split(r"\n+|(?<=[.!?;])\s+", text)
  return [p.strip() for p in parts if len(p.strip()) > 1]


@functools.lru_cache(maxsize=1 << 14)
def leaf_texts(text: str, today: str = "", limit: int = 60) -> tuple[str, ...]:
  """Tool output as `path: value` texts. Numbers and ids become their kind.

  A date becomes past or future against `today` (ISO 8601), where that is known.
  Long tails (lists of flights, of variants) are cut at `limit` distinct texts.
  """
  try:
    obj = json.loads(text)
  except json.JSONDecodeError:
    return tuple(sentences(text)[:limit])
  if not isinstance(obj, (dict, list)):
    return tuple(sentences(str(obj))[:limit])
  out: dict[str, None] = {}
  for path, v in entities.walk_leaves(obj):
    keys = [k for k in path if not re.search(r"\d", k)][-2:]
    out[f"{' '.join(keys)}: {_kind(str(v), today)}"] = None
    if len(out) >= limit:
      break
  return tuple(out)


def _kind(value: str, today: str) -> str:
  """What stands for a value with digits; others stand for themselves."""
  if not re.search(r"\d", value):
    return value
  if today and re.match(r"\d{4}-\d\d-\d\d", value):
    return "a past date" if value[:10] < today else "a date to come"
  return "a number" if re.fullmatch(r"[\d.,]+", value) else "an id"


@dataclasses.dataclass
class Choice:
  """What is to be decided next. `slot` is None for the tool head."""

  slot: Slot | None
  options: Sequence[Any]  # acts, or entities (STOP last when it is legal)
  mask: Sequence[bool]
  position: int = 0  # picks already made of this list


class State:
  """An episode as its agent sees it, and the action it is in the midst of."""

  def __init__(
    self,
    space: ActSpace,
    allowed: Iterable[str] | None = None,
    solo: bool = False,
    today: str = "",
  ):
    self.space = space
    self.solo = solo  # "done" then ends the episode
    self.today = today  # ISO 8601, as the policy tells it
    names = set(space.index if allowed is None else allowed)
    self.allowed = [a.name in names for a in space.acts]
    self.seen = entities.Seen()
    self.user_texts: list[str] = []  # every sentence the user has said
    self.answered: dict[str, str] = {}  # sentence -> act that it answered
    self.all_texts: dict[str, None] = {}  # whatever may be embedded
    self.last_user: list[str] = []
    self.last_result: list[str] = []
    self.reports: dict[str, list[str]] = {}  # act -> texts of its last answer
    self.history: list[tuple[str, str]] = []  # (act, canonical arguments)
    self.errors: list[bool] = []  # of each act in history
    self.used: dict[tuple[str, str], set[str]] = {}  # (act, slot) -> keys
    self.written: set[str] = set()  # keys given to acts that change things
    self.memo: dict[str, Any] = {}  # features keep here what is slow to make
    self.results: set[str] = set()  # tool outputs that were read
    self.looked_up: set[str] = set()  # calls with their outputs
    self.heard_out = False  # asked for more, the user had nothing new
    self.last_arguments: list[tuple[str, str]] = []
    self.failed: set[tuple[str, str]] = set()  # (act, key of an argument)
    self.turn = 0
    self.act: Act | None = None
    self.picks: dict[str, list[entities.Entity]] = {}

  # ------------------------------------------------------------- observation
  def observe(self, turns: Iterable[Turn]) -> None:
    """Takes in turns that happened since the last action."""
    for t in turns:
      self.turn += 1
      if t.role == "user" and t.content:
        self.last_user = sentences(t.content)
        self.all_texts.update(dict.fromkeys(self.last_user))
        new = [x for x in self.last_user if x not in self.user_texts]
        self.user_texts += new
        if self.history:
          self.answered |= dict.fromkeys(new, self.history[-1][0])
          asked = self.history[-1][0] == "say:ask:details"
          self.heard_out |= asked and not new
        self.seen.read_speech(t.content, self.turn)
        if new and self.seen.records:
          ledger.derive(self)
        if self.history:
          self.reports[self.history[-1][0]] = self.last_user
      elif t.role == "tool" and t.requestor != "user":
        content = t.content or ""
        self.last_result = list(leaf_texts(content, self.today))
        self.all_texts.update(dict.fromkeys(self.last_result))
        if self.history:
          self.reports[self.history[-1][0]] = self.last_result
          self.errors[-1] = t.error
          if t.error:
            self.failed.update(self.last_arguments)
        tool, given = self.history[-1] if self.history else ("", "{}")
        if not t.error and f"{tool} {given} {content}" not in self.looked_up:
          self.looked_up.add(f"{tool} {given} {content}")
          given = json.loads(given)
          self.seen.read_look_up(content, self.turn, tool, given)
        if not t.error and content not in self.results:
          self.results.add(content)  # a loop of one call must not grow
          self.seen.read_result(content, self.turn, tool)
          ledger.derive(self)

  def read_ticket(self, ticket: str) -> None:
    """Solo mode: the ticket stands in for the user's words."""
    self.observe([Turn("user", content=ticket)])

  # ----------------------------------------------------------------- choosing
  def candidates(self, slot: Slot) -> list[entities.Entity]:
    """Entities of the slot's type, in the order of first mention.

    Of too many, those linked to what was chosen stay, then those that share
    words with the user, then the latest.
    """
    if slot.values:
      return [
        entities.Entity(slot.type, v, {"value": str(v)}, set(), 0, "schema")
        for v in slot.values
      ]
    if slot.type == "count":
      return [
        entities.Entity("count", n, {"value": str(n)}, set(), 0, "schema")
        for n in range(10)
      ]
    if slot.type == "payment_amount":
      return ledger.shares(self.seen, self.picks)
    found = self.seen.of(slot.type)
    if slot.type == "variant":
      found = self._of_product(found)
    if len(found) <= MAX_CANDIDATES - 1:
      return found
    chosen = [e for es in self.picks.values() for e in es]
    said = set(_words(" ".join(self.user_texts)))

    def rank_of(i: int) -> tuple:
      e = found[i]
      linked = any(related(e, c) for c in chosen)
      overlap = len(said & set(_words(" ".join(e.fields.values()))))
      return (not linked, -overlap, -e.turn, i)

    rank = sorted(range(len(found)), key=rank_of)
    keep = sorted(rank[: MAX_CANDIDATES - 1])
    return [found[i] for i in keep]

  def _of_product(self, found: list[entities.Entity]):
    """Variants of the product of the item that is next to be replaced.

    The tools take no others. All, where that product was not looked up.
    """
    items = [e for e in self.picks.get("item_ids", ()) if e is not STOP]
    n = len(self.picks.get("new_item_ids", ()))
    same = [e for e in found if n < len(items) and e.links & items[n].links]
    return same or found

  def _legal(self) -> list[bool]:
    """Which acts may be taken; kept until a new type of thing is seen."""
    stamp = len(self.seen.by_type)
    if self.memo.get("legal", (None,))[0] != stamp:
      here = self.seen.types()
      legal = [
        ok and a.needs <= here
        for a, ok in zip(self.space.acts, self.allowed, strict=True)
      ]
      self.memo["legal"] = (stamp, legal)
    return list(self.memo["legal"][1])

  def choice(self) -> Choice:
    """The next decision."""
    if self.act is None:
      return Choice(None, self.space.acts, self._legal())
    slot = self._open_slot()
    assert slot is not None
    picked = self.picks.get(slot.name, [])
    taken = {e.key for e in picked}
    options = self.candidates(slot)
    # exchanged items may be replaced by the same variant twice
    if slot.many and slot.type != "variant":
      options = [e for e in options if e.key not in taken]
      if picked and slot.type != "payment_amount":  # it ends when it is paid
        options = [*options, STOP]
    # Nothing to pay with: the call says so, and the tool refuses it.
    options = options or [STOP]
    return Choice(slot, options, [True] * len(options), len(picked))

  def _open_slot(self) -> Slot | None:
    assert self.act is not None
    for slot in self.act.slots:
      picked = self.picks.get(slot.name)
      if picked is None or (slot.many and not self._closed(slot, picked)):
        return slot
    return None

  def _closed(self, slot: Slot, picked: list) -> bool:
    if slot.type == "variant":  # one new item for each old one
      old = [e for e in self.picks.get("item_ids", ()) if e is not STOP]
      return len(picked) >= max(len(old), 1)
    if slot.type == "payment_amount":
      paid = ledger.unpaid(self.seen, self.picks) <= 0
      return paid or not ledger.shares(self.seen, self.picks)
    most = MAX_INFORM if slot.type == "value" else MAX_PICKS
    left = len(self.seen.of(slot.type)) - len(picked)
    return picked[-1] is STOP or len(picked) >= most or left <= 0

  def choose(self, index: int) -> Turn | None:
    """Takes option `index`; the finished turn, or None if more is asked.

    Slots with a single option are filled at once.
    """
    if self.act is None:
      self.act, self.picks = self.space.acts[index], {}
    else:
      choice = self.choice()
      assert choice.slot is not None
      option = choice.options[index]
      self.picks.setdefault(choice.slot.name, []).append(option)
    while (slot := self._open_slot()) is not None:
      options = self.choice().options
      if len(options) != 1:
        return None
      self.picks.setdefault(slot.name, []).append(options[0])
    return self._finish()

  def _finish(self) -> Turn:
    act = self.act
    assert act is not None
    arguments: dict[str, Any] = {}
    for slot in act.slots:
      values = [e.value for e in self.picks[slot.name] if e is not STOP]
      used = self.used.setdefault((act.name, slot.name), set())
      used.update(entities.key_of(v) for v in values)
      if act.write:
        self.written.update(entities.key_of(v) for v in values)
      if slot.many:
        arguments[slot.name] = values
      elif len(slot.fields) > 1:
        arguments.update({f: values[0].get(f) for f in slot.fields})
      else:
        arguments[slot.name] = values[0]
    self.history.append((act.name, entities.key_of(arguments)))
    self.last_arguments = [
      (act.name, e.key)
      for es in self.picks.values() for e in es if e is not STOP
    ]  # fmt: skip
    self.errors.append(False)
    self.act, self.picks = None, {}
    if act.kind == "tool":
      call_id = f"call_{len(self.history)}"
      call = ToolCall(call_id, act.tool, arguments)
      return Turn("assistant", tool_calls=(call,))
    return Turn("assistant", content=_utter(act, arguments, self.solo))

  # ------------------------------------------------------------ demonstration
  def path_to(self, name: str, arguments: Mapping[str, Any]) -> list[int]:
    """Option indices that say or call exactly this. Does not change the state.

    Raises:
      Unexpressible: a value is not among the candidates, or the act is masked.
    """
    kept = (self.act, self.picks)
    path = []
    try:
      self.act, self.picks = None, {}
      i = self.space.index.get(name)
      if i is None or not self.choice().mask[i]:
        raise Unexpressible(f"{name} is not a legal act here")
      path.append(i)
      self.act = self.space.acts[i]
      while (slot := self._open_slot()) is not None:
        choice = self.choice()
        want = self._wanted(slot, arguments, choice)
        if len(choice.options) != 1:
          path.append(want)
        picked = self.picks.setdefault(slot.name, [])
        picked.append(choice.options[want])
      return path
    finally:
      self.act, self.picks = kept

  def _wanted(self, slot: Slot, arguments, choice: Choice) -> int:
    if slot.many:
      wanted = list(arguments[slot.name])
      if choice.position >= len(wanted):
        return len(choice.options) - 1 if choice.options[-1] is STOP else -1
      value = wanted[choice.position]
    elif len(slot.fields) > 1:
      value = {f: arguments.get(f, "") for f in slot.fields}
    else:
      value = arguments.get(slot.name)
    for i, e in enumerate(choice.options):
      if e is not STOP and same_value(e.value, value, slot.fields):
        return i
    raise Unexpressible(f"{self.act.name}.{slot.name} = {value!r}")


def _words(text: str) -> list[str]:
  """Lower-case words of three letters or more; "T-Shirt" is "tshirt"."""
  low = re.sub(r"\b([a-z])-([a-z]{3,})", r"\1\2", text.lower())
  return [w.rstrip("s") for w in re.findall(r"[a-z]{3,}", low)]


class Unexpressible(ValueError):
  """An action that no sequence of choices makes."""


def related(a: entities.Entity, b: entities.Entity) -> bool:
  """Named together: one links to the other."""
  return a.id in b.links or b.id in a.links


def same_value(a: Any, b: Any, fields: Sequence[str] = ()) -> bool:
  if isinstance(a, dict) and isinstance(b, dict):
    keys = fields if len(fields) > 1 else set(b)
    return all(str(a.get(k, "")) == str(b.get(k, "")) for k in keys)
  if isinstance(a, bool) or isinstance(b, bool):
    return a is b
  if isinstance(a, (int, float)) and isinstance(b, (int, float)):
    return float(a) == float(b)
  return a == b


def _utter(act: Act, arguments: Mapping[str, Any], solo: bool) -> str:
  if solo:
    return speech.STOP
  if act.kind == "request":
    takes = speech.REQUESTS[act.tool][0]
    return speech.say(act.name, *(arguments[p] for p in takes))
  return speech.say(act.tool, *arguments.get("values", ()))
