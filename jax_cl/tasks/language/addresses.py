"""Where orders and profiles shall go: which of them, and which address.

An address is told, or known by its place, its order or as the profile's own;
it is never the one that the order or the profile has already.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from jax_cl.tasks import entities
from jax_cl.tasks.language import things
from jax_cl.tasks.language.clauses import Clause, flat
from jax_cl.tasks.language.story import MOTION, Story, moves

_WANT = (
  r"\b(?:should|must|needs?|want\w*|has to|have to|like|let|rather|prefer\w*"
  r"|please|wish\w*|fix\w*|wrong|though|although|instead|not to)\b"
)
_CHANGE = re.compile(
  r"\b(?:chang\w*|modif\w*|updat\w*|correct\w*|switch\w*)\b.*\baddr"
)
_ASKED = re.compile(
  r"\b(?:chang\w*|modif\w*|updat\w*|correct\w*|switch\w*|mak(?:e|ing)|set"
  r"|fix\w*)\b"
  r"[^.]*\baddress|\baddress[^.]*\b(?:chang\w*|modif\w*|updat\w*|correct\w*"
  r"|switch\w*|set|use|fix\w*|wrong|incorrect\w*|outdated|mistyped)\b"
  rf"|{_WANT}[^.]*\b(?:address|{MOTION})\b"
  rf"|\b(?:sent|going|goes|go)\b[^.]*{_WANT}|^(?:then |please |also )*"
  r"(?:send|ship|deliver|redirect)\b"
)
_OWN_ADDRESS = re.compile(
  r"\b(?:(?:user|default|profile|account|my)(?: default)? address(?:es)?"
  r"|address (?:of|in|on) my (?:account|profile)"
  r"|(?:update|change|correct) my (?:profile|account)"
  r"|my (?:profile|account)(?: too| as well| also)?,?"
  r" (?:should|must|needs?|to have|has to))\b"
)
_CHANGE_OF = re.compile(  # what follows is to have another address
  r"\b(?:chang\w*|modif\w*|updat\w*|correct\w*|switch\w*|fix\w*)"
  r" (?:\w+ ){0,3}address(?:es)? (?:of|for|on|in) [^.]*$"
)
_AT = r"\b(?:sent|shipped|delivered|address of|same as|where)"
_PLACES = {"nyc": "new york", "la": "los angeles", "dc": "washington"}


def moved(story: Story) -> list[entities.Entity]:
  """Pending orders and users that shall have another address."""
  spoken = {c.sentence for c in story.said if moves(c.text)}
  about = [c for c in story.said if c.sentence in spoken]
  if not about or not any(_asked(c) for c in about):
    return []
  out = _rerouted(story, about)
  if any(_own_address(c.text) for c in about):
    out = [*out, *story.state.seen.of("user")[:1]]
  return out


def _asked(clause: Clause) -> bool:
  """It asks for an address to be changed, not what it is."""
  at = clause.text.find("addr")
  looks = [v.at for v in clause.verbs if v.fate == "look" and v.at < at]
  asked = clause.text[looks[-1] :] if looks else clause.text
  change = _CHANGE.search(asked) if looks else _ASKED.search(asked)
  return change is not None


def _own_address(text: str) -> bool:
  """The address of the profile is what shall change, not what to take."""
  for m in _OWN_ADDRESS.finditer(text):
    before = text[: m.start()]
    if re.search(r"\b(?:along with|as well as)(?: my)? $", before) or not (
      re.search(
      r"\b(?:to|as|at|with|and not|not|which is)(?: be)?(?: the| my)?"
      r"(?: same as)?(?: the| my)? $", before,
      )
    ):  # fmt: skip
      return True
  return bool(
    re.search(r"\b(?:as|make (?:it|this|that)|be) (?:my|the) (?:new )?default "
              r"address", text)
  )  # fmt: skip


def _rerouted(story: Story, about: Sequence[Clause]) -> list[entities.Entity]:
  """Pending orders that shall go elsewhere."""
  text = " . ".join(c.text for c in about)
  pending = [
    o for o in story.held.orders
    if o.fields.get("status", "").startswith("pending")
  ]  # fmt: skip
  pending = [o for o in pending if o.id not in _sent_there(story.state, text)]
  if any(story.shipped(c) for c in about):
    return []
  body = _OWN_ADDRESS.sub(
    " ",
    " . ".join(
      c.text for c in about if not re.search(r"\b(was|were|been|used) ", c.text)
    ),
  )
  if any(_own_address(c.text) for c in about) and not re.search(
    r"\b(order\w*|parcel|package|shipment|deliver\w*|ship\w*)\b", body,
  ):  # fmt: skip
    return []
  if named := [o for o in pending if _first_named(o, about)]:
    return named
  if re.search(r"\b(all|every|each)\b[^.]{0,40}\b(address|order)", text):
    return pending
  goes = [o for o in pending if _left_city(story, o, text)]
  if goes:
    return goes
  at = [story.held.orders[0]][:0]
  for c in about:
    for n in things.named(c.text, story.held.names):
      own = {
        h
        for e in story.held.items
        if e.fields.get("name") in n.names
        for h in story.held.homes(e)
      }
      before = c.text[: n.start]
      if _CHANGE_OF.search(before) or not re.search(rf"{_AT}\b[^.]*$", before):
        at += [o for o in pending if o.id in own and o not in at]
  if at:
    return at[:1]
  if all(_own_address(c.text) for c in about) and not re.search(
    r"\border", body
  ):
    return []
  touched = {d.order for d in story.drafts if d.fate in ("replace", "remove")}
  spoken = [o for o in pending if o.id in touched]
  away = [o for o in pending if not _at_home(story, o)]
  lone = spoken if len(spoken) == 1 else away if len(away) == 1 else []
  return lone or spoken[:1] or away[:1] or pending[:1]


def _first_named(o: entities.Entity, about: Sequence[Clause]) -> bool:
  """Its number is said, not as the one whose address is taken."""
  number = flat(o.id).lstrip("#")
  for c in about:
    at = c.text.find(number)
    if at >= 0 and not re.search(
      r"\b(?:same as|as|of|from|like)(?: in| the)? (?:order )?#?$", c.text[:at]
    ):
      return True
  return False


def _city(state: Any, id: str) -> str:
  address = state.seen.first.get(id, {}).get("address", {})
  return str(address.get("city", "?")).lower()


def _at_home(story: Story, order: entities.Entity) -> bool:
  """It goes to the address of the profile."""
  first = story.state.seen.first
  users = [u.id for u in story.state.seen.of("user") if u.id in first]
  home = first[users[0]].get("address") if users else None
  return first.get(order.id, {}).get("address") == home


def _left_city(story: Story, order: entities.Entity, text: str) -> bool:
  """The place it goes to now is named as the one it shall not go to."""
  city = _city(story.state, order.id)
  low = _written_out(text)
  if city not in low:
    return False
  homes = {
    _city(story.state, id) for id, r in story.state.seen.first.items()
    if "address" in r
  }  # fmt: skip
  if len(homes) == 1:
    return False
  before = low[: low.find(city)]
  if re.search(r"\b(not|rather than|instead of)\b[^.]{0,20}$", before):
    return True
  if re.search(rf"^{re.escape(city)},?(?: \w\w)? order", low[len(before) :]):
    return True
  return bool(
    re.search(
      r"\b(?:orders? (?:is |was )?(?:that |which |has been |is going |going "
      r"|goes |addressed |sent |bound )*|one |goes? |going |addressed |way "
      r"|sent |headed |heading |bound |coming |shipped |shipping )"
      r"(?:to be sent )?(?:to|for) $",
      before,
    )
  ) and not re.search(r"\b(want|like|need|must|should|has)[^.]*$", before)


def _written_out(text: str) -> str:
  return re.sub(r"\b(nyc|la|dc)\b", lambda m: _PLACES[m.group()], text.lower())


def address(state: Any, options, text: str) -> int:
  """The address that is told, or whose place or order is named.

  Never the one that the order or the profile has already.
  """
  low = _written_out(text)
  home = re.search(
    r"\b(?:to|at|is|be|back)\b(?: \w+){0,3} (default|original|profile|home"
    r"|usual)\b", low,
  )  # fmt: skip
  same = re.findall(r"(?:same as|of) (?:in )?(?:the )?order #?(w\d{7})", low)
  picked = [e.id for es in state.picks.values() for e in es]
  now = [state.seen.first.get(i, {}).get("address") for i in picked]
  sent = _sent_there(state, low)

  def score(i: int) -> tuple:
    e = options[i]
    n = 4.0 * (e.source == "user")
    for part, weight in (("city", 2.0), ("zip", 1.0), ("address1", 2.0)):
      n += weight * (str(e.value.get(part, "?")).lower() in low)
    orders = [x for x in e.links if x.startswith("#")]
    n += 2.5 * bool(home and any("@" in x for x in e.links))
    n += 3.0 * any(flat(x).lstrip("#") in same for x in orders)
    n += 1.5 * any(x in sent for x in orders)
    known = any(x in sent for x in orders)
    return (known or e.value not in now, n, -i)

  return max(range(len(options)), key=score)


def _sent_there(state: Any, low: str) -> set[str]:
  """Orders whose things were "sent to this new address"."""
  out: set[str] = set()
  for e in state.seen.of("item"):
    for n in things.named(low, (e.fields.get("name", ""),)):
      if re.match(
        r"[^.]{0,30}\b(?:sent|shipped|delivered) (?:to )?(?:this|there?|that"
        r"|(?:the|my|our|a) (?:new|right|correct))"
        r"|[^.]{0,20}'s address", low[n.end :],
      ):  # fmt: skip
        out |= {x for x in e.links if x.startswith("#")}
  return out
