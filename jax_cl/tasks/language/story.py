"""What a conversation asks for so far: drafts of wishes, thing by thing.

Clauses are gone through in the order of speaking. Each adds drafts of what is
wanted of the things it names; one that names nothing goes on about what was
named last; a later one narrows, takes back or replaces an earlier one, and one
with a condition counts if what was seen says that it holds (`conditions`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

from jax_cl.tasks import entities
from jax_cl.tasks.language import clauses, conditions, things, variants
from jax_cl.tasks.language.clauses import Clause

_REF = re.compile(
  r"\b(it|its|them|the (?:small|larg|bigg|cheap|short|tall|long|light"
  r"|heavi|old|new)er|one|ones|this|these|those|both|others?|neither"
  r"|that|anything|nothing|whichever|pair"
  r"|the (?:pric|dear|cost)(?:ier|er|lier)|the (?:more|less) \w+)\b|^which\b"
)
_PHATIC = re.compile(  # who calls, consent, thanks: nothing is wanted
  r"^(?:my name|i am \w+ \w+(?: in|$)|i live|yes\b|no, that|i confirm"
  r"|i do not know|all right|okay|please go ahead|nothing else|thanks?|#)"
)
_ABOUT = re.compile(
  r"\b(options?|features?|specs?|specifications?|settings|everything else"
  r"|the rest)\b"
)
_TOLD = re.compile(
  r"^(?:it is|they are|i mean|the .*\bones?(?: with [\w ,-]+)?$)"
)
_WHOLE = re.compile(
  r"\b(?:whole|entire|complete|full|all (?:of )?(?:the|my))"
  r" (?:orders?|thing|purchase)\b|\borders? (?:as a whole|entirely|completely)"
)
_SWEEP = re.compile(
  r"\b(?:all\b|everything|every(?: single)? \w+|anything"
  r"|(?<!in )(?<!from )(?:both|two|2|three|3)(?=(?: of)?"
  r"(?: my| the| these| those)?(?: \w+)? orders?\b))"
)
_NO_SWEEP = re.compile(
  r"^ (?:of (?:it|this)|the (?:same|other|spec|changes)|available|time|is\b"
  r"|are\b|options?|set\b|at once|i want|else\b|these changes)"
)
_DROP = re.compile(  # "leave it", "then forget about it", "no cancelation"
  r"\b(forget|leave|nothing|never ?mind|drop|skip|ignore"
  r"|(?:do|will|would) not|no (?:cancel|chang|exchang|modif|need)\w*"
  r"|unchanged|(?:is|are) (?:fine|ok\w*)"
  r"|do not want (?:this|that)$|accept it|keep (?:it|them|the order)|not worry)"
)
_ORDER_FIRST = re.compile(
  r"(?:(?:and|also|finally|lastly|then|,) )*(?:my |the )?order #?w?\d+"
  r" (?:was|is)\b"
)
_AGREED = re.compile(  # "then so be it"
  r"\b(so be it|go ahead|do (?:that|so|it)|fine|ok|okay|all right|agree\w*"
  r"|accept\w*|(?:do not|would not) (?:mind|care)|happy|acceptable)\b"
)
_AN_ORDER = re.compile(  # not where a thing is: "cancel it from my order"
  r"(?<!from )(?<!in )(?<!from my )(?<!in my )(?<!from the )(?<!in the )"
  r"(?<!from that )(?<!in that )(?<!from my pending )"
  r"(?<!in my pending )\borders?\b"
)
_ONE_OF = re.compile(  # "the blue one", "the pair in size 7"
  r"\bthe (?:[\w-]+ ){0,3}?(?:ones?|pairs?)\b"
  r"(?: (?:in|with|of|from|made of) [\w -]+)?"
)
_ORDER_OF = re.compile(r"\b(?:the|this|that|my|whole|entire) orders?\b")


@dataclasses.dataclass
class Draft:
  """What seems to be wanted of one item of one order."""

  order: str  # id
  item: entities.Entity
  fate: str  # "remove" | "replace" | "keep" | ""
  verb: str  # first word of the tool meant, or ""
  sentence: int
  scope: list[str] = dataclasses.field(default_factory=list)
  whole: bool = False  # the order as a whole was meant
  was: str = ""  # its fate before a condition took it back
  vague: bool = False  # one of several that answer to a name equally well


class Story:
  """Drafts of wishes, while the clauses are gone through in order."""

  def __init__(self, state: Any):
    self.state = state
    self.held = things.shelf(state)
    self.drafts: list[Draft] = []
    self.topic: list[Draft] = []  # what was spoken of last
    self.wide: list[Draft] = []  # the same before one of them was picked out
    self.said: list[Clause] = []  # those that count
    self.marked: list[str] = []  # of them, by "the order with the lamp"
    self.frame: tuple[int, list[str]] = (-1, [])  # "from the order with ..."
    self.last: tuple[object, bool] = ((), True)  # condition, whether it counts
    self.failed: list[Draft] = []  # taken back for a condition
    self.dropped: tuple[int, set[str]] = (-1, set())
    self.orders: list[str] = []  # ids of the orders spoken of last
    self.subject = False  # they are what the last clause was about
    told = " ".join(map(clauses.plain, state.user_texts))
    self.numbers = things.ids(told, self.held)
    self.told = {
      n for at in things.named(told, self.held.names) for n in at.names
    }

  def drafts_of(self, order: str, fate: str) -> list[Draft]:
    return [d for d in self.drafts if d.order == order and d.fate == fate]

  def pointless(self, d: Draft) -> bool:
    """It would be exchanged for itself: nothing else answers better."""
    options = self.state.seen.of("variant")
    own = [e for e in options if e.links & d.item.links]
    scope = " . ".join(d.scope)
    if (
      d.fate != "replace" or not own or variants.goal(scope, d.item, own).again
    ):
      return False
    if like_of(self.state, d.item, scope) is not None:
      return False
    scores = variants.variant_scores(options, d.item, scope)
    return options[scores.index(max(scores))].value == d.item.value

  @staticmethod
  def doubled(d: Draft, drafts: list[Draft]) -> bool:
    """One thing was named, several answer to it: one before it is meant."""
    name = d.item.fields.get("name")
    same = [x for x in drafts if x.item.fields.get("name") == name]
    sure = [x for x in same if not x.vague]
    return d.vague and d is not (sure or same)[0]

  def possible(self, d: Draft) -> bool:
    """The policy lets it be done: an order's status, and cancelled whole."""
    status = self.held.status(d.order)
    if not status.startswith(things.fitting(d.verb, d.fate) or ("",)):
      return False
    if d.fate != "remove" or status != "pending" or d.whole:
      return True
    own = {x.item.key for x in self.drafts_of(d.order, "remove")}
    return own == {e.key for e in self.held.inside[d.order]}

  def hear(self, clause: Clause) -> None:
    if _PHATIC.search(clause.text) and not moves(clause.text):
      return
    if clause.condition:
      if clause[1:] != self.last[0]:  # else it is the same condition still
        self.last = clause[1:], self._counts(clause)
      if not self.last[1]:
        return
    if clause.condition and self._repeats(clause):
      return
    self.said.append(clause)
    if named := things.ids(clause.text, self.held):
      self.orders = named
    names = things.named(clause.text, self.held.names)
    here = [n for n in names if not n.marks]
    self.marked = [h for n in names if n.marks for h in self._marked(clause, n)]
    if self.marked:
      self.frame = (clause.sentence, self.marked)
    self.orders = self.marked or self.orders
    if moves(clause.text) and not _changes(clause):
      self._point(clause, names)
    elif not here and _only_pays(clause):
      return
    elif self._sweeps(clause, here) or self._whole(clause):
      return
    elif here:
      self._mention(clause, here)
    else:
      self._refer(clause)
      order = self.marked or _ORDER_FIRST.match(clause.text)
      self.subject = bool(order) or (self.subject and not clause.verbs)

  # ---------------------------------------------------------------- conditions
  def _counts(self, clause: Clause) -> bool:
    """Whether a clause with a condition counts; takes back what failed."""
    if re.search(r"\b(prefer|choice|favou?rite|ideal)", clause.text):
      return True
    prior = self._prior(clause)
    holds = conditions.holds(self, clause.condition, prior)
    if holds is None:
      return clause.holds or not prior
    if holds != clause.holds:
      return False
    failed = conditions.negative(clause.condition) == clause.holds
    if failed and not _only_pays(clause):
      self.failed = prior
      for d in prior:
        if _as_a_whole(clause) and d.fate == "remove" and not _keeps(clause):
          d.whole = True
        elif not (
          _ORDER_OF.search(clause.text)
          and clause.verbs
          and clause.verbs[0].verb == "cancel"
        ):
          d.was, d.fate = d.fate, "" if d.fate != "keep" else d.fate
    return True

  def spoken(self, words: str) -> list[Draft]:
    """What a condition names that was not spoken of before."""
    names = things.named(words, self.held.names)
    known = {n for at in names for n in at.names}
    return [
      Draft(h, e, "", "", -1)
      for e in self.held.items if e.fields.get("name") in known
      for h in self.held.homes(e)
    ]  # fmt: skip

  def resume(self) -> None:
    """What follows a refusal is about what was refused."""
    live = [d for d in self.drafts if d.fate in ("remove", "replace")]
    self.topic = [d for d in live if not self.possible(d)] or self.topic

  def _repeats(self, clause: Clause) -> bool:
    """ "Forget it, since I want the hose alone": said of the same."""
    known = {n for at in things.named(clause.text, self.held.names)
             for n in at.names}  # fmt: skip
    if _DROP.search(clause.text) and not known:
      self.dropped = (
        clause.sentence,
        {d.item.fields.get("name", "") for d in self.failed},
      )
    return (
      bool(known) and self.dropped[0] == clause.sentence
      and known <= self.dropped[1]
    )  # fmt: skip

  def _prior(self, clause: Clause) -> list[Draft]:
    """What a condition is about: things it names, else the last wishes."""
    names = things.named(clause.condition, self.held.names)
    known = {n for at in names for n in at.names}
    live = [d for d in self.drafts if d.fate in ("remove", "replace")]
    if re.search(r"\b(?:both|all|everything|total)\b", clause.condition):
      return live
    verbs = {v.verb for v in clauses.verbs_of(clause.condition)}
    live = [d for d in live if d.verb in verbs] or live
    if own := [d for d in live if d.item.fields.get("name") in known]:
      return own
    before = [d.sentence for d in live if d.sentence <= clause.sentence]
    return [d for d in live if before and d.sentence == max(before)]

  # ------------------------------------------------------------------- things
  def _marked(self, clause: Clause, name: things.Name) -> list[str]:
    """Ids of the orders that "the order with the lamp" means."""
    own = [e for e in self.held.items if e.fields.get("name") in name.names]
    verbs = [v for v in clause.verbs if v.fate in ("remove", "replace")]
    verb = verbs[-1] if verbs else None
    if not name.plural:
      own = things.narrow(own, clause.text)
    homes = [h for e in own for h in self.held.homes(e)]
    want = things.states(clause.text) or (
      things.fitting(verb.verb, verb.fate) if verb else ("pending",)
    )
    fit = [h for h in homes if self.held.status(h) in want]
    found = list(dict.fromkeys(fit or homes))
    return found if name.plural else found[:1]

  def _point(self, clause: Clause, names: Iterable[things.Name]) -> None:
    """Things that only tell which orders are meant, and may be spoken of."""
    for n in names:
      own = self._resolve(clause, n, clause.text, "modify", "")
      if own:
        self.orders = [own[0].order]
        self.topic = [self._draft(d, "") for d in own if not n.marks]

  def _resolve(
    self, clause: Clause, name: things.Name, about: str, verb: str, fate: str
  ) -> list[Draft]:
    """The items of orders that a name stands for."""
    pairs = [
      (h, e) for e in self.held.items if e.fields.get("name") in name.names
      for h in self.held.homes(e)
    ]  # fmt: skip
    near = things.ids(clause.text, self.held) or self.numbers
    pairs = [p for p in pairs if p[0] in near] or pairs
    pairs = [p for p in pairs if p[0] in self.marked] or pairs
    if re.search(
      r"\b(?:other|another|second|remaining) (?:\w+ )?$",
      clause.text[: name.start],
    ) or re.match(
      r" (?:from|in|of) (?:my|the|an?)? ?(?:other|different) order",
      clause.text[name.end :],
    ):
      taken = {d.item.key for d in self.drafts if d.fate}
      pairs = [p for p in pairs if p[1].key not in taken] or pairs
    near_by = clause.text[max(0, name.start - 40) : name.end + 45]
    near_by = re.split(r"\b(?:for|to|as) the (?:\w+ )?same\b", near_by)[0]
    for want in (
      things.states(near_by), *((w,) for w in things.fitting(verb, fate))
    ):  # fmt: skip
      if fit := [p for p in pairs if self.held.status(p[0]) in want]:
        pairs = fit
        break
    own = [e for _, e in pairs]
    every = re.search(
      r"(?<!of )(?<!of my )(?<!of the )(?<!of your )"
      r"\b(?:all|both|every|two|2|three)(?: \w+){0,3} $",
      clause.text[: name.start],
    )
    one = re.search(r"\bone\b", clause.text)
    own = things.narrow(own, every.group() if every and not one else about)
    if not every:
      own = things.in_company(own, self.held, self.told)
    keys = {e.key for e in own}
    pairs = [p for p in pairs if p[1].key in keys]
    if not every and not name.plural:
      pairs = [p for p in pairs if p[0] == pairs[0][0]]
    vague = len(pairs) > 1 and not every and not name.plural
    return [
      Draft(h, e, fate, verb, clause.sentence, vague=vague) for h, e in pairs
    ]

  def _mention(self, clause: Clause, names: list[things.Name]) -> None:
    """Items named under a verb, or described as they should be."""
    topic: list[Draft] = []
    names = [n for n in names if not _compared(clause.text, n)] or names
    begin = self._leads(clause, names[0])
    for name, start, end in _segments(clause.text, names, begin):
      fate, verb = _fate(clause, name, self._inherited(clause))
      about = clause.text[start : _goal(clause.text, name.end, end)]
      scope = clause.text[start:end]
      found = self._resolve(clause, name, about, verb, fate)
      alone = _alone(clause.text, name)
      if alone and not fate:  # "do the lamp only"
        fate = self._take_up(found)
      for d in found:
        topic.append(self._draft(d, scope))
      if alone and verb == "cancel":
        for d in found:  # of an order, some things cannot be cancelled
          d.fate = d.fate if len(self.held.inside[d.order]) == 1 else ""
          self._draft(d, "").fate = d.fate
      elif alone and fate in ("remove", "replace"):
        keep = {d.item.key for d in found}
        for d in self.drafts:
          outside = self.frame[0] == clause.sentence and (
            d.order not in self.frame[1]
          )
          if d.fate == fate and d.item.key not in keep and not outside:
            d.fate = ""
    if len(topic) < len(self.topic) and all(d in self.topic for d in topic):
      self.wide = self.topic
    self.topic = topic or self.topic
    if topic:
      self.orders = list(dict.fromkeys(d.order for d in topic))

  def _take_up(self, found: list[Draft]) -> str:
    """What was wanted of these things before, taken over by new drafts."""
    for d in found:
      for old in self.drafts:
        if (old.order, old.item.key) == (d.order, d.item.key):
          d.fate, d.verb = old.fate or old.was, old.verb
    return found[0].fate if found else ""

  def _leads(self, clause: Clause, first: things.Name) -> int:
    """Where the words of the first name begin; what precedes them goes on
    about the thing before: "... for a 15-inch one, i7, and the bottle"."""
    head = clause.text[: first.start]
    cuts = [m.start() for m in re.finditer(r",? and\b|,", head)]
    goes_on = self.topic and self.topic[-1].sentence == clause.sentence
    which = head.startswith("which ")
    if not cuts or not goes_on or clauses.verbs_of(head):
      return 0
    if clause.implies and not which:
      return 0
    for d in self.topic:
      d.scope.append(head[: cuts[-1]])
    return cuts[-1]

  def shipped(self, clause: Clause) -> bool:
    """It names an order that is beyond change by what is in it."""
    names = things.named(clause.text, self.held.names)
    of = [self._marked(clause, n) for n in names if n.marks]
    return any(
      all(not self.held.status(h).startswith("pending") for h in homes)
      for homes in of if homes
    )  # fmt: skip

  def _inherited(self, clause: Clause) -> tuple[str, str]:
    """The verb of the clause before: "...; the lamp to a red one"."""
    if re.match(r"(?:it|they|this|that|he|she)\b", clause.text):
      return "", ""  # "..., because it goes with the tablet"
    goes_on = re.search(r"\b(?:to|for|into)\b", clause.text)
    before = [c for c in self.said[:-1] if c.sentence == clause.sentence]
    if not before and goes_on:
      before = self.said[-2:-1]
    verbs = [v for c in before for v in c.verbs]
    verbs = [v for v in verbs if v.fate in ("remove", "replace")]
    return (verbs[-1].fate, verbs[-1].verb) if verbs else ("", "")

  def _draft(self, new: Draft, scope: str) -> Draft:
    """Adds a draft, or changes the one of the same item."""
    for d in self.drafts:
      if d.item.key == new.item.key and d.order == new.order:
        asked = new.fate == "look" and d.fate in ("remove", "replace")
        if new.fate and not asked and (new.fate, d.fate) != ("keep", ""):
          if d.fate in ("", "look"):  # wishes stand in the order of speaking
            self.drafts.remove(d)
            self.drafts.append(d)
          d.fate, d.verb = new.fate, new.verb or d.verb
          d.sentence = new.sentence
        d.scope.append(scope)
        d.vague &= new.vague
        return d
    for d in self.drafts:  # "it is actually two that I want to exchange"
      if d.item.fields.get("name") == new.item.fields.get("name"):
        if d.fate == new.fate == "replace":
          new.scope += d.scope
    new.scope.append(scope)
    self.drafts.append(new)
    return new

  def _refer(self, clause: Clause) -> None:
    """A clause that names nothing: it goes on about what was named last."""
    text = clause.text
    if self._cancels_orders(clause):
      return
    changes = clause.implies or any(v.fate == "replace" for v in clause.verbs)
    if changes and re.search(r"\bitem\b", text):
      self.topic = self._lone() or self.topic
    if not self.topic:
      return
    about = _ABOUT.search(text) or re.search(
      rf"\b({'|'.join(self.held.keys)})\b", text
    )
    fate, verb = self._said_to_become(clause, bool(about))
    live = any(d.fate in ("remove", "replace") for d in self.topic)
    new = any(d.sentence == clause.sentence for d in self.topic)
    if fate == "keep" and not live and not new:
      self.topic = self._last() or self.topic
    if _TOLD.search(text) and self._tell(text):
      return
    if fate == "keep" and self._other_kept(text):
      return
    verbs = any(v.fate != "look" for v in clause.verbs)
    wishes = clause.implies and not fate and (verbs or not clause.verbs)
    wishes = wishes and (about or not _DROP.search(text))
    chosen, refers = self._meant(text, verb, clause.sentence)
    for d in chosen:
      if fate and (refers or about):
        d.fate = "" if fate == "keep" and _DROP.search(text) else fate
        d.verb, d.sentence = verb or d.verb, clause.sentence
      elif d.fate in ("", "look") and wishes and (about or refers):
        d.fate, d.verb = "replace", "modify"
      d.scope.append(text)

  def _cancels_orders(self, clause: Clause) -> bool:
    """ "Cancel that order", "the order with the other": of those spoken of."""
    text = clause.text
    of_order = _AN_ORDER.search(text) or self.subject or self.marked
    cancels = any(v.verb == "cancel" for v in clause.verbs)
    pending = [o.id for o in self.held.orders
               if o.fields["status"] == "pending"]  # fmt: skip
    if not self.orders and len(pending) == 1:
      self.orders = pending
    if not (cancels and of_order and self.orders):
      return False
    if re.search(r"\border\b.* other\b", text):
      pool = self._pool()
      kept = [d.order for d in pool if d.fate == "keep"]
      self.orders = [d.order for d in pool if d.order not in kept]
    elif re.search(r"\border (?:of|with|for|that|which)\b.* one\b", text):
      self.orders = [d.order for d in self._chosen(text)]
    self._take(self.orders, clause, "remove", "cancel")
    return True

  def _said_to_become(self, clause: Clause, about: bool) -> tuple[str, str]:
    """(fate, verb) of a clause that names nothing; options have no fate."""
    verbs = [v for v in clause.verbs if v.fate != "look"]
    fate, verb = (verbs[-1].fate, verbs[-1].verb) if verbs else ("", "")
    if fate == "remove" and not verb and self._without(clause.text):
      return "replace", "modify"
    if fate == "keep" and re.search(
      r"\b(?:any|every)thing else\b", clause.text
    ):
      return "", ""
    one = re.search(r"\b(keep|need)( only| just| a single)? one$", clause.text)
    about = about or self._as_it_is(clause.text)
    return ("", "") if fate == "keep" and (about or one) else (fate, verb)

  def _meant(
    self, text: str, verb: str, sentence: int
  ) -> tuple[list[Draft], bool]:
    """What of the topic a clause goes on about, and whether it points at it."""
    if not re.search(r"\b(ones?|others?)\b", text):
      if valued := self._valued(text):
        self.topic = self._doable(valued, verb, sentence)
        return self.topic, True
    refers = bool(_REF.search(text))
    chosen = self._chosen(text) if refers else list(self.topic)
    chosen = self._doable(chosen, verb, sentence)
    if len(chosen) < len(self.topic):
      self.wide, self.topic = self.topic, chosen
      self.orders = list(dict.fromkeys(d.order for d in chosen))
    return chosen, refers

  def _as_it_is(self, text: str) -> bool:
    """ "Keep it a small one": an option's value stays, the rest need not."""
    m = re.search(r"\bkeep (?:it|them) (?!(?:as|if|and|instead)\b)(.+)$", text)
    return bool(m) and any(
      variants.says(m.group(1), v) is not None
      for d in self.topic for v in variants.options_of(d.item).values()
    )  # fmt: skip

  def _without(self, text: str) -> bool:
    """ "I do not need the backlight": an option is spoken of, not a thing."""
    keys = "|".join(map(re.escape, self.held.keys))
    return bool(
      re.search(
        r"\b(?:need|want)\w*(?: any| an?| the| its| that)*"
        rf" (?:\w+ )?(?:{keys})\b", text,
      )
    )  # fmt: skip

  def _doable(
    self, chosen: list[Draft], verb: str, sentence: int
  ) -> list[Draft]:
    """Those in whose order the verb can be carried out, if there are any.

    "I have a lamp and ordered another that I do not need, so cancel it."
    """
    want = things.fitting(verb, "")
    fit = [d for d in chosen if self.held.status(d.order).startswith(want)]
    if not want or not fit or len(fit) == len(chosen):
      return chosen
    for d in chosen:
      if d not in fit and d.sentence == sentence and d.fate == "remove":
        d.fate = ""
    return fit

  def _lone(self) -> list[Draft]:
    """ "Change my pending order's item to red": it has but one."""
    pending = [
      o.id for o in self.held.orders if o.fields["status"] == "pending"
    ]
    own = [(o, e) for o in pending for e in self.held.inside[o]]
    if len(own) != 1:
      return []
    return [self._draft(Draft(*own[0], "replace", "modify", 0), "")]

  def _other_kept(self, text: str) -> bool:
    """ "... and keep the larger": the one that was not spoken of yet."""
    names = {d.item.fields.get("name") for d in self.topic}
    same = [e for e in self.held.items if e.fields.get("name") in names]
    left = things.narrow(same, text)
    taken = {d.item.key for d in self.topic}
    return len(left) < len(same) and not any(e.key in taken for e in left)

  def _last(self) -> list[Draft]:
    """The wishes that were made last."""
    live = [d for d in self.drafts if d.fate in ("remove", "replace")]
    return [d for d in live if d.sentence == max(x.sentence for x in live)]

  def _tell(self, text: str) -> bool:
    """ "It is the red one": which one was meant, said when asked for."""
    told = False
    every = re.search(r"\b(two|2|both|all)\b", text)
    for d in [d for d in self.topic if d.fate in ("remove", "replace")]:
      same = [
        Draft(h, e, d.fate, d.verb, d.sentence, list(d.scope))
        for e in self.held.items for h in self.held.homes(e)
        if e.fields.get("name") == d.item.fields.get("name")
        and self.held.status(h) in things.fitting(d.verb, d.fate)
      ]  # fmt: skip
      left = things.narrow([x.item for x in same], text)
      if len(left) == len(same) or not (every or len(left) == 1):
        continue
      told, d.fate = True, ""
      for x in same:
        if x.item in left:
          self._draft(x, "")
    return told

  def _chosen(self, text: str) -> list[Draft]:
    """Which of the topic "the red one", "the other" and "them" are."""
    topic = list(self.topic)
    pool = self._pool()
    if own := [d for d in topic if d.order in self.marked]:
      for d in topic:
        d.fate = d.fate if d in own else ""
      return own
    if re.search(r"\bothers?\b", text):
      if len(pool) > len(topic):
        return [d for d in pool if d not in topic]
      return [d for d in topic if d.fate not in ("keep",)] or topic
    chosen: list[Draft] = []
    ref = _ONE_OF.search(text)
    for own in _by_name(pool if ref else topic):
      same = [d.item for d in own]
      found = things.narrow(same, ref.group()) if ref else same
      found = found if len(found) < len(same) else things.narrow(same, text)
      left = {e.key for e in found}
      if len(left) < len(own):
        chosen += [d for d in own if d.item.key in left]
        for d in own if re.search(r"\bone\b", text) else ():
          if d.item.key not in left and d.fate in ("remove", "replace"):
            d.fate = ""
    return chosen or topic

  def _valued(self, text: str) -> list[Draft]:
    """ "The french press": one of several of a name, by an option's value."""
    said = re.findall(r"\b(?:the|my) ((?:[\w-]+ ){0,2}[\w-]+)", text)
    for pool in (self._pool(), self.drafts):
      for own in _by_name(pool):
        for words in said:
          left = things.spoken_of([d.item for d in own], words)
          if len(left) < len(own):
            return [d for d in own if d.item in left]
    return []

  def _pool(self) -> list[Draft]:
    """The topic as it was before one of it was picked out."""
    picked = self.wide and all(d in self.wide for d in self.topic)
    return self.wide if picked else self.topic

  # ------------------------------------------------------------------- sweeps
  def _take(self, orders, clause: Clause, fate: str, verb: str) -> None:
    for o in orders:
      for e in self.held.inside[o]:
        d = Draft(o, e, fate, verb, clause.sentence, whole=True)
        self._draft(d, clause.text).whole = True
    self.topic = [d for d in self.drafts if d.order in set(orders)]

  def _whole(self, clause: Clause) -> bool:
    """ "Cancel the whole order": of what was spoken of before."""
    cancels = any(v.verb == "cancel" for v in clause.verbs)
    if not _as_a_whole(clause) or not (cancels or clause.condition):
      return False
    if _keeps(clause):
      return True
    live = [d.order for d in self.drafts if d.fate == "remove" or d.whole]
    orders = things.ids(clause.text, self.held) or live or self.orders
    orders = [o for o in orders if self.held.status(o) == "pending"]
    self._take(dict.fromkeys(orders), clause, "remove", "cancel")
    return True

  def _sweeps(self, clause: Clause, names: list[things.Name]) -> bool:
    """ "All", "everything but the lamp": whole orders under a verb."""
    text = clause.text
    acts = [v for v in clause.verbs if v.fate in ("remove", "replace")]
    m = _SWEEP.search(text)
    if not acts or not m or _NO_SWEEP.match(text[m.end() :]):
      return False
    if moves(text) or "prefer" in text[: m.start()]:
      return False
    if any(m.end() <= n.start < m.end() + 28 for n in names) and not re.search(
      r"\b(but|except\w*|other than|apart from|besides)\b", text[m.end() :]
    ):
      return False  # "all bookshelves" is a mention
    kept = {
      d.item.key for n in names
      for d in self._resolve(clause, n, text, "", "keep")
    }  # fmt: skip
    near = things.ids(text, self.held)
    if re.search(r"\b(?:that|this|the same|the) order\b(?! of)", text):
      near = near or self.orders
    if re.search(
      r"\b(?:both|two|2)(?: of)?(?: the| these| those)? orders\b", text
    ):
      near = near or (self.orders if len(set(self.orders)) == 2 else [])
    want = things.states(text)
    for v in acts[-2:]:
      for o in self.held.orders:
        status = o.fields.get("status", "")
        if status not in (want or things.fitting(v.verb, v.fate)):
          continue
        if near and o.id not in near:
          continue
        for e in self.held.inside[o.id]:
          if e.key not in kept:
            d = Draft(o.id, e, v.fate, v.verb, clause.sentence, whole=not kept)
            self._draft(d, text)
    return True


