"""What seems to be the next thing to do, with its arguments: one interface.

An intent is an act with values for its slots. The rules of language that make
intents are in `reading` (orders), `bookings` (flights), `payments` and
`answers`; `hint` tells the scorer how the options of a choice agree with them,
as one feature an option. The scorer learns from demonstrations and rewards how
far to trust it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jax_cl.tasks import actions
from jax_cl.tasks.language import answers, bookings, payments, reading

MAX_REFUSALS = 4  # while the user has an answer to them
MAX_INFORMS = 4  # messages that tell values
LIST = "list_all_product_types"
# What a user may keep back until asked, asked once each.
QUESTIONS = {
  "order": ("say:ask:items", "say:ask:reason", "say:ask:payment"),
  "trip": ("say:ask:reservation_id", "say:ask:reason", "say:ask:payment"),
}


class Intent(NamedTuple):
  act: str
  values: Mapping[str, Any] = {}  # slot -> value, or a list of them


def intents(state: actions.State) -> tuple[Intent, ...]:
  """What is to be done next and later, kept until something happens."""
  stamp = (state.turn, len(state.history))
  if state.memo.get("intents", (None,))[0] != stamp:
    state.memo["intents"] = (stamp, tuple(_intents(state)))
  return state.memo["intents"][1]


def _intents(state: actions.State) -> list[Intent]:
  if not state.space.reads:
    return []
  if state.seen.of("order"):
    return _shop(state)
  if any("membership" in r for r in state.seen.records.values()):
    return _fly(state)
  return []


def _fly(state: actions.State) -> list[Intent]:
  """Reservations: refusals, look-ups, consent, what is wanted, answers."""
  if not state.heard_out or _unread(state):
    return []
  done = [name for name, _ in state.history]
  for ask in QUESTIONS["trip"]:
    if ask not in done:
      return [Intent(ask)]
  plan = bookings.plan(state)
  looks = [w.look for w in plan.wanted if w.look]
  if looks:
    return [Intent(*looks[0])]
  if done[-1] == "say:refuse":
    return [Intent("say:ask:details")]
  if "say:confirm" not in done:
    refuse = plan.denied or not plan.wanted
    if refuse and _answers_refusal(state, done):
      return [Intent("say:refuse")]
    return [Intent("say:confirm")]
  calls = [Intent(w.act, w.values) for w in plan.wanted]
  return calls or _informs(state) or [Intent("say:done")]


def _answers_refusal(state: actions.State, done: Sequence[str]) -> bool:
  """The user was not refused yet, or had something new to say to it."""
  times = done.count("say:refuse")
  said = " ".join(state.reports.get("say:refuse", ()))
  return times == 0 or (times < MAX_REFUSALS and len(said.split()) > 2)


def _unread(state: actions.State) -> bool:
  """Some reservation has not been looked up."""
  used = state.used.get(("get_reservation_details", "reservation_id"), set())
  return any(e.key not in used for e in state.seen.of("reservation"))


def _shop(state: actions.State) -> list[Intent]:
  """Orders: questions, products, refusals, consent, what is wanted, answers."""
  if not state.heard_out:
    return []
  done = [name for name, _ in state.history]
  for ask in QUESTIONS["order"]:
    if ask not in done:
      return [Intent(ask)]
  if answers.asks_of_stock(state) and LIST not in done:
    return [Intent(LIST)]
  product = next(iter(reading.unopened(state)), answers.unopened(state))
  if product is not None:
    return [Intent("get_product_details", {"product_id": product.value})]
  if done[-1] == "say:refuse":
    return [Intent("say:ask:details")]
  if "say:confirm" not in done:
    if reading.denied(state) and _answers_refusal(state, done):
      return [Intent("say:refuse")]
    return [Intent("say:confirm")]
  wishes = [
    Intent(w.act, {f"{w.order.type}_id": w.order.value})
    for w in reading.open_wishes(state)
  ]  # fmt: skip
  coming = wishes or _informs(state)
  # Where nothing was understood there is no opinion, not even that it is over.
  return coming or [Intent("say:done")] * bool(_did(state))


def _did(state: actions.State) -> bool:
  """Something was changed, or told."""
  acts = {a.name for a in state.space.acts if a.write} | {"say:inform"}
  return any(name in acts for name, _ in state.history)


def _informs(state: actions.State) -> list[Intent]:
  informs = sum(name == "say:inform" for name, _ in state.history)
  if not state.seen.of("value") or informs >= MAX_INFORMS:
    return []
  values = [e.value for e in answers.wanted(state)]
  if not values:
    return []
  return [Intent("say:inform", {"values": values[: actions.MAX_INFORM]})]


def hint(state: actions.State, choice: actions.Choice) -> list[float]:
  """A number an option: 1 the intended one, -1 another, 0 no opinion."""
  if not state.space.reads:
    return [0.0] * len(choice.options)
  if choice.slot is None:
    coming = intents(state)
    return [float(bool(coming) and coming[0].act == a.name)
            for a in choice.options]  # fmt: skip
  best = _best(state, choice)
  if best is None:
    return [0.0] * len(choice.options)
  return [1.0 if i == best else -1.0 for i in range(len(choice.options))]


def _best(state: actions.State, choice: actions.Choice) -> int | None:
  slot, act = choice.slot, state.act
  assert slot is not None and act is not None
  for intent in intents(state):
    if intent.act == act.name and slot.name in intent.values:
      if _agrees(state, intent):
        return _place(intent.values[slot.name], choice)
  if slot.type == "payment":
    return payments.best(state, act.tool, choice.options)
  if slot.type == "item":
    return _next_item(state, choice)
  return None


def _next_item(state: actions.State, choice: actions.Choice) -> int | None:
  """Items of the wish that is being carried out, in the order of speaking."""
  act = state.act
  assert act is not None
  picked = {e.key for es in state.picks.values() for e in es}
  for w in reading.open_wishes(state):
    if w.act == act.name and w.order.key in picked:
      at = {e.key: i for i, e in enumerate(choice.options)}
      left = [e.key for e in w.items if e.key not in picked and e.key in at]
      return at[left[0]] if left else len(choice.options) - 1
  return None


def _agrees(state: actions.State, intent: Intent) -> bool:
  """What is picked so far is what the intent says."""
  for name, picked in state.picks.items():
    value = intent.values.get(name)
    got = [e.value for e in picked if e is not actions.STOP]
    if isinstance(value, (list, tuple)):
      if list(value[: len(got)]) != got:
        return False
    elif name in intent.values and got and not actions.same_value(
      got[0], value, tuple(value) if isinstance(value, dict) else ()
    ):  # fmt: skip
      return False
  return True


def _place(value: Any, choice: actions.Choice) -> int | None:
  """The option that is the value, or its next part; STOP after the last."""
  options: Sequence[Any] = choice.options
  if isinstance(value, (list, tuple)):
    if choice.position >= len(value):
      return len(options) - 1 if options[-1] is actions.STOP else None
    value = value[choice.position]
  fields = choice.slot.fields if choice.slot else ()
  for i, e in enumerate(options):
    if e is not actions.STOP and actions.same_value(e.value, value, fields):
      return i
  return None
