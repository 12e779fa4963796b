"""What agents say and what a rule-based user understands: one table.

A learner does not write English, it picks a message act and points at the
values: `say("inform", "#W2378156", "pending")`. `hear` is the way back, by
rules over plain text, so that the acts are one dialect among others and the
free text of an LLM is understood as well.

Acts (`ACTS`), each with the types of the values it takes:
  ask:<slot>      one per `SLOTS`; no value
  inform          up to three values, said literally
  confirm         the tool that will run (may be left out)
  refuse          "that is not possible"
  request:<tool>  the user runs a tool of their own (telecom); its arguments
  transfer        tau2's sentence after transfer_to_human_agents
  done            "is there anything else?": the user may stop
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from jax_cl import names
from jax_cl.types import ToolCall, Turn

STOP = "###STOP###"
TRANSFER = "###TRANSFER###"


class Template(NamedTuple):
  text: str  # "{}" stands for the values, joined by ", "
  takes: tuple[str, ...] = ()  # type of each value, in order
  least: int = 0  # how many values must be given


class Slot(NamedTuple):
  """Something an agent may ask for. Patterns are regular expressions."""

  question: str  # how `ask:<slot>` is said
  ask: str  # found in a question, ignoring case: the slot is meant
  tell: str  # found in a sentence of the scenario: it answers the slot


SLOTS: Mapping[str, Slot] = {
  "identity": Slot(  # answered with all of known_info
    "Could you tell me who you are?",
    r"who (am i|i am|you are|are you)|(verify|confirm) your identity",
    r"(?!)",
  ),
  "user_id": Slot(
    "Could you tell me your user id?",
    r"user[ _]?(id|name)|customer id|account (id|number)",
    r"\b[a-z]+_[a-z]+_\d+\b|\buser_\d+\b",
  ),
  "email": Slot("Could you tell me your email?", r"\be-?mail", r"\S@\S"),
  "name_zip": Slot(
    "Could you tell me your full name and zip code?",
    r"\bzip|postal code|(full|first|last|your) name|date of birth",
    r"(?i:\bzip|\bname\b)|\b\d{5}\b|^You(?:'re| are) [A-Z]",
  ),
  "phone_number": Slot(
    "Could you tell me your phone number?",
    r"phone number|number of the line",
    r"\b\d{3}-\d{3}-\d{4}\b",
  ),
  "order_id": Slot(
    "Could you tell me the order number?",
    r"order (number|id|#)|which orders?\b",
    r"#?W\d{7}|(?i:order) (?i:id|number)",
  ),
  "reservation_id": Slot(
    "Could you tell me the reservation number?",
    r"(reservation|confirmation|booking) (id|number|code)"
    r"|which (reservation|booking|trip)",
    r"\b(?=[A-Z0-9]*[A-Z])[A-Z0-9]{6}\b"
    r"|(?i:reservation|confirmation) (?i:id|number)",
  ),
  "items": Slot(
    "Which items do you mean, and what should they be like?",
    r"\b(which|what) (items?|products?|ones?)|(colou?r|size|model)s?\b",
    r"(?i)\bitem|colou?r|\bsize|prefer|cheapest|exchange|return|modify"
    r"|\bask(s|ed)\b[^,]* which\b",
  ),
  "reason": Slot(
    "What is the reason for this?",
    r"\breason\b|\bwhy\b",
    r"(?i)because|\breason\b|no longer|mistake|due to|broken|damaged|sick"
    r"|emergency|birthday|passed away",
  ),
  "payment": Slot(
    "Which payment method should be used?",
    r"\bpay\b|payment|(gift|credit) card|certificate|refunded to",
    r"(?i)\bpay\b|payment|\bcard\b|certificate|paypal|\bGC\b|refund",
  ),
  "address": Slot(
    "Could you tell me the address?",
    r"\baddress\b|which (city|street)",
    r"(?i)address|suite|\blive|\bliving|resid",
  ),
  "flights": Slot(
    "From where to where do you want to fly?",
    r"where.*\bfly\b|\borigin\b|destination|airports?\b|which flights?",
    r"\b[A-Z]{3}\b|(?i:\bfrom\b.*\bto\b|nonstop|direct|stopover|one-?way)",
  ),
  "dates": Slot(
    "Which day and time do you want?",
    r"\b(what|which) (day|date|time)|\bdates?\b",
    r"\b(January|February|March|April|May|June) \d"
    r"|(?i:\bday\b|\bdates?\b|\d(am|pm)\b|earl|later\b|tomorrow)",
  ),
  "cabin": Slot(
    "Which cabin do you want?",
    r"\bcabin|economy|business class|which class",
    r"(?i)\bcabin|economy|business|\bclass\b",
  ),
  "passengers": Slot(
    "Who are the passengers?",
    r"passenger|travell?ers?\b",
    r"(?i)passenger|\bDOB\b|birthday|companion|friend",
  ),
  "baggage": Slot(
    "How many bags do you have?",
    r"\bbags?\b|baggage|luggage|suitcase",
    r"(?i)\bbags?\b|baggage|suitcase",
  ),
  "insurance": Slot(
    "Do you want travel insurance?", r"insurance", r"(?i)insurance"
  ),
  "location": Slot(
    "Are you at home or abroad right now?",
    r"abroad|travell?ing|at home|where are you|your location",
    r"(?i)\babroad\b|at home|currently",
  ),
  "refuel": Slot(
    "How much data do you want to add, or do you want another plan?",
    r"\brefuel|add (more |extra )?data|data do you want|(other|new) plan",
    r"(?i)refuel|data plan",
  ),
  "details": Slot(  # answered with the next clause, not by `tell`
    "Could you give me more details?",
    r"more details?|tell me more|anything to add|what would you like",
    r"(?!)",
  ),
}

# A user's tool -> its parameters and, for free text, words that ask for it.
# Where several match a sentence, the first of this table is meant: tools that
# change something stand before those that look. `set_apn_settings` is left
# out: it takes an object, and `reset_apn_settings` is what the manual uses.
_SET = r"\b(turn|switch|toggle|disable|enable|deactivate|activate)\b.*"
REQUESTS: Mapping[str, tuple[tuple[str, ...], str]] = {
  "toggle_airplane_mode": ((), _SET + r"air ?plane"),
  "toggle_roaming": ((), _SET + r"roaming"),
  "toggle_data_saver_mode": ((), _SET + r"data saver"),
  "toggle_wifi_calling": ((), _SET + r"wi-?fi calling"),
  "toggle_wifi": ((), _SET + r"wi-?fi"),
  "disconnect_vpn": (
    (),
    r"disconnect.*vpn|\b(turn|switch) off.*vpn|disable.*vpn",
  ),
  "connect_vpn": ((), r"\bconnect\b.*vpn|\b(turn|switch) on.*vpn"),
  "toggle_data": ((), _SET + r"\bdata\b"),
  "reseat_sim_card": ((), r"re-?seat|re-?insert|(remove|take out).*\bsim\b"),
  "reset_apn_settings": ((), r"reset.*\bapn"),
  "set_network_mode_preference": (
    ("mode",),
    r"\b(set|change|switch)\b.*(network|mode|[345]g)",
  ),
  "grant_app_permission": (
    ("app_name", "permission"),
    r"\b(grant|give|allow)\b.*permission",
  ),
  "reboot_device": ((), r"\b(reboot|restart)\b|power cycle"),
  "make_payment": ((), r"\b(make|complete|accept)\b.*payment|\bpay the bill"),
  "check_payment_request": ((), r"payment request"),
  "check_status_bar": ((), r"status bar"),
  "run_speed_test": ((), r"speed ?test|internet speed"),
  "can_send_mms": ((), r"\bmms\b|picture message"),
  "check_app_permissions": (("app_name",), r"permissions?\b"),
  "check_app_status": (("app_name",), r"\bapp\b.*(status|details)"),
  "check_installed_apps": ((), r"installed apps|which apps"),
  "check_wifi_calling_status": ((), r"wi-?fi calling"),
  "check_wifi_status": ((), r"wi-?fi"),
  "check_vpn_status": ((), r"\bvpn\b"),
  "check_apn_settings": ((), r"\bapn\b"),
  "check_sim_status": ((), r"\bsim\b"),
  "check_data_restriction_status": ((), r"data (saver|restriction)"),
  "check_network_mode_preference": ((), r"network (mode|preference)"),
  "check_network_status": ((), r"network|airplane|roaming|mobile data|signal"),
}
# What a user's parameters may be; the only words a user will fill in.
CHOICES: Mapping[str, tuple[str, ...]] = {
  "mode": ("4g_5g_preferred", "4g_only", "3g_only", "2g_only"),
  "app_name": ("messaging", "browser"),
  "permission": ("sms", "storage", "network", "phone"),
}


def _order(tool: str, arguments: Mapping[str, Any]) -> str:
  words = ", ".join(f"{k} = {v}" for k, v in arguments.items())
  return f"Please run {tool} on your phone{', with ' * bool(words)}{words}."


ACTS: Mapping[str, Template] = {
  **{f"ask:{name}": Template(s.question) for name, s in SLOTS.items()},
  "inform": Template("Here is what I found: {}.", ("value",) * 3, 1),
  "confirm": Template(
    "I will now {} with the details we discussed. Do you confirm (yes or no)?",
    ("tool",),
  ),
  "refuse": Template("I am sorry, but that is not possible."),
  **{
    f"request:{tool}": Template(
      _order(tool, {p: "{}" for p in takes}), takes, len(takes)
    )
    for tool, (takes, _) in REQUESTS.items()
  },
  "transfer": Template(
    "YOU ARE BEING TRANSFERRED TO A HUMAN AGENT. PLEASE HOLD ON."
  ),
  "done": Template("Is there anything else I can help you with?"),
}


class Act(NamedTuple):
  """One move of an agent: a call of a tool, or a message act.

  `by` is "agent" for the agent's tools, "user" for a tool of the user (asked
  for in a dialogue, called in solo mode) and "message" for the rest of ACTS.
  """

  by: str  # "agent" | "user" | "message"
  name: str  # a tool, or a key of ACTS
  arguments: Mapping[str, Any] = {}  # a message's values count from "0"

  @classmethod
  def message(cls, name: str, *values: str) -> Act:
    return cls("message", name, {str(i): v for i, v in enumerate(values)})


def say(act: str, *values: object) -> str:
  """The sentence of a message act, with its values said literally."""
  names.check("message act", act, ACTS)
  text, takes, least = ACTS[act]
  if not least <= len(values) <= len(takes):
    raise ValueError(
      f"{act} takes {least} to {len(takes)} values {takes}, got {values}"
    )
  words = [str(v) for v in values]
  if act == "inform":
    return text.format(", ".join(words))
  if act == "confirm":
    return text.format(words[0].replace("_", " ") if words else "go ahead")
  return text.format(*words)


def request(tool: str, arguments: Mapping[str, Any]) -> str:
  """Asks the user to run a tool of theirs; `say` with arguments by name."""
  if tool not in REQUESTS:
    return _order(tool, arguments)
  return say(f"request:{tool}", *(arguments[p] for p in REQUESTS[tool][0]))


def turn(act: Act, solo: bool, call_id: str) -> Turn:
  """An act as the agent's turn. Solo agents hold the user's tools."""
  if act.by == "agent" or (act.by == "user" and solo):
    call = ToolCall(call_id, act.name, dict(act.arguments))
    return Turn("assistant", tool_calls=(call,))
  if act.by == "user":
    return Turn("assistant", request(act.name, act.arguments))
  if solo:  # there is nobody to speak to: whatever is said, it is over
    return Turn("assistant", STOP)
  return Turn("assistant", say(act.name, *act.arguments.values()))


class Heard(NamedTuple):
  """What a message of an agent asks of the user; several may hold at once."""

  transfer: bool = False
  request: tuple[str, dict[str, str]] | None = None  # tool and arguments
  confirm: bool = False
  refuse: bool = False
  done: bool = False
  slots: tuple[str, ...] = ()


_TRANSFER = (
  r"(being|been|be) transferred|transferring you|transferred you"
  r"|i(?:'ll| will) (now )?transfer you"
)
_CONFIRM = (
  r"(please|you|explicitly) confirm\b(?! (your|which|whether|who"
  r"|the (dest|e-?mail|zip|order|name|addr|date|number|reserv|phone|trip)))"
  r"|\(?yes ?(/|or) ?no\)?|\b(reply|respond|answer|say)\W+(with\W+)?yes\b"
  r"|(would you like|do you want|shall i|may i|should i)"
  r"( me)?( to)? (proceed|go ahead)|do you (agree|accept)|is (that|this)"
  r" (ok|okay|correct|right|acceptable)\b"
)
_REFUSE = (
  r"\b(cannot|can't|can not|not able to|unable to|(not|isn't|n't be) possible"
  r"|impossible|not (allowed|permitted|eligible|available)|won't be able"
  r"|against (our |the )?policy|must (decline|deny)|have to (decline|deny))\b"
)
_DONE = (
  r"anything else|any other (question|request|issue|concern)|something else"
  r"|further (help|assist)|have a (great|good|nice|wonderful)|good ?bye"
  r"|glad (i|we) could help|(is|are|been) (now )?(all set|resolved|completed?)"
)
_QUESTION = (
  r"\?|\bplease\b|\b(provide|share|give me|tell me|let me know|i need"
  r"|i'll need|i will need)\b"
)
_ORDER = (
  r"\?|\bplease\b|\b(try|go ahead|let's|let us|next|you (should|need to|can))\b"
  r"|^\W*(turn|switch|toggle|check|run|set|reset|reboot|restart|grant|open)\b"
)


def sentences(text: str) -> list[str]:
  """Sentences of plain text; a line that ends in a comma goes on."""
  text = re.sub(r",\s*\n\s*", ", ", text)
  parts = re.split(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(-])|\n+", text)
  return [p.strip() for p in parts if p.strip(" .\n-")]


def _found(pattern: str, text: str) -> bool:
  return re.search(pattern, text, re.IGNORECASE) is not None


def _request(
  text: str, tools: frozenset[str]
) -> tuple[str, dict[str, str]] | None:
  """The first of the user's tools that `text` asks for, with arguments.

  A tool's own name, with underscores or spaces, wins over words. What cannot
  be filled in is left out, and the tool answers with its own error.
  """
  known = {t: REQUESTS[t] for t in REQUESTS if t in tools}
  flat = re.sub(r"[_\s]+", " ", text.lower())
  named = [
    (match.start(), -len(tool), tool)
    for tool in known
    if (match := re.search(rf"\b{tool.replace('_', ' ')}\b", flat))
  ]
  if named:
    tool = min(named)[2]
    where = flat
  else:
    for where in sentences(text):
      if not _found(_ORDER, where):
        continue
      tool = next((t for t in known if _found(known[t][1], where)), None)
      if tool is not None:
        break
    else:
      return None
  arguments = {}
  for parameter in known[tool][0]:
    for choice in CHOICES[parameter]:
      if _found(choice.replace("_", r"[_\s/]"), where):
        arguments[parameter] = choice
        break
  if tool == "set_network_mode_preference" and not arguments:
    modern = _found(r"5g|4g|lte", where)
    arguments["mode"] = CHOICES["mode"][0 if modern else 2]
  if "app_name" in known[tool][0] and _found("messag|mms", where):
    arguments.setdefault("app_name", "messaging")
  return tool, arguments


def hear(text: str, tools: Iterable[str] = ()) -> Heard:
  """What an agent's message asks of a user who has `tools`."""
  return _hear(text.replace("\u2019", "'"), frozenset(tools))


@functools.lru_cache(maxsize=10_000)  # templates are heard again and again
def _hear(text: str, tools: frozenset[str]) -> Heard:
  asked = [s for s in sentences(text) if _found(_QUESTION, s)]
  return Heard(
    transfer=_found(_TRANSFER, text),
    request=_request(text, tools),
    confirm=any(_found(_CONFIRM, s) for s in asked),
    refuse=_found(_REFUSE, text),
    done=_found(_DONE, text),
    slots=tuple(
      name
      for name, slot in SLOTS.items()
      if any(_found(slot.ask, s) and not _found(_DONE, s) for s in asked)
    ),
  )