MOTION = (  # what parcels do, and what is done with them
  r"(?:send|sent|ship\w*|deliver\w*|go|goes|going|mail\w*|headed|heading|bound"
  r"|redirect\w*|re-?rout\w*|forward\w*|come|comes|coming|arriv\w+)"
)
_AWAY = re.compile(  # this "to" says nothing of where: "like to", "to my card"
  r"\bto (?:(?:my|the|an?) )?(?:\w+ )?(?:visa|mastercard|paypal|card|account)\b"
  r"|\b(?:want\w*|wish\w*|like|need\w*|have|has|prefer|love|asks?|able|try"
  r"|trying|plan\w*|decided?|how|hop\w+|happy|willing) to (?!the\b|my\b)\w+"
)


def _by_name(drafts: list[Draft]) -> list[list[Draft]]:
  """Drafts of things of the same name together."""
  out: dict[str, list[Draft]] = {}
  for d in drafts:
    out.setdefault(d.item.fields.get("name", ""), []).append(d)
  return list(out.values())


def moves(text: str) -> bool:
  """It is about where something goes."""
  return bool(
    re.search(
      r"\baddress(?:es|ed)?\b"
      rf"|\b(?:headed|heading|bound) for\b|\b{MOTION}\b(?! back)[^.]{{0,40}}"
      r" (?:to|at|there|here)\b"
      r"(?! (?:confirm|be|me|change|have|get|become|return"
      r"|exchange|cancel|make|use|keep|pay)\b)", _AWAY.sub(" ", text),
    )
  )  # fmt: skip


