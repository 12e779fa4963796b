"""tau2's tech-support manual as tables: what to look up, what to repair.

`observe` (or `begin` and `read_turn`) reads what an agent may see into facts;
`next_act` is a pure function
of the facts: first every look-up of `LOOKUPS` that concerns the issue, then
the first escalation or repair whose condition holds, then the user's own test
of the problem, then the end. It sees neither the task nor the user's tool
calls, only words and its own results, in a dialogue and in solo mode alike.

Where it is shorter than the policy: it confirms a refuelling without naming
its price, and never offers another plan.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from jax_cl.tasks import speech
from jax_cl.tasks.speech import Act
from jax_cl.types import ToolCall, Turn

Facts = dict[str, Any]  # a missing key is not yet known

TODAY = "2025-02-25"  # the policy's
MAX_REFUEL_GB = 2.0  # the policy's; where the ticket names no amount
SUMMARY = "The problem cannot be solved with the tools at hand."
ISSUES = ("service", "data", "mms")
PROBES = {
  "service": "check_status_bar",
  "data": "run_speed_test",
  "mms": "can_send_mms",
}

# ------------------------------------------------------------------- observing

_ON = {"on": True, "off": False, "yes": True, "no": False}.get


class _Pattern(NamedTuple):
  fact: str
  regex: str  # its first group, lower case, is given to `value`
  value: Callable[[str], Any]


_PATTERNS = tuple(
  _Pattern(fact, regex, value)
  for fact, regex, value in (
    ("phone", r"\b(\d{3}-\d{3}-\d{4})\b", str),
    ("abroad", r"\b(abroad|at home)\b", lambda w: w == "abroad"),
    ("refuel_gb", r"refuel (\d+(?:\.\d+)?) ?gb", float),
    ("airplane", r"airplane mode(?: is now|:) (on|off)", _ON),
    ("data_on", r"mobile data (?:is now|enabled:) (on|off|yes|no)", _ON),
    ("roaming", r"data roaming (?:is now|enabled:) (on|off|yes|no)", _ON),
    ("saver", r"data saver mode is (?:now )?(on|off)", _ON),
    (
      "wifi_calling",
      r"wi-fi calling is (?:now|currently turned) (on|off)",
      _ON,
    ),
    ("sim", r"sim card status: (active|missing|locked)", str),
    ("sim", r"(?:your sim card|the sim card) is (active|locked)", str),
    ("sim", r"(no sim card detected)", lambda _: "missing"),
    ("sim", r"(sim card re-seated)", lambda _: None),  # to be looked at again
    ("apn_ok", r"apn name: (\w+)", lambda w: w != "broken"),
    ("mmsc_ok", r"mmsc url[^:]*: (not set|\S+)", lambda w: w != "not set"),
    ("reset", r"(apn settings will reset at reboot)", lambda _: True),
    ("mode", r"network mode (?:preference:|set to:) (\w+)", str),
    ("vpn", r"vpn is on and connected(.*)", lambda w: "poor" in w),
    ("vpn", r"vpn (is turned (?:on|off)|disconnected)", lambda _: False),
    (
      "permissions",
      r"'messaging' has permission for: ([^.]*)",
      lambda w: {p.strip() for p in w.split(",")},
    ),
    (
      "permissions",
      r"('messaging' currently has no permissions)",
      lambda _: set(),
    ),
    ("request_seen", r"(you have a payment request)", lambda _: True),
    ("paid", r"(payment of .* has been made)", lambda _: True),
    ("fixed", r"(?:^|says: )status bar: (.*)", lambda w: _signal(w)),
    ("fixed", r"speed test (failed|result: [^)]*\))", lambda w: _fast(w)),
    ("fixed", r"(can|cannot) send mms messages\.", lambda w: w == "can"),
  )
)


def _signal(bar: str) -> bool:
  return "no signal" not in bar and "airplane mode" not in bar


def _fast(result: str) -> bool:
  return "excellent" in result


def issue_of(words: str) -> str:
  """Which chapter of the manual the opening words, or the ticket, call for."""
  if re.search(r"\bMMS\b|picture message", words):
    return "mms"
  return "data" if re.search(r"mobile data|internet", words) else "service"


def read_text(text: str, facts: Facts) -> None:
  """What a user reports, a phone shows, or a ticket says."""
  low = text.lower()
  for fact, regex, value in _PATTERNS:
    for match in re.finditer(regex, low):
      facts[fact] = value(match.group(1))
  granted = re.findall(r"permission '(\w+)' granted to app 'messaging'", low)
  if granted:
    facts["permissions"] = facts.get("permissions", set()) | set(granted)
  if "restarting network services" in low:
    facts["reboot"] = False
    if facts.pop("reset", False):
      facts["apn_ok"] = facts["mmsc_ok"] = True


def read_result(call: ToolCall, text: str, facts: Facts) -> None:
  """What one of the agent's own tools answered."""
  try:
    found = json.loads(text)
  except json.JSONDecodeError:
    found = None
  name = call.name
  if name == "get_customer_by_phone" and isinstance(found, dict):
    facts["customer_id"] = found["customer_id"]
    facts["line_ids"] = list(found["line_ids"])
  elif name == "get_details_by_id" and isinstance(found, dict):
    if "line_id" in found and found["phone_number"] == facts.get("phone"):
      facts["line"] = found
      facts["line_roaming"] = found["roaming_enabled"]
      facts["suspended"] = found["status"] == "Suspended"
      facts["ended"] = (found.get("contract_end_date") or TODAY) < TODAY
    elif "line_id" in found:  # another of the customer's lines
      facts["line_ids"].remove(found["line_id"])
    elif found.get("bill_id") in facts.get("overdue", ()):
      if found["status"] == "Paid":
        facts["overdue"].remove(found["bill_id"])
        for fact in ("requested", "request_seen", "paid"):
          facts.pop(fact, None)
  elif name == "get_bills_for_customer" and isinstance(found, list):
    late = [b["bill_id"] for b in found if b["status"] == "Overdue"]
    facts["overdue"] = late
  elif name == "get_data_usage" and isinstance(found, dict):
    limit = found["data_limit_gb"] + found["data_refueling_gb"]
    facts["exceeded"] = found["data_used_gb"] >= limit
  elif name == "refuel_data":
    facts["exceeded"] = False
  elif name == "enable_roaming":
    facts["line_roaming"] = True
  elif name == "send_payment_request":
    facts["requested"] = True
  elif name == "resume_line":
    facts["suspended"], facts["reboot"] = False, True
  elif name == "transfer_to_human_agents":
    facts["transferred"] = True
  else:
    read_text(text, facts)


