"""The other side of a dialogue, by name: scripted, litellm, callable.

`make(name, **args)` returns a factory; the environment wants a fresh user for
every episode.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import random
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jax_cl import names
from jax_cl.tasks import speech
from jax_cl.types import Scenario, ToolCall, ToolSchema, Turn, User

NAMES = ("scripted", "litellm", "callable")
PATIENCE = 3  # failed probes after which the scripted user leaves anyway


class UserError(RuntimeError):
  """The user could not answer: the episode failed, it did not earn 0."""


def make(name: str, **args) -> Callable[[], User]:
  """A factory of users.

  scripted:  no arguments. Deterministic given its seed, no LLM.
  litellm:   tau2's LLM user; arguments of `users_llm.make`.
  callable:  `fn`, a callable or "module:function", given (scenario, tools,
             seed, turns), all the user's turns so far; it returns a Turn or
             the words of one.
  """
  names.check("user", name, NAMES)
  if name == "litellm":
    from jax_cl.tasks import users_llm

    maker = users_llm.make
  else:
    maker = {"scripted": _make_scripted, "callable": _make_callable}[name]
  known = inspect.signature(maker).parameters
  for arg in args:
    names.check(f"argument of the {name} user", arg, known)
  for arg, parameter in known.items():
    if parameter.default is parameter.empty and arg not in args:
      raise ValueError(f"the {name} user needs {arg!r}")
  return maker(**args)


def _make_scripted() -> Callable[[], User]:
  return Scripted


def _make_callable(
  fn: str | Callable[..., Turn | str],
) -> Callable[[], User]:
  if isinstance(fn, str):
    module, _, attribute = fn.partition(":")
    try:
      fn = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as e:
      raise ValueError(
        f"user fn={fn!r} is not an importable 'module:function': {e}"
      ) from None
  if not callable(fn):
    raise ValueError(f"user fn={fn!r} is not callable")
  return lambda: _Called(fn)


class _Called:
  """A plain function as a user; it is handed the conversation as one list."""

  def __init__(self, fn: Callable[..., Turn | str]):
    self._fn = fn

  def start(
    self, scenario: Scenario, tools: Sequence[ToolSchema], seed: int
  ) -> None:
    self._given = (scenario, tuple(tools), seed)
    self._turns: list[Turn] = []

  def reply(self, turns: Sequence[Turn]) -> Turn:
    self._turns += turns
    said = self._fn(*self._given, tuple(self._turns))
    turn = said if isinstance(said, Turn) else Turn("user", str(said))
    self._turns.append(turn)
    return turn


# ------------------------------------------------------------------- scripted


class Clause(NamedTuple):
  """One sentence of the instructions, and what makes the user say it.

  gate: "" at any turn; "confirm", "refuse": when the agent does that; "ask":
  when the agent asks something close to `cue`; "says": when it says so.
  """

  text: str  # as written, second person
  spoken: str  # as the user says it
  gate: str = ""
  cue: frozenset[str] = frozenset()  # stems of the condition's content words


_AGENT_VERB = (
  r"(?:asks?|says?|tells?|mentions?|cannot|can't|denies|refuses?|insists?|wants"
  r"|gives?|provides?|corrects?|continues?|does not|doesn't|finally)"
)
_CONDITION = re.compile(
  rf"\b(if|when)\b[^,.]*\bagent\b,? ?(\w+ )?{_AGENT_VERB}\b"
  r"|\b(if|when) asked\b",
  re.IGNORECASE,
)
_SECRET = re.compile(
  r"\([^)]*(not|n't|only)\b[^)]*\b(reveal|mention|provide)\b[^)]*\)",
  re.IGNORECASE,
)
# What tells the user how to behave, not what to say.
_DIRECTION = re.compile(
  r"^(be\b|make (everything|sure you (mention|sound))|mention (all|the two)"
  r"|for example|whenever|never|do not (ask|volunteer|reveal|mention|end)"
  r"|don't ask|first complain|reveal|this is incorrect|use both"
  r"|you (randomly|occasionally|speak|like to|try)\b"
  r"|your approach will be|try to (make the conv|get the agent to be))"
  r"|^(you are|you're)(?!.*\b(\d|willing|ok|okay|fine|happy with|member"
  r"|also (want|look)|looking|insist|urgent|want the agent"
  r"|want to (cancel|be sure))\b)"
  r"|tool call|ground your|agent suggests|you are unsure",
  re.IGNORECASE,
)
_MANNER = re.compile(  # the same within a reason for calling
  r"^(mention (all|the two)|make sure you mention|provide all details)",
  re.IGNORECASE,
)
_FAREWELL = re.compile(
  r"\b(end the (call|conversation)|move on|thank the agent)\b", re.IGNORECASE
)
_LEAD = re.compile(
  r"^(then |please )?(mention|say|insist|tell the agent|respond exactly"
  r")( (with|that))?[: ]+",
  re.IGNORECASE,
)
_EMPTY = frozenset(
  "a about agent an and any are as ask asks at be but by can case do does for "
  "from have i if in is it its make may me my of on only or says say service "
  "so tell tells that the their them then there they this to want wants was "
  "were what when which will with would you your".split()
)
_ME_AFTER = re.compile(
  r"\b(asks?|asking|tells?|told|gives?|gave|informs?|lets?|let|helps?|help"
  r"|allows?|for|to|with|from|of|on|refund|charge|corrects?|pay|upgrade|cause[sd]?|saves?"
  r"|compensate) you\b",
  re.IGNORECASE,
)
_PERSON = (
  (r"\byou(?:'re| are)\b", "I'm"),
  (r"\byou were\b", "I was"),
  (r"\byou've\b", "I've"),
  (r"\byou'd\b", "I'd"),
  (r"\byou'll\b", "I'll"),
  (r"\byourself\b", "myself"),
  (r"\byours\b", "mine"),
  (r"\byou name\b", "my name"),
  (r"\byour\b", "my"),
  (r"\byou\b(?=[.,;:!?)]|$)", "me"),
  (r"\byou\b", "I"),
)


def first_person(text: str) -> str:
  """ "You want your bag" -> "I want my bag". Ids stay as they are written."""
  text = _ME_AFTER.sub(lambda m: m.group(1) + " me", " ".join(text.split()))
  for pattern, word in _PERSON:
    text = re.sub(pattern, word, text, flags=re.IGNORECASE)
  start = 1 if re.match(r"[a-z]+\b(?!_)", text) else 0
  return text[:start].upper() + text[start:]


def _stems(text: str) -> frozenset[str]:
  words = re.findall(r"[a-z]+", text.lower())
  return frozenset(w[:5] for w in words if w not in _EMPTY)


def clause(text: str) -> Clause:
  """Reads one sentence of the instructions."""
  text = " ".join(_SECRET.sub("", text).split())
  found = _CONDITION.search(text)
  if found is None:
    return Clause(text, first_person(_LEAD.sub("", text)))
  condition, comma, rest = text[found.start() :].partition(",")
  before = text[: found.start()]
  if re.match(r"(?i)((but|and|only|then|if and only)\s*)*$", before):
    spoken = rest if comma else text
  else:
    spoken = text
  spoken = first_person(_LEAD.sub("", spoken.strip()))
  low = condition.lower()
  if "confirm" in low:
    gate = "confirm"
  elif speech.hear(low).refuse or re.search(r"refuse|den(y|ies)|doesn'?t", low):
    gate = "refuse"
  else:
    gate = "ask" if re.search(r"\bask", low) else "says"
  return Clause(text, spoken, gate, _stems(condition) or _stems(text))


@functools.lru_cache(maxsize=10_000)
def read(scenario: Scenario) -> tuple[str, tuple[Clause, ...]]:
  """The opening words, and the clauses that are kept for later, in order.

  Sentences of the reason that wait for something the agent does ("if the
  agent asks for confirmation, ...") are not said at once.
  """
  cut = re.compile(rf",? (?:but|and) (?=(?:if|when) [^,.]*agent {_AGENT_VERB})")
  reason = [
    part
    for sentence in speech.sentences(scenario.reason_for_call)
    for part in cut.split(sentence)
    if not _MANNER.search(part)
  ]
  later = [clause(s) for s in reason]
  opening = [c for c in later if not c.gate]
  rest = [c for c in later if c.gate]
  told = speech.sentences(scenario.task_instructions or "")
  rest += [clause(s) for s in told if not _DIRECTION.search(s)]
  rest = [c for c in rest if not _FAREWELL.search(c.spoken)]
  words = " ".join(re.sub(r"(\w)$", r"\1.", c.spoken) for c in opening or later)
  return words, tuple(c for c in rest if c not in opening)


class Scripted:
  """A user by rules, for all domains.

  It gates information and the end of the conversation, nothing more, so that
  scores with it are not comparable with scores of LLM users.

  Sees the `Scenario` alone. It opens with the reason for the call; answers
  what is asked with the sentences of the scenario that tell it, and with "I
  don't know" else; confirms; says a conditional clause when its condition
  appears and the other clauses one a turn; and stops only when the agent has
  signalled completion (`done`), never in the turn of a confirmation. With
  tools of their own (telecom) it runs the one it is asked for, reports the
  output verbatim, and stops once the agent is done and its own probe passes.
  It ignores the persona. The seed chooses between wordings, nothing else.
  """

  def start(
    self, scenario: Scenario, tools: Sequence[ToolSchema], seed: int
  ) -> None:
    rng = random.Random(seed)
    self._yes = rng.choice(
      ("Yes, please go ahead.", "Yes, I confirm.", "Yes, that is right.")
    )
    self._fine = rng.choice(("Okay.", "All right.", "I see."))
    self._thanks = rng.choice(
      ("No, that is all, thank you.", "Nothing else, thanks.")
    )
    self._scenario = scenario
    self._tools = {t.name for t in tools}
    self._opening, self._all_clauses = read(scenario)
    self._clauses = list(self._all_clauses)  # not yet said
    self._known = speech.sentences(scenario.known_info or "")
    self._unknown = speech.sentences(scenario.unknown_info or "")
    self._opened = False
    self._calls: list[ToolCall] = []  # of this episode
    self._probing = False
    self._failed = 0  # probes that did not pass

  def reply(self, turns: Sequence[Turn]) -> Turn:
    results = [t for t in turns if t.role == "tool"]
    if results and self._calls:
      return Turn("user", self._report(results[-1].content or ""))
    text = "\n".join(t.content or "" for t in turns if t.role == "assistant")
    if not self._opened:
      self._opened = True
      return Turn("user", self._opening)
    heard = speech.hear(text, self._tools)
    if heard.transfer:
      return Turn("user", speech.TRANSFER)
    if heard.request is not None:
      tool, arguments = heard.request
      return self._run(tool, dict(arguments))
    return self._answer(text, heard)

  # ------------------------------------------------------------------ talking

  def _answer(self, text: str, heard: speech.Heard) -> Turn:
    """Confirmation before questions, questions before completion."""
    said = []
    if heard.confirm:
      objection = self._take(lambda c: c.gate == "confirm")
      said.append(objection or self._yes)
    said += [self._tell(slot) for slot in heard.slots]
    if not said and heard.refuse:
      said.append(
        self._take(lambda c: c.gate == "refuse")
        or self._take(lambda c: c.gate == "says")
      )
    if not said or said == [""]:
      stems = _stems(text)
      said = [self._take(lambda c: _fires(c, stems))]
    if said == [""] and heard.done and self._tools:
      return self._probe()
    if said == [""]:
      said = [self._next_clause()]
    if said == [""]:
      over = f"{self._thanks} {speech.STOP}"
      said = [over if heard.done else self._fine]
    return Turn("user", " ".join(dict.fromkeys(s for s in said if s)))

  def _take(self, wanted: Callable[[Clause], Any]) -> str:
    """Says the first clause that is wanted, and will not say it again."""
    for i, c in enumerate(self._clauses):
      if wanted(c):
        return self._clauses.pop(i).spoken
    return ""

  def _next_clause(self) -> str:
    return self._take(lambda c: not c.gate)

  def _tell(self, slot: str) -> str:
    """What tells a slot: "if asked for it, ...", known info, then the rest."""
    if slot == "details":
      return self._next_clause() or self._opening
    if slot == "identity" and self._known:
      return " ".join(first_person(s) for s in self._known)
    tell = speech.SLOTS[slot].tell
    asked = self._take(lambda c: c.gate == "ask" and re.search(tell, c.text))
    said = [asked] if asked else []
    said += [first_person(s) for s in self._known if re.search(tell, s)]
    if not said:
      opening = speech.sentences(self._scenario.reason_for_call)
      open_now = [c for c in map(clause, opening) if not c.gate]
      free = [
        c
        for c in self._all_clauses
        if c.gate in ("", "ask") or c not in self._clauses
      ]
      told = [c for c in open_now + free if re.search(tell, c.text)]
      said = [c.spoken for c in told]
      self._clauses = [c for c in self._clauses if c not in told]
    if not said:
      ask = re.compile(speech.SLOTS[slot].ask, re.IGNORECASE)
      said = [first_person(s) for s in self._unknown if ask.search(s)]
    return " ".join(said) or "I don't know."

  # -------------------------------------------------------------------- tools

  def _run(self, tool: str, arguments: dict[str, str]) -> Turn:
    call = ToolCall(f"user_{len(self._calls)}", tool, arguments, "user")
    self._calls.append(call)
    return Turn("user", tool_calls=(call,))

  def _probe(self) -> Turn:
    """Looks for itself whether the problem is gone."""
    tool = _probe_tool(self._scenario)
    if tool not in self._tools or self._failed >= PATIENCE:
      return Turn("user", f"{self._thanks} {speech.STOP}")
    self._probing = True
    return self._run(tool, {})

  def _report(self, output: str) -> str:
    tool = self._calls[-1].name
    said = f"I ran {tool}. It says: {output}"
    if not self._probing:
      return said
    self._probing = False
    if re.search(_PROBES[tool], output):
      return f"It works now, thank you. {speech.STOP}"
    self._failed += 1
    return f"The problem is not solved. {said}"


def _fires(c: Clause, stems: frozenset[str]) -> bool:
  """Two words of the condition, or its only one, were said."""
  if c.gate not in ("ask", "says"):
    return False
  return len(c.cue & stems) >= min(2, len(c.cue))


# The user's own test of the problem: tool -> what its output shows when fixed.
_PROBES = {
  "can_send_mms": r"\bcan send\b",
  "run_speed_test": r"Excellent",
  "check_status_bar": r"(?s)^(?!.*(No Signal|Airplane Mode))",
}


def _probe_tool(scenario: Scenario) -> str:
  if "MMS" in scenario.reason_for_call:
    return "can_send_mms"
  if re.search("data|internet", scenario.reason_for_call):
    return "run_speed_test"
  return "check_status_bar"
