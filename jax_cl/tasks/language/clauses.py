"""What a user's sentences are made of: clauses with a verb and a condition.

A sentence is cut into clauses, each with what is to become of the things it
names (its *fate*) and, where it has one, the condition under which it counts:
"return the lamp, but if that is not possible, keep it" is a clause "return the
lamp" and a clause "keep it" with the condition "that is not possible". Which
things are meant, and whether a condition holds, is for `reading` to say, which
knows the orders; here is English alone, and no word of any task.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

# (fate, verb): the first word of the tool that the verb names, if it names one
_LEXICON: tuple[tuple[str, str, str], ...] = (
  ("remove", "return",
   r"return\w*|(?:send|sent|give|bring|take|ship)\w* (?:\w+ ){0,2}?back"
   r"|go(?:es)? back|refund(?= (?:it|them|the|my|this|that|both|all|for)\b)"),
  ("remove", "cancel",
   r"cancel(?!l?ed)\w*|(?<!\bi )(?<!\bwe )cancell?ed(?! (?:\w+ )?orders?)"
   r"|remov\w+|call off|scrap(?:ped)?"
   r"|drop(?:ped)?(?! (?:this|that|the|my) (?:wish|request|idea|matter|part))"
   r"|tak\w+ (?:\w+ ){0,4}(?:out|off) of"),
  ("remove", "",
   r"no longer (?:need|want)\w*|(?:do not|never) (?:need|want)"
   r"(?! to| (?:this|that)$)"
   r"|get rid of|getting rid of|(?:need|want) neither|not needed"
   r"|(?:do|live) without"),
  ("replace", "exchange", r"exchang\w+|swap\w*|trad(?:e|ing)|replac\w+"),
  ("replace", "modify",
   r"modif\w+|chang(?:e|ed|ing)\b(?! (?:my|your) mind)(?<!no change)"
   r"|switch(?!es)\w*|adjust\w*|alter\w*|upgrad\w+|downgrad\w+|updat\w+|convert\w*"
   r"|(?:new|fresh) (?:pair|one|copy|unit)"
   r"|turn(?=.* into)"),
  ("keep", "",
   r"keep(?!ing)\w*|(?<!while )(?<!, )(?<!but )keeping|except\w*|other than"
   r"|apart from|exclud\w+|leav(?:e|ing)|left (?:alone|as)\b"
   r"|(?<=everything) but|(?<=all) but|but not|besides(?= the)"
   r"|giv(?:e|es|ing) up(?: on)?|(?:only|just) need|need (?:only|just|a single)"
   r"|do not want (?:this|that)$"
   r"|nothing (?:with|about|to)\b|do not (?:process|touch)"
   r"|do not have anything|not decided|undecided|not sure yet"),
  ("look", "",
   r"know|check\w*|wonder\w*|tell|told|inquir\w+|find out|curious|hear|status"
   r"|how many|how much|total|tracking|price of|asks? (?:which|what|about|for)"
   r"|what is|when"),
)  # fmt: skip
_VERB = re.compile(
  "|".join(
    rf"(?P<v{i}>\b(?:{ways})\b)" for i, (_, _, ways) in enumerate(_LEXICON)
  )
)
_NOT = re.compile(r"\b(?:do not|not|never|nor)(?: \w+){0,2} $|\bno $")
_IMPLICIT = re.compile(  # a wish without a verb of change
  r"\b(?:should|must|shall|could|has to|have to|needs? to|supposed to|can)\b"
  r"[^.]*\b(?:be|have|become|remain|get)\b"
  r"|\b(?:want|like|love|prefer|need|rather|wish|take|get|make|go for)\b"
  r"|\btoo (?:\w+)|\bnot (?:\w+ )?enough\b|\binstead of\b|\bto be\b"
  r"|\b(?:fine|ok|okay|happy|good) with (?:an?|the|any|one)\b|\bsettle for\b"
)
_IF = r"(?:only )?(?:if|in case(?! of)|unless|provided(?: that)?|as long as)"
_DO = (
  r"(?:then|i|we|please|just|only|the|it|that|no|keep|leave|forget|return"
  r"|cancel|exchange|change|modify|use|do|give|send|make|also|paypal|gift)\b"
)
_HEAD_IF = re.compile(
  rf"^(?:but |and |so |then )*{_IF} (?:(.+?),(?: then)? (?={_DO})|(.+?), )(.+)$"
)
_BARE_IF = re.compile(  # no comma: where "i want" or "just return" begins
  rf"^(?:but |and |so |then )*{_IF} (.+?)"
  r" ((?:then )?(?:(?:i|we) (?:also |just |only |still )?(?:would|want|will"
  r"|wish|prefer|need to)\b|(?:just|please) \w+).*)$"
)
_TAIL_IF = re.compile(rf"^(.+?),?(?: but| and)? {_IF} (.+)$")
_ELSE = re.compile(
  r"^(?:but |and )*(?:otherwise|or else|failing that|if not(?: possible)?"
  r"|if (?:this|that) fails"
  r"|if (?:it|they|this|that) (?:is|are|was|does|do|can|could|will) not)"
  r",? (.+)$"
)
_THEN = re.compile(r"^(?:but |and )*if (?:so|yes|it is|they are), (.+)$")
# Where a new clause of the same sentence begins.
_JOINT = re.compile(
  r",? (?:and|but|then|while|so|plus|because|since|whereas) "
  r"(?=(?:(?:then|also|please|finally|lastly|instead|just|only) )*"
  r"(?:i|we|its?|they|this|that|please|have|make|send|get|add|charge|pay|use"
  r"|return|cancel|exchange|swap|modify|change|replace|switch|keep|leave"
  r"|check|tell|give|do not|upgrade|update|remove|changed|exchanged"
  r"|want|would|decided|need|wish|prefer|hope"
  r"|returned)\b)"
  r"|, (?=(?:i|please|which i|so i|the rest)\b)|;|: (?=\w)"
  r"|,? otherwise (?=\w)| (?=\((?!\d))"
)
_SHORT = {
  "n't": " not", "i'd": "i would", "i'm": "i am", "it's": "it is",
  "i've": "i have", "i'll": "i will", "what's": "what is", "colour": "color",
  "grey": "gray", "that's": "that is", "they're": "they are",
}  # fmt: skip


class Verb(NamedTuple):
  at: int
  fate: str  # "remove" | "replace" | "keep" | "look"
  verb: str  # first word of the tool meant, or ""


class Clause(NamedTuple):
  text: str
  sentence: int
  condition: str = ""
  holds: bool = True  # False: it counts if the condition does not hold

  @property
  def verbs(self) -> tuple[Verb, ...]:
    """What is to be done, in the order in which it is said."""
    return verbs_of(self.text)

  @property
  def implies(self) -> bool:
    """It may wish something to be different without a verb that says so."""
    return _IMPLICIT.search(self.text) is not None


@functools.lru_cache(maxsize=4096)
def verbs_of(text: str) -> tuple[Verb, ...]:
  """The verbs of a text; one that is negated keeps."""
  out = []
  for m in _VERB.finditer(text):
    if re.match(r"\w+ nothing\b", text[m.start() :]):
      continue
    fate, verb, _ = _LEXICON[int((m.lastgroup or "v0")[1:])]
    if fate in ("remove", "replace") and _NOT.search(text[: m.start()]):
      fate, verb = "keep", ""
    out.append(Verb(m.start(), fate, verb))
  return tuple(out)


def flat(text: str) -> str:
  """Lower case, "t-shirt" and "e-reader" in one word."""
  return re.sub(r"\b([a-z])-([a-z]{3,})", r"\1\2", text.lower())


@functools.lru_cache(maxsize=1 << 14)
def plain(text: str) -> str:
  """`flat`, short forms written out."""
  text = flat(text).replace("\u2019", "'")
  text = text.replace("can't", "cannot").replace("won't", "will not")
  for short, long in _SHORT.items():
    text = text.replace(short, long)
  return re.sub(r"\bgreyish\b", "gray", text)


def clauses(sentences: list[str]) -> list[Clause]:
  """The clauses of all sentences, in the order of speaking."""
  out: list[Clause] = []
  last = ""  # the condition that "otherwise" is about
  for n, sentence in enumerate(sentences):
    text = plain(sentence).strip().rstrip(".!?")
    for part, condition, holds in _conditions(text, last):
      last = condition or last
      pieces = [p.strip() for p in _JOINT.split(part)]
      out += [Clause(p, n, condition, holds) for p in pieces if p]
  return out


def _conditions(text: str, last: str) -> list[tuple[str, str, bool]]:
  """(words, condition, whether it must hold) of the parts of a sentence."""
  out: list[tuple[str, str, bool]] = []
  for part in re.split(
    r"[;()]|,? (?=otherwise\b)|,? (?:but|and) (?=if\b)", text
  ):
    part = part.strip()
    if m := _ELSE.match(part):
      out.append((m.group(1), last or "possible", False))
    elif m := _THEN.match(part):
      out.append((m.group(1), last or "possible", True))
    elif m := _HEAD_IF.match(part):
      last = m.group(1) or m.group(2)
      out.append((m.group(3), last, not part.startswith("unless")))
    elif m := _BARE_IF.match(part):
      last = m.group(1)
      out.append((m.group(2), last, not part.startswith("unless")))
    elif (m := _TAIL_IF.match(part)) and not _asks(m.group(1)):
      last = m.group(2)
      words = part[m.end(1) : m.start(2)]
      before, but, said = m.group(1).rpartition(" but ")
      out += [(before.rstrip(","), "", True)] * bool(but)
      out.append((said, last, "unless" not in words))
    elif part:
      out.append((part, "", True))
  return out


def _asks(text: str) -> bool:
  """ "I wonder if", "check if": no condition."""
  return bool(
    re.search(r"\b(wonder\w*|check|know|ask\w*|see|sure|tell)( \w+)?$", text)
  )