def begin(ticket: str | None = None) -> Facts:
  """What is known before anything was said; a ticket means solo mode."""
  facts: Facts = {"said": set(), "calls": {}}
  if ticket is not None:
    facts["issue"] = issue_of(ticket)
    facts["abroad"] = False  # unless the ticket says otherwise
    facts["refuel_gb"] = MAX_REFUEL_GB
    facts["confirmed"] = True
    read_text(ticket, facts)
  return facts


def read_turn(turn: Turn, facts: Facts) -> None:
  """Takes one turn into the facts. Calls of the user's own are not seen."""
  if turn.role == "assistant":
    facts["calls"].update({c.id: c for c in turn.tool_calls})
    acts = {c.name for c in turn.tool_calls}
    acts |= set(re.findall(r"Please run (\w+)", turn.content or ""))
    if acts - LOOKS:
      facts.pop("fixed", None)
    facts["said"].add(turn.content)
    facts["asked_yes"] = speech.hear(turn.content or "").confirm
  elif turn.role == "user" and turn.content:
    facts.setdefault("issue", issue_of(turn.content))
    if facts.pop("asked_yes", False):
      facts["confirmed"] = turn.content.startswith("Yes")
    read_text(turn.content, facts)
    if speech.say("ask:location") in facts["said"]:
      facts.setdefault("abroad", False)  # asked, and not known
  elif turn.role == "tool" and turn.requestor != "user" and not turn.error:
    if call := facts["calls"].get(turn.call_id):
      read_result(call, turn.content or "", facts)


def observe(turns: Iterable[Turn], ticket: str | None = None) -> Facts:
  """The facts that an agent knows after `turns`."""
  facts = begin(ticket)
  for turn in turns:
    read_turn(turn, facts)
  return facts


# ---------------------------------------------------------------------- acting


def _user(name: str, **arguments: Any) -> Callable[[Facts], Act]:
  return lambda _: Act("user", name, arguments)


def _ask(slot: str) -> Callable[[Facts], Act]:
  return lambda _: Act.message(f"ask:{slot}")


def _on_line(name: str) -> Callable[[Facts], Act]:
  """A tool of the agent that takes the customer and the line."""
  return lambda f: Act(
    "agent",
    name,
    {"customer_id": f["customer_id"], "line_id": f["line"]["line_id"]},
  )


class LookUp(NamedTuple):
  fact: str  # looked up while it is unknown
  issues: tuple[str, ...]  # the issues it concerns
  act: Callable[[Facts], Act]


LOOKUPS: tuple[LookUp, ...] = (
  LookUp("phone", ISSUES, _ask("phone_number")),
  LookUp(
    "customer_id",
    ISSUES,
    lambda f: Act(
      "agent", "get_customer_by_phone", {"phone_number": f["phone"]}
    ),
  ),
  LookUp(
    "line",
    ISSUES,
    lambda f: Act("agent", "get_details_by_id", {"id": f["line_ids"][0]}),
  ),
  LookUp("exceeded", ("data", "mms"), _on_line("get_data_usage")),
  LookUp("abroad", ("data", "mms"), _ask("location")),
  LookUp("airplane", ISSUES, _user("check_network_status")),
  LookUp("sim", ISSUES, _user("check_sim_status")),
  LookUp("apn_ok", ISSUES, _user("check_apn_settings")),
  LookUp("mode", ("data", "mms"), _user("check_network_mode_preference")),
  LookUp("saver", ("data",), _user("check_data_restriction_status")),
  LookUp("vpn", ("data",), _user("check_vpn_status")),
  LookUp("wifi_calling", ("mms",), _user("check_wifi_calling_status")),
  LookUp(
    "permissions",
    ("mms",),
    _user("check_app_permissions", app_name="messaging"),
  ),
)
# Acts that leave everything as it is; after any other the problem is tested
# again.
LOOKS = frozenset(
  {
    "get_customer_by_phone",
    "get_details_by_id",
    "get_data_usage",
    "get_bills_for_customer",
    "check_payment_request",
    *PROBES.values(),
    *(name for name in speech.REQUESTS if name.startswith("check_")),
  }
)


