"""What the features read of an episode, worked out once and kept.

`said` holds what follows from the user's words alone, `view` what follows from
all that has happened; both live in `State.memo` until there is something new.
Nothing here reads a task: only `actions.State`, which only saw the dialogue.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jax_cl.agents import mentions
from jax_cl.tasks import actions, entities
from jax_cl.tasks.language import reading

# Weights of few and telling features must move as fast as those of the many
# directions of a hidden state, under one learning rate.
WISH = 12.0
# The intended option moves faster still: it must be learned as a rule for all
# acts before each act's own weights explain its demonstrations by heart.
HINT = 120.0
_WORD = re.compile(r"[a-z0-9]+")
_SMALL = frozenset(
  "a an the of to and or in for with on at by is it its my your you i we be"
  " that this not no as from want would like".split()
)
_NAMED_THINGS = ("item", "order", "reservation")


@functools.lru_cache(maxsize=1 << 16)
def words(text: str) -> tuple[str, ...]:
  """Lower-case words, plural s dropped, function words left out."""
  out = []
  for w in _WORD.findall(reading.flat(text)):
    if w not in _SMALL:
      out.append(w[:-1] if len(w) > 3 and w.endswith("s") else w)
  return tuple(out)


def share(name: Sequence[str], heard: Collection[str]) -> float:
  """The share of a name's words that were heard; its head noun is enough."""
  if not name:
    return 0.0
  if len(name) > 1 and name[-1] in heard:
    return 1.0
  return sum(w in heard for w in name) / len(name)


class Columns:
  """float32[n, width], a feature a column, written and read by name."""

  def __init__(self, names: Mapping[str, int], n: int, width: int):
    self.names = names
    self.values = np.zeros((n, width), np.float32)

  def __setitem__(self, name: str, column: Any) -> None:
    self.values[:, self.names[name]] = column

  def __getitem__(self, name: str) -> np.ndarray:
    return self.values[:, self.names[name]]


class Matter(NamedTuple):
  """Something the user named that nothing has been done with."""

  entity: entities.Entity
  status: str  # an item has that of its order
  mention: mentions.Mention


class Said:
  """What follows from the user's words."""

  def __init__(self, state: actions.State):
    self.texts = tuple(state.user_texts)
    self.text = " ".join(self.texts)
    self.low = self.text.lower()
    self.lines = [set(words(t)) for t in self.texts]
    self.words = set().union(*self.lines)
    self.kept: dict[Any, Any] = {}  # of whoever reads this

  @functools.cached_property
  def where(self) -> dict[str, list[int]]:
    """Word -> the lines it is in."""
    out: dict[str, list[int]] = {}
    for n, line in enumerate(self.lines):
      for w in line:
        out.setdefault(w, []).append(n)
    return out

  def nearest_line(self, bag: Collection[str]) -> set[str]:
    """The words of `bag` in the line that has most of them, the latest."""
    counts: dict[int, int] = {}
    for w in bag:
      for n in self.where.get(w, ()):
        counts[n] = counts.get(n, 0) + 1
    if not counts:
      return set()
    return self.lines[max((c, n) for n, c in counts.items())[1]]


class View:
  """What follows from all that has happened so far."""

  def __init__(self, state: actions.State):
    self.state = state
    self.said = said(state)
    self.acts = {name for name, _ in state.history}
    self.latest = " ".join(state.last_user)

  @functools.cached_property
  def latest_words(self) -> set[str]:
    return {w for t in self.state.last_user for w in words(t)}

  @functools.cached_property
  def mentions(self) -> dict[str, mentions.Mention]:
    """Of every item, order and reservation."""
    seen = self.state.seen
    things = [e for t in _NAMED_THINGS for e in seen.of(t)]
    known = {e.key: mentions.surfaces(e) for e in things}
    return mentions.find(self.said.texts, known) if known else {}

  @functools.cached_property
  def matters(self) -> list[Matter]:
    return list(self._matters())

  def _matters(self) -> Iterator[Matter]:
    seen, done = self.state.seen, self.state.written
    orders = {e.id: e.fields.get("status", "") for e in seen.of("order")}
    for e in (e for t in _NAMED_THINGS for e in seen.of(t)):
      if e.key not in self.mentions or e.key in done:
        continue
      status = e.fields.get("status") or e.fields.get("cabin", "")
      if e.type == "item":
        if any(entities.key_of(x) in done for x in e.links):
          continue
        # Of two orders the first: a set has no order of its own.
        status = orders.get(min(e.links & orders.keys(), default=""), "")
      yield Matter(e, status, self.mentions[e.key])

  @functools.cached_property
  def wishes(self) -> list[reading.Wish]:
    return reading.open_wishes(self.state)

  @functools.cached_property
  def unopened(self) -> list[entities.Entity]:
    return reading.unopened(self.state)

  @functools.cached_property
  def used(self) -> set[str]:
    """Keys given to any act."""
    return set().union(*self.state.used.values())

  def untried(self, act: actions.Act) -> bool:
    """Some slot has a candidate that this act has not been given yet."""
    seen = self.state.seen
    for slot in act.slots:
      if slot.values or slot.type == "count":
        continue
      used = self.state.used.get((act.name, slot.name), set())
      if any(e.key not in used for e in seen.of(slot.type)):
        return True
    return False


def said(state: actions.State) -> Said:
  stamp = len(state.user_texts)
  if state.memo.get("said", (None,))[0] != stamp:
    state.memo["said"] = (stamp, Said(state))
  return state.memo["said"][1]


def view(state: actions.State) -> View:
  stamp = (len(state.user_texts), state.turn, len(state.history))
  if state.memo.get("view", (None,))[0] != stamp:
    state.memo["view"] = (stamp, View(state))
  return state.memo["view"][1]


# -------------------------------------------------------------------- entities
def bag(e: entities.Entity) -> set[str]:
  """The words of an entity's fields."""
  if "bag" not in e.memo:
    e.memo["bag"] = {
      w for k, v in e.fields.items() if k != "price" for w in words(v)
    }
  return e.memo["bag"]


def names(e: entities.Entity) -> list[tuple[str, ...]]:
  """The names an entity goes by; an order goes by those of its items."""
  if "names" not in e.memo:
    e.memo["names"] = _names(e)
  return e.memo["names"]


def _names(e: entities.Entity) -> list[tuple[str, ...]]:
  if isinstance(e.value, dict) and "first_name" in e.value:
    return [words(f"{e.value['first_name']} {e.value['last_name']}")]
  text = e.fields.get("name") or e.fields.get("value") or ""
  if text:
    return [words(p) for p in text.split("; ")]
  return [tuple(sorted(bag(e))[:12])]


def named(e: entities.Entity, heard: Collection[str]) -> float:
  """The largest share of one of its names that was heard."""
  return max((share(name, heard) for name in names(e)), default=0.0)