def _changes(clause: Clause) -> bool:
  """It removes or exchanges things, too."""
  return any(
    v.verb in ("return", "cancel", "exchange") or v.fate == "remove"
    for v in clause.verbs
  )


def _only_pays(clause: Clause) -> bool:
  """A clause about the way of payment alone."""
  text = clause.text
  if re.search(r"\bpayment\b", text) and "refund" not in text:
    return not any(v.verb in ("return", "cancel") for v in clause.verbs)
  return bool(
    re.search(r"\b(pay\w*|card|refund|gift card|paypal|gc)\b", text)
  ) and not any(v.fate in ("remove", "replace", "keep") for v in clause.verbs)


def _keeps(clause: Clause) -> bool:
  """ "I do not want to cancel the whole order": nothing else is said."""
  verbs = [v for v in clause.verbs if v.fate != "look"]
  return bool(verbs) and all(v.fate == "keep" for v in verbs)


def _only(before: str) -> bool:
  return bool(re.search(r"^(?!.*\bif\b).*\bonly\b(?! if)", before))


def _alone(text: str, name: things.Name) -> bool:
  """ "Only the lamp", "the lamp only", "nothing but the lamp"."""
  before = text[: name.start]
  if re.search(r"\bonly \w+ (?:it|them)\b", before):
    return False  # "i only use it with the lamp"
  if _only(before) or re.search(r"\bnothing but (?:the|my)(?: \w+)? $", before):
    return True
  return bool(re.match(r" (?:only|alone)\b(?! if)", text[name.end :]))


