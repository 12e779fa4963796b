"""What a caller of the airline asks for: clauses of speech, by their kind.

Wishes are said in many words and are of few kinds. Speech is cut into
sentences and clauses; what is negated ("you don't want to cancel"), what the
airline did ("the flight was cancelled") and what is a mere condition ("if it
can't be cancelled, ...") asks for nothing. The rest has the kinds that its
words name. What follows a condition that something fails is a fallback: it is
asked for where the policy forbids the rest.

Rules of language alone: no word of any task, no policy, no database.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from jax_cl.tasks import entities

COUNTS = {
  w: n for n, w in enumerate(
    "no one two three four five six seven eight nine ten".split()
  )
} | {"a": 1, "an": 1, "another": 1, "second": 1, "third": 1}  # fmt: skip
NUMBER = r"(?:\d+|" + "|".join(COUNTS) + r")"
_SMALL = rf"(?:(?!{NUMBER}\b)\w+[ -])"  # a word that is no number
BAG = r"(?:bags?|suitcases?|luggage|baggages?)"
CABIN = r"\b(?:basic economy|economy|business)\b"
_DAY = (
  r"\bmay (\d{1,2})(?:st|nd|rd|th)?\b(?!,? \d{4})"
  r"|\b(\d{1,2})(?:(?:st|nd|rd|th)(?: of)?| of)? may\b(?! (?:be|cost|have|not))"
  r"|\b5/(\d{1,2})\b|\b2024-05-(\d\d)\b|\bthe (\d{1,2})(?:st|nd|rd|th)\b"
)
_PERSON = r"(?:passengers?|travell?ers?|persons?|companions?|people)"
_KIN = (
  r"(?:wife|husband|spouse|partner|daughter|son|child|kid|baby|infant|mother"
  r"|father|mom|dad|parents?|nephew|niece|aunt|uncle|grand\w+|brother|sister|cousin|friend|girlfriend|boyfriend|colleague"
  r"|roommate)"
)
_CHANGE = (
  r"(?:chang|mov|push|shift|postpon|reschedul|re-?book|switch|modif|adjust"
  r"|advanc|bring|delay(?!ed)|extend|put off)\w*"
)
_TIME = (
  r"(?:days?|dates?|weeks?|tomorrow|nonstop|direct|earlier|later|sooner"
  r"|fastest|cheapest|outgoing|outbound|flights? back)"
)

# kind -> what a clause says that asks for it
KINDS: dict[str, str] = {
  "cancel": (
    r"\bcancel(?:ling|lation of)?\b|\b(?:call|break|calling)\b(?: \w+){0,3} off"
    r"|\b(?:call|break)ed off|\bget(?:ting)? rid of (?:\w+ ){0,2}"
    r"(?:trips?|flights?|tickets?|reserv\w*|bookings?|it|them|this|that|both"
    r"|all|[a-z0-9]{6})\b|\bscrap\b|\bundo\b"
    r"|\bdrop(?:ping)? (?:my|the|this|all|both)"
    r" (?:\w+ )?(?:trip|flight|ticket|reserv|booking)\w*|\bback out of\b"
    r"|\bgive up (?:my|the) (?:trip|flight|ticket|reserv)"
    r"|\b(?:refund|void|withdraw from|pull out of|get out of|give back)"
    r" (?:my|the|this|that|our|both|all|reservation|booking|tickets?)\b"
    r"(?! (?:difference|rest|fee|fare difference))|\bmoney back for\b"
    r"|\b(?:won't|will not|not going to) (?:be )?"
    r"(?:us\w+|need\w*|tak\w+|able to (?:fly|travel|go|make|board))"
    r"|\bno longer (?:need|want|able|going|plan|fly|travel)\w*"
    r"|\b(?:i|we) can(?:'t|not) (?:make|take|go on) (?:it|my|the|this|that)\b"
    r"|\bgive\b[^.;]*\b(?:seats?|tickets?|trip|flights?)\b[^.;]*\bback\b"
    r"|\brefund of (?:my|the|that|this) (?:trip|flight|ticket|reserv|booking)"
    r"|\b(?:be|have|get|want|like|wish|need|make sure|ensure)\b"
    r"[^.;]*(?<!was )(?<!were )"
    r"(?<!been )(?<!got )(?<!the )(?<!my )(?<!a )\bcancell?ed\b"
  ),
  "cabin": (
    r"\b(?:up|down)grad\w*"
    r"|\b(?:chang|switch|mov|turn|convert|modif|bump|mak|put)\w*\b"
    rf"[^.;]*{CABIN}"
    r"|\b(?:go|get|sit|fly|be|travel|seats?|stay|like|want|need|prefer|take|ok|okay"
    r"|fine|accept|settle)\b[^.;]*"
    rf"{CABIN}"
    rf"|^(?:in )?{CABIN}(?: class)?(?:,? please)?$"
  ),
  "move": (
    rf"\b{_CHANGE}\b[^.;]*(?:\b{_TIME}\b|{_DAY})"
    r"|\b(?:days?|weeks?) (?:later|earlier|sooner)\b"
    r"|\b(?:earlier|later|different|new) (?:flight|departure|date|day|time"
    r"|return)|\banother (?:date|day|time)\b"
    rf"|\b(?:leave|return|come back|fly|depart|go)\b[^.;]*\b(?:{_TIME})\b"
    rf"|(?:{_DAY})[^.;]*\b(?:instead|rather than|would be (?:\w+ )?better)"
    rf"|\b(?:instead of|rather than) (?:on )?(?:{_DAY})"
    rf"|\b(?:come back|return|leav\w+|depart\w*) [^.;]*\b(?:on|for) (?:{_DAY})"
    rf"|(?:{_DAY})[^.;]*\bnot (?:on )?(?:{_DAY})"
  ),
  "bags": (
    rf"\b(?:add\w*|more|extra|additional|another|bring|need|tak\w+|check in"
    rf"|increas\w+|rais\w+"
    rf"|come along|there will be|have)\b[^.;]*\b{BAG}\b"
    rf"|\b{BAG}\b[^.;]*\b(?:added|more|in total|altogether|come along)\b"
  ),
  "unbag": (
    rf"\b(?:remov\w+|tak\w+ off|drop|get rid of|fewer|reduc\w+|cut)\b"
    rf"[^.;]*\b{BAG}\b|\btake\b[^.;]*\b{BAG} off\b"
    rf"|\b{BAG}\b[^.;]*\b(?:removed|taken off)\b"
  ),
  "people": (
    r"\b(?:\w*name|spell\w*|misspell\w*|misspelt|passport)\b"
    r"|\b(?:chang|replac|swap|switch|substitut)\w*\b[^.;]*"
    rf"\b(?:{_PERSON}|myself|to me)\b"
    r"|\b(?:replac|substitut|swap)\w*\b[^.;]*\b(?:with|by|for)\b"
    rf"|\b{_PERSON}\b[^.;]*\bshould\b|\btak\w+ over\b"
    r"|\bin (?:\w+|\w+'s) (?:place|stead)\b|\bin place of\b"
    r"|\b(?:my|'s) (?:place|seat)\b"
    r"|\b(?:come|go|fly|travel)\w*\b[^.;]*\binstead\b"
    r"|\binstead of (?:me|myself)\b"
    r"|\b(?:give|transfer)\b[^.;]*\b(?:ticket|seat|flight)\b[^.;]*\bto\b"
    r"|\b(?:ticket|seat|flight)\b[^.;]*\bto [a-z]+ [a-z]+$"
  ),
  "count": (
    rf"\b(?:remov\w+|delet\w+|drop|add(?:ing)?|includ\w+)\b[^.;]*\b(?:{_PERSON}|{_KIN})\b"
    r"|\btake [a-z]+(?: [a-z]+)? off\b|\b(?:one|a) (?:more|fewer) passenger"
  ),
  "insure": (
    r"\b(?:add|buy|get|purchas|includ|forgot)\w*\b[^.;]*\binsurance\b"
  ),
  "gesture": (
    r"\bcompensat\w*|\breimburs\w*|\bowed?\b|\bentitled\b"
    r"|\bmake (?:it|this|that) up\b"
    r"|\bvouchers?\b|\bgesture\b"
    r"|\bfor (?:my|the|all the) (?:trouble|inconvenience)\b"
    r"|\b(?:travel )?certificate for\b"
  ),
  "book": (
    r"\bbook(?:ing)?\b(?! code)|\bmake a (?:reservation|booking)\b"
    r"|\b(?:seats?|tickets?) (?:from|on)\b|\b(?:reserve|purchase|buy)\b"
    r"|\b(?:want|like|need|have|trying|looking|plan\w*|hop\w+)\b[^.;]*"
    r"\b(?:fly|get|travel|go)\b[^.;]*\b(?:from|to|there)\b"
    r"|\b(?:need|want|like|find|get|looking for)\b[^.;]*"
    r"\b(?:flights?|tickets?|seats?|trip)\b[^.;]*(?:\bfrom\b|\bto\b| - )"
  ),
}  # fmt: skip
_KINDS = {k: re.compile(v) for k, v in KINDS.items()}
_NOT = re.compile(  # stands before what is not wanted
  r"\b(?:don't|do not|doesn't|does not|didn't|not|never|won't|refuse to"
  r"|reject\w*|any offer|rather than|instead of"
  r"|no more than|no (?=cancel|upgrade|change|voucher))(?:\s+[\w']+){0,4}\s*$"
)
_OF_A_TRIP = ("cancel", "move", "people", "unbag", "count", "insure", "gesture")
_NEW = re.compile(  # a booking, beyond doubt
  r"\bbook(?:ing)? (?:a|an|one|two|three|flights?|tickets?|seats?|round|another"
  r"|new)\b|\bmake a (?:new )?(?:reservation|booking)\b"
)
_NOT_ALIKE = ("people", "count", "unbag")  # "Ross and not Rossi"
_DID = re.compile(  # the airline did it
  r"\b(?:was|were|been|got|is|are|has) (?:\w+ )?(?:cancell?ed|delayed|moved)\b"
  r"|\byou(?: \w+)? cancell?ed\b"
)
_IF = re.compile(
  r"^(?:(?:and|but|or|then|only|also|in) )*"
  r"(?:if and only if|if|should|case|in case|when|unless)\b(.*?),\s*(.*)$"
)
_FAILS = re.compile(
  r"\bnot\b|n't\b|\bcannot\b|\bdenie|\brefus|\bimpossible\b|\bforbid"
  r"|\b(?:more|higher|greater|above|over)\b|\btoo (?:much|expensive)\b"
  r"|\bno refund\b|\bno longer\b"
)
_CLAUSE = re.compile(
  r"\s*[;:]\s+|,\s+(?:and |but |so |then |or |hence )*"
  r"|\s+(?:and|but|then)\s+(?=(?:also |then |to |please )?(?:i|it|there|we"
  r"|my|cancel|change|modify|upgrade|downgrade|add|remove|move|book|have|give"
  r"|correct|fly|come|get|replace|put)\b)"
)


class Ask(NamedTuple):
  """A clause that asks for something."""

  kind: str
  clause: str  # lower case, as all of these
  sentence: str
  at: int  # number of the sentence
  fallback: bool  # asked for only where the rest is forbidden


@functools.lru_cache(4096)
def plain(text: str) -> str:
  """Lower case, one kind of apostrophe and of dash, words of one form."""
  text = text.lower().replace("\u2019", "'").replace("\u2013", "-")
  text = re.sub(r"\bnon-stop\b", "nonstop", text)
  return re.sub(r"\bbasic-economy\b", "basic economy", " ".join(text.split()))


def asks(sentences: Sequence[str]) -> list[Ask]:
  """All that is asked for, in the order in which it was said."""
  return [
    Ask(kind, clause, sentence, n, fallback)
    for n, sentence in enumerate(map(plain, sentences))
    for kind, clause, fallback in _asks(sentence)
  ]


@functools.lru_cache(4096)  # episodes hear the same sentences turn after turn
def _asks(sentence: str) -> tuple[tuple[str, str, bool], ...]:
  """(kind, clause, fallback) of each thing that a sentence asks for."""
  return tuple(_asked(sentence))


def _asked(sentence: str) -> Iterator[tuple[str, str, bool]]:
  for part in _SO_IF.split(sentence):
    rest, fallback = part, bool(re.match(r"otherwise\b", part))
    if found := _IF.match(part):
      condition, rest = found.groups()
      wished = re.search(r"\b(?:get|back|refund)\b[^,]*\$?\d", condition)
      fallback = bool(_FAILS.search(condition)) and not wished
    for clause in _clauses(rest):
      said = re.split(r"\b(?:if|unless)\b", clause)[0]
      for kind in kinds(said):
        yield kind, clause, fallback


_SO_IF = re.compile(r"(?:,? (?:and|but)|;) (?=if\b|otherwise\b)")


def _clauses(text: str) -> list[str]:
  """Clauses; what goes on with a list of things stays with its verb."""
  out: list[str] = []
  for part in _CLAUSE.split(text):
    if out and _LIST.match(part) and not kinds(part):
      out[-1] += f" and {part}"
    else:
      out.append(part)
  return out


_LIST = re.compile(
  r"(?:and |also |plus |as well as )*(?:(?:the|my|reservation|booking|trip"
  r"|one)\b"
  r"(?!.*\b(?:keep|stay|leave|not)\b)|(?=[a-z]*\d)[a-z0-9]{6}\b)"
)


def kinds(clause: str) -> list[str]:
  """What a clause asks for."""
  out = []
  for kind, pattern in _KINDS.items():
    for m in pattern.finditer(clause):
      if kind not in _NOT_ALIKE and _NOT.search(clause[: m.start()]):
        continue
      if kind in ("cancel", "move") and _DID.search(clause[m.start() :]):
        if not re.search(r"\bcancel\b", clause):
          continue
      out.append(kind)
      break
  if "unbag" in out:
    out = [k for k in out if k != "bags"]
  if set(out) & set(_OF_A_TRIP) and not _NEW.search(clause):
    out = [k for k in out if k != "book"]
  return out


# ------------------------------------------------------------- things named
def says(text: str, name: str) -> bool:
  return re.search(rf"\b{re.escape(name.lower())}\b", text) is not None


def bags(text: str) -> tuple[str, int] | None:
  """("three", 3) of "three checked bags", the first that are named."""
  m = re.search(rf"\b({NUMBER})\b {_SMALL}{{0,3}}?{BAG}\b", text)
  m = m or re.search(rf"\b{BAG}\b[^.;]{{0,12}}? to ({NUMBER})\b", text)
  return (m[1], number(m[1])) if m else None


_MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_DATES = (  # with a year: birthdays
  (r"\b(\d{4})-(\d\d)-(\d\d)\b", lambda y, m, d: (y, int(m), d)),
  (rf"\b{_MONTH} (\d{{1,2}})(?:st|nd|rd|th)?,? (\d{{4}})\b",
   lambda m, d, y: (y, entities.MONTHS[m], d)),
  (rf"\b(\d{{1,2}})(?:st|nd|rd|th)? (?:of )?{_MONTH},? (\d{{4}})\b",
   lambda d, m, y: (y, entities.MONTHS[m], d)),
  (r"\b(\d{1,2})/(\d{1,2})/(\d{4})\b", lambda m, d, y: (y, int(m), d)),
)  # fmt: skip


def births(text: str) -> list[str]:
  """Dates that have a year, ISO 8601."""
  return [
    f"{year}-{month:02d}-{int(day):02d}"
    for pattern, order in _DATES
    for m in re.finditer(pattern, text)
    for year, month, day in [order(*m.groups())]
  ]


_PART = r"\b(?P<part>first|last|family|given|sur) ?name\b"


def corrected(text: str) -> list[tuple[str, str]]:
  """("last_name", "ross") of "her last name, which is Ross"."""
  found = re.finditer(
    _PART + r"[^.;]*?\b(?:is|be|to|as|says|read)\s+(?P<name>[a-z]+)\b", text
  )
  field = lambda part: (
    f"{'first' if part in ('first', 'given') else 'last'}_name"
  )
  return [(field(m["part"]), m["name"]) for m in found]


def number(word: str) -> int:
  return int(word) if word.isdigit() else COUNTS.get(word, 1)


def days(text: str, month: str = "2024-05") -> list[str]:
  """Days that are named, ISO 8601, in order."""
  found = [next(g for g in m.groups() if g) for m in re.finditer(_DAY, text)]
  return list(dict.fromkeys(f"{month}-{int(d):02d}" for d in found))


_GOAL = r"\b(?:to|into|in|like|want)(?: (?:a|the|full|regular))*\s*$"


def cabins(text: str) -> list[str]:
  """Cabins that are named as a goal, then the others, in order.

  "From business to economy", "economy rather than business", "out of basic
  economy and into economy": economy is the goal.
  """
  goal, other = [], []
  for m in re.finditer(CABIN, text):
    before = text[max(0, m.start() - 24) : m.start()]
    left = re.search(
      r"\b(?:from|than|instead of|out of|keep|not)(?: \w+)?\s*$", before
    )
    to = re.search(_GOAL, before)
    if to or not left:
      (other if left or not to else goal).append(m.group().replace(" ", "_"))
  return list(dict.fromkeys(goal + other))


def _names() -> dict[str, list[str]]:
  """What an airport is called -> its codes."""
  out: dict[str, list[str]] = {}
  for code, cities in entities.CITIES.items():
    for name in (code.lower(), *cities):
      out.setdefault(name, []).append(code)
  for name, code in _SHORT.items():
    out.setdefault(name, []).append(code)
  return out


_SHORT = {"la": "LAX", "sf": "SFO", "philly": "PHL", "ny": "JFK"}


PLACES = _names()
_PLACE = "|".join(sorted(PLACES, key=len, reverse=True))
_BETWEEN = r"(?: \([a-z]{3}\))?(?:'s)?"
_ROUTES = (
  rf"\b({_PLACE}){_BETWEEN}\s*(?:to|-|->|and|for)\s*({_PLACE})\b",
  rf"\bfrom (?:\w+ )?({_PLACE}){_BETWEEN}\b[^.;]{{0,30}}?\bto ({_PLACE})\b",
)
_ROUTE_BACK = (
  rf"\bto ({_PLACE}){_BETWEEN}\b[^.;]{{0,30}}?\bfrom ({_PLACE})\b",
  rf"\b({_PLACE}) (?:\w+ ){{1,3}}from ({_PLACE})\b",
)


def routes(text: str) -> list[tuple[list[str], list[str]]]:
  """(codes of the origin, codes of the destination) of every way named."""
  out = []
  for pattern in _ROUTES:
    out += [(m[1], m[2]) for m in re.finditer(pattern, text)]
  for pattern in _ROUTE_BACK:
    out += [(m[2], m[1]) for m in re.finditer(pattern, text)]
  return [
    (PLACES[a], PLACES[b]) for a, b in dict.fromkeys(out) if a != b
  ]  # fmt: skip


def places(text: str) -> list[str]:
  """Codes of all places that are named."""
  found = re.findall(rf"\b({_PLACE})\b", text)
  return list(dict.fromkeys(c for x in found for c in PLACES[x]))


_SUM = r"(?:at most )?(?:\$ ?([\d,]+)|([\d,]+) (?:dollars|usd|bucks))"
_MORE = re.compile(
  rf"(?<!no )(?<!not )\b(?:more than|at least|over|above|exceed\w*) {_SUM}"
)
_LESS = re.compile(
  r"\b(?:up to|less than|under|at most|below|not exceed\w*|maximum of|max"
  r"|budget (?:of|is)|limit\b[^.;]{0,12}?(?:of|is)"
  rf"|(?:no|not) (?:more than|over|above)|afford|within) {_SUM}"
  r"|\$ ?([\d,]+) (?:at most|or less|budget|limit|tops|maximum)"
)
_PAY = re.compile(r"\b(?:costs?|spend|pay|price|bill|fees?|budget|charge)\b")
_NO = re.compile(r"\b(?:don't|do not|leave|forget|stay|keep|never mind|not)\b")


def limits(text: str) -> tuple[float | None, float | None]:
  """The most that a change may cost, the least that it must bring back.

  "If it is more than $50, leave it" sets the most, "if it is less than $50,
  leave it" the least; what shall then be done turns them round.
  """
  most = least = None
  for sentence in re.split(r"\.\s|\n", text):
    condition = _IF.match(sentence) or re.search(r"\bif\b(.*?),(.*)", sentence)
    turned = bool(condition and _NO.search(condition[2]))
    if m := _LESS.search(sentence):
      if turned and not _PAY.search(sentence):
        least = _amount(m)
      else:
        most = most or _amount(m)
    elif m := _MORE.search(sentence):
      if turned or _PAY.search(sentence):
        most = most or _amount(m)
      else:
        least = _amount(m)
  return most, least


def _amount(m: re.Match[str]) -> float:
  digits = next(g for g in m.groups() if g).replace(",", "")
  return float(digits or 0)


def joined(sentences: Iterable[str]) -> str:
  """The whole speech, a sentence a line."""
  return "\n".join(map(plain, sentences)) + "\n"
