"""What the user seems to want done: rules of language over the dialogue.

A wish is an act with the things it is meant for: "return everything except
the speaker" names items under a verb, and the status of their order decides
which tool that verb stands for. Wishes are features of the scorer, not its
decisions: it learns from demonstrations and rewards how far to trust them.

The words are cut into clauses (`clauses`), the things they name found among the
caller's orders (`things`), what they shall be like among the products' variants
(`variants`), and all of it gathered, clause by clause, as drafts (`story`). All
read `actions.State` alone and hold no word of any task.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from jax_cl.tasks import actions, entities
from jax_cl.tasks.language import addresses, bookings, clauses
from jax_cl.tasks.language.addresses import address
from jax_cl.tasks.language.clauses import flat
from jax_cl.tasks.language.story import Story, like_of
from jax_cl.tasks.language.variants import sold_out, variant_scores

# Read here by those who want to know what was said of a thing.
__all__ = ["address", "flat", "like_of", "sold_out", "variant_scores"]

SLIP = re.compile(r"\bby (mistake|accident)|accidental|mistaken|a mistake\b")
_NO_NEED = re.compile(r"\b(no longer|not) (need|want)\w*")
_PAYS = re.compile(
  r"\b(?:chang\w*|modif\w*|updat\w*|switch\w*)\b[^.]{0,40}\bpayment\b"
  r"|\b(?:rather|want|like|prefer|wish)\b[^.]{0,20}\bpay (?:for )?(?:the|my|"
  r"this|that|order)\b(?! (?:price )?difference)[^.]*\b(?:with|by|using)\b"
  r"|\bpaid\b[^.]*\border\b[^.]*\b(?:with|by)\b"
  r"|\border\b[^.]*\b(?:paid|charged|billed)\b[^.]*\b(?:with|by|to)\b"
  r"|\bmov\w+\b[^.]*\b(?:charge|payment)\b|\bdifferent payment\b"
)


class Wish(NamedTuple):
  """An act that seems wanted, and what it is for."""

  act: str  # name of a tool
  order: entities.Entity
  items: tuple[entities.Entity, ...] = ()


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
  if not state.seen.of("order"):
    return Reading(tuple(_bookings(state)), {}, text)
  story = read_story(state)
  tools = [a for a in state.space.acts if a.write]
  wishes = _addresses(story, tools) + _payments(story, tools)
  for o in story.held.orders:
    for fate in ("replace", "remove"):
      drafts = story.drafts_of(o.id, fate)
      drafts = [d for d in drafts if not story.pointless(d)]
      own = tuple(d.item for d in drafts if not story.doubled(d, drafts))
      act = _tool(tools, fate, o.fields.get("status", "")) if own else None
      if act:
        wishes.append(Wish(act, o, own))
  scopes = {
    d.item.key: " . ".join(d.scope) for d in story.drafts if d.fate != "keep"
  }  # fmt: skip
  return Reading(tuple(wishes), scopes, text)


def read_story(state: actions.State) -> Story:
  """The drafts of wishes after all that was said so far."""
  story, last = Story(state), -1
  for clause in clauses.clauses(state.user_texts):
    sentence = state.user_texts[clause.sentence]
    if clause.sentence != last and state.answered.get(sentence) == "say:refuse":
      story.resume()
    last = clause.sentence
    story.hear(clause)
  return story


def _bookings(state: actions.State) -> list[Wish]:
  """What the airline's policy lets be done of what was asked for."""
  out: list[Wish] = []
  about = (("reservation_id", "reservation"), ("user_id", "user"))
  if not any(state.seen.of(type) for _, type in about):
    return out
  for w in bookings.plan(state).wanted:
    for slot, type in about:
      if slot in w.values:
        key = entities.key_of(w.values[slot])
        if key not in state.seen.by_type.get(type, {}):
          continue
        out.append(Wish(w.act, state.seen.by_type[type][key]))
        break
  return [w for w in out if w.act in state.space.index]


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


def _addresses(story: Story, tools: Sequence[actions.Act]) -> list[Wish]:
  """Orders and profiles that shall have another address."""
  acts = {
    a.slots[0].type if a.slots[0].type == "user" else "order": a.name
    for a in tools if a.tool.endswith("_address")
  }  # fmt: skip
  moved = addresses.moved(story)
  return [Wish(acts[e.type], e) for e in moved if e.type in acts]


def _payments(story: Story, tools: Sequence[actions.Act]) -> list[Wish]:
  """ "Change the payment method of my order": of those named, else of one."""
  about = [c.text for c in story.said if _PAYS.search(c.text)]
  acts = [a.name for a in tools if a.tool.endswith("_payment")]
  if not about or not acts:
    return []
  text = " . ".join(about)
  pending = [o for o in story.held.orders if o.fields["status"] == "pending"]
  named = [o for o in pending if flat(o.id).lstrip("#") in text]
  spoken = [o for o in pending if o.id in story.orders]
  of = named or (spoken if len(pending) > 1 else pending)[:1]
  return [Wish(a, o) for a in acts for o in of if _payable(story, o)]


def _payable(story: Story, order: entities.Entity) -> bool:
  """Some other method of the caller can pay the whole order."""
  record = story.state.seen.first.get(order.id, {})
  paid = [p.get("payment_method_id") for p in record.get("payment_history", ())]
  price = sum(x.get("price", 0.0) for x in record.get("items", ()))
  text = " ".join(map(clauses.plain, story.state.user_texts))
  for e in story.state.seen.of("payment"):
    kind = re.sub(r"_\d+$", "", e.id).replace("_", " ")
    balance = float((e.fields.get("balance") or "inf").split("; ")[-1])
    if kind == "gift card" and balance < price:
      continue
    said = kind in text or e.fields.get("brand", "?") in text
    if e.id not in paid and (said or "different payment" in text):
      return True
  return not paid


def slipped(state: actions.State) -> bool:
  """What is picked was ordered by mistake, as far as was said."""
  said = read(state)
  picked = {e.id for es in state.picks.values() for e in es}
  own = " ".join(
    said.scopes.get(e.key, "")
    for e in state.seen.of("item") if e.links & picked
  )  # fmt: skip
  if SLIP.search(own):
    return True
  return not _NO_NEED.search(own) and bool(SLIP.search(said.text))


def denied(state: actions.State) -> bool:
  """Something was asked for that the policy refuses, as far as is understood.

  Then the user may tell what they want instead.
  """
  if not read(state).wishes:
    return True
  story = read_story(state)
  if _BEYOND.search(read(state).text):
    return True
  drafts = [d for d in story.drafts if d.fate in ("remove", "replace")]
  return any(not story.possible(d) for d in drafts)


_BEYOND = re.compile(
  r"\b(?:undo|reactivat\w+|reinstat\w+|restor\w+|re-?order|split the payment"
  r"|partial refund|discount|price match\w*|compensat\w+|expedit\w+"
  r"|cancelled order again)\b"
)


def caller(state: actions.State, options) -> int:
  """The option that names the caller: not yet refused, "my name is", latest."""
  refused = {key for _, key in state.failed}

  def rank(i: int) -> tuple:
    e = options[i]
    return (e.key in refused, e.fields.get("role") != "self", -e.turn, i)

  return min(range(len(options)), key=rank)


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