def _as_a_whole(clause: Clause) -> bool:
  """It speaks of a whole order, or agrees to a condition that does."""
  agreed = _AGREED.search(clause.text) and _WHOLE.search(clause.condition)
  return bool(agreed or _WHOLE.search(clause.text))


def _segments(
  text: str, names: list[things.Name], begin: int
) -> list[tuple[things.Name, int, int]]:
  """(name, start, end) of the words that belong to each name of a clause.

  "The bed and the chair to the cheapest": names in a row share what follows.
  """
  starts = [begin]
  for a, b in zip(names, names[1:], strict=False):
    between = text[a.end : b.start]
    cuts = [m.start() for m in re.finditer(r",| and\b| or\b", between)]
    starts.append(a.end + (cuts[-1] if cuts else len(between)))
  ends = [*starts[1:], len(text)]
  for i in reversed(range(len(names) - 1)):
    between = text[names[i].end : names[i + 1].start]
    if re.match(r"^(?:,| and| or|,? and)(?: \w+){0,3} $", between):
      ends[i] = ends[i + 1]
  return [
    (n, s, e) for n, s, e in zip(names, starts, ends, strict=True)
  ]  # fmt: skip


def _compared(text: str, name: things.Name) -> bool:
  """ "The same type as the grill I received": what is wanted is like it."""
  before = text[: name.start]
  return bool(
    re.search(r"\b(?:same|type|kind|model|just|exactly)\b[^,;]{0,20}"
              r"\b(?:as|like) (?:the|my|that)(?: \w+)? $", before)
  )  # fmt: skip


