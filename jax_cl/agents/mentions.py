"""Where the user named an entity, with which verb, and what was said of it.

"Return the speaker, and exchange the bottle to a bigger one": the bottle is
named under *exchange*, and *bigger* is said of it. Rules over the user's own
sentences: an entity is named by its id or by the head noun of its name; its
verb is the last one before it; its scope runs to the next thing named.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jax_cl.tasks import entities
from jax_cl.tasks.language.reading import flat

# Verbs that stand for the first word of a tool's name.
VERBS = {
  "return": "return", "refund": "return", "exchange": "exchange",
  "replace": "exchange", "swap": "exchange", "cancel": "cancel",
  "modify": "modify", "change": "modify", "update": "modify",
  "switch": "modify", "upgrade": "update", "add": "update", "book": "book",
}  # fmt: skip
_VERB = re.compile(rf"\b({'|'.join(VERBS)})\w*")
_END = re.compile(r"[.;?!]\s|\n")


class Mention(NamedTuple):
  verbs: frozenset[str]  # as in names of tools; empty where none was said
  scope: str  # lower case, what was said from the name on
  before: str  # the clause up to the name


NOWHERE = Mention(frozenset(), "", "")


def surfaces(e: entities.Entity) -> tuple[str, ...]:
  """What an entity is called: its id, the head noun of its name."""
  out = [flat(e.id).lstrip("#")] if isinstance(e.value, str) else []
  name = e.fields.get("name", "")
  if name and "; " not in name:
    words = re.findall(r"[a-z0-9]+", flat(name))
    if words:
      out.append(words[-1].rstrip("s"))
  return tuple(out)


def find(
  texts: Sequence[str], known: Mapping[str, Sequence[str]]
) -> dict[str, Mention]:
  """Mentions of `known` (key -> surfaces) in the user's sentences."""
  text = flat("\n".join(texts)) + "\n"
  where: dict[str, list[int]] = {}
  for surface in {s for ss in known.values() for s in ss if len(s) > 2}:
    pattern = rf"\b\w*{re.escape(surface)}(?:s|es)?\b"
    where[surface] = [m.start() for m in re.finditer(pattern, text)]
  starts = sorted({p for ps in where.values() for p in ps})
  ends = [m.start() for m in _END.finditer(text)] + [len(text)]
  verbs = [(m.start(), VERBS[m.group(1)]) for m in _VERB.finditer(text)]
  verb_starts = [p for p, _ in verbs]
  out = {}
  for key, names in known.items():
    at = sorted({p for s in names for p in where.get(s, ())})
    if not at:
      continue
    found, scope, before = set(), [], []
    for p in at:
      v = bisect.bisect(verb_starts, p) - 1
      if v >= 0:
        found.add(verbs[v][1])
      n = bisect.bisect(starts, p)
      stop = ends[bisect.bisect_left(ends, p)]
      if n < len(starts):
        stop = min(stop, starts[n])
      scope.append(text[p:stop])
      b = bisect.bisect_left(ends, p) - 1
      s = bisect.bisect_left(starts, p) - 1
      left = max(ends[b] if b >= 0 else 0, starts[s] if s >= 0 else 0)
      before.append(text[left:p])
    out[key] = Mention(frozenset(found), " ".join(scope), " ".join(before))
  return out