def escalate(f: Facts) -> bool:
  """What the manual leaves to a human: a locked SIM, an ended contract."""
  return f.get("sim") == "locked" or bool(f.get("suspended") and f.get("ended"))


def _lacks(permission: str) -> Callable[[Facts], bool]:
  return lambda f: permission not in f.get("permissions", {permission})


class Fix(NamedTuple):
  when: Callable[[Facts], Any]  # true or false
  act: Callable[[Facts], Act]


def _overdue(f: Facts) -> bool:
  return bool(f.get("suspended") and f.get("overdue"))


def _send_request(f: Facts) -> Act:
  bill = {"customer_id": f["customer_id"], "bill_id": f["overdue"][0]}
  return Act("agent", "send_payment_request", bill)


def _refuel(f: Facts) -> Act:
  gb = {"gb_amount": f.get("refuel_gb", MAX_REFUEL_GB)}
  act = _on_line("refuel_data")(f)
  return act._replace(arguments={**act.arguments, **gb})


def _to_refuel(f: Facts) -> bool:
  return f.get("exceeded", False) and f.get("confirmed", True)


FIXES: tuple[Fix, ...] = (
  Fix(lambda f: f.get("airplane"), _user("toggle_airplane_mode")),
  Fix(lambda f: f.get("sim") == "missing", _user("reseat_sim_card")),
  # a suspended line: bills, payment, resumption
  Fix(
    lambda f: f.get("suspended") and "overdue" not in f,
    lambda f: Act(
      "agent", "get_bills_for_customer", {"customer_id": f["customer_id"]}
    ),
  ),
  Fix(lambda f: _overdue(f) and "requested" not in f, _send_request),
  Fix(
    lambda f: _overdue(f) and "request_seen" not in f,
    _user("check_payment_request"),
  ),
  Fix(lambda f: _overdue(f) and "paid" not in f, _user("make_payment")),
  Fix(  # is it paid now?
    _overdue,
    lambda f: Act("agent", "get_details_by_id", {"id": f["overdue"][0]}),
  ),
  Fix(lambda f: f.get("suspended"), _on_line("resume_line")),
  # mobile data
  Fix(lambda f: f.get("data_on") is False, _user("toggle_data")),
  Fix(
    lambda f: f.get("abroad") and f.get("roaming") is False,
    _user("toggle_roaming"),
  ),
  Fix(
    lambda f: f.get("abroad") and f.get("line_roaming") is False,
    _on_line("enable_roaming"),
  ),
  Fix(
    lambda f: (
      _to_refuel(f)
      and "refuel_gb" not in f
      and speech.say("ask:refuel") not in f["said"]
    ),
    _ask("refuel"),
  ),
  Fix(
    lambda f: _to_refuel(f) and "confirmed" not in f,
    lambda f: Act.message("confirm", "refuel_data"),
  ),
  Fix(_to_refuel, _refuel),
  Fix(lambda f: f.get("saver"), _user("toggle_data_saver_mode")),
  Fix(
    lambda f: f.get("mode") in ("2g_only", "3g_only"),
    _user("set_network_mode_preference", mode="4g_5g_preferred"),
  ),
  Fix(lambda f: f.get("vpn"), _user("disconnect_vpn")),
  # picture messages
  Fix(lambda f: f.get("wifi_calling"), _user("toggle_wifi_calling")),
  Fix(
    _lacks("storage"),
    _user("grant_app_permission", app_name="messaging", permission="storage"),
  ),
  Fix(
    _lacks("sms"),
    _user("grant_app_permission", app_name="messaging", permission="sms"),
  ),
  # last, since both wait for the reboot
  Fix(
    lambda f: (
      not (f.get("apn_ok", True) and f.get("mmsc_ok", True))
      and not f.get("reset")
    ),
    _user("reset_apn_settings"),
  ),
  Fix(lambda f: f.get("reset") or f.get("reboot"), _user("reboot_device")),
)


def next_act(facts: Facts) -> Act:
  """The manual's next step, given what is known."""
  if facts.get("transferred"):
    return Act.message("transfer")
  if escalate(facts):
    return Act("agent", "transfer_to_human_agents", {"summary": SUMMARY})
  for look in LOOKUPS:
    if facts["issue"] in look.issues and facts.get(look.fact) is None:
      return look.act(facts)
  for fix in FIXES:
    if fix.when(facts):
      return fix.act(facts)
  if facts.get("fixed") is None:
    return Act("user", PROBES[facts["issue"]])
  if facts["fixed"]:
    return Act.message("done")
  return Act("agent", "transfer_to_human_agents", {"summary": SUMMARY})