def _goal(text: str, start: int, end: int) -> int:
  """Where the words about what is wanted begin, behind a name."""
  m = re.search(
    r"\b(?:to|for|into|with|should|must|shall|so that|instead)\b",
    text[start:end],
  )
  return start + m.start() if m else end


def _fate(
  clause: Clause, name: things.Name, before: tuple[str, str]
) -> tuple[str, str]:
  """What is to become of a named thing: (fate, verb)."""
  verbs = [
    v for v in clause.verbs
    if not clause.text[v.at :].startswith("instead")
  ]  # fmt: skip
  left = [v for v in verbs if v.at < name.start]
  right = [v for v in verbs if v.at > name.start and v.fate != "look"]
  if left and not (left[-1].fate == "look" and _asks_to(clause, left[-1])):
    return left[-1].fate, left[-1].verb
  if right:
    return right[0].fate, right[0].verb
  if any(v.fate == "look" for v in verbs):
    return "look", ""
  if clause.implies:
    return "replace", "modify"
  return before


def _asks_to(clause: Clause, look: clauses.Verb) -> bool:
  """ "I want to know if it can be returned": a wish politely put."""
  return bool(re.match(r"\w+ (?:if|whether)\b", clause.text[look.at :]))


def like_of(
  state: Any, old: entities.Entity, scope: str
) -> entities.Entity | None:
  """ "The same type as the one I just ordered": the other item of the name."""
  if not re.search(
    r"\b(type|kind|model|same|one)\b[^.]{0,20}\b(i|you)\b[^.]{0,12}"
    r"\b(ordered|received|bought|have)\b"
    r"|\b(?:as|like) the (?:one|\w+) (?:in|from|of) (?:my|the)(?: \w+){0,2}"
    r" order\b", scope,
  ):  # fmt: skip
    return None
  name = old.fields.get("name")
  return next(
    (e for e in state.seen.of("item")
     if e.fields.get("name") == name and e.key != old.key), None,
  )  # fmt: skip
