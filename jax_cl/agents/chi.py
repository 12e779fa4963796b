"""chi(s, i): act i against what was said, done and read; the tool head's u.

Every act is described by the same few columns, so that what is learned of one
("it was asked for and not done yet") holds for all.
"""

from __future__ import annotations

import functools

import numpy as np

from jax_cl.agents import dialogue, psi
from jax_cl.agents.dialogue import HINT, WISH
from jax_cl.tasks import actions
from jax_cl.tasks.language import intents

# Column -> place in the row; 31 to 33 are free.
NAMES = {
  name: i
  for i, name in enumerate((
    # the words of the tool's name
    "named", "named_now", "verb_said", "similar",
    # what was done before
    "done", "times", "last", "last_failed", "untried",
    # what kind of act it is
    "tool", "request", "say", "no_slots", "untried_named", "undone_verb",
    # named things that nothing was done with
    "matter_verb", "matter_status", "matter_both", "write_unasked", "write",
    "close_clear", "close_early",
    # the reading of the user's wishes
    "next_wish", "any_wish", "write_unwished", "close_done", "close_undone",
    "open_product", "open_needless", "confirm_ready",
    # the next act that the reading makes of them
    "hint",
  ))
}  # fmt: skip


class Acts:
  """What never changes of the acts of a space."""

  def __init__(self, space: actions.ActSpace):
    self.space = space
    self.names = [dialogue.words(a.tool.replace("_", " ")) for a in space.acts]
    column = lambda f: np.array([bool(f(a)) for a in space.acts])
    self.kinds = {
      k: column(lambda a, k=k: a.kind == k) for k in ("tool", "request", "say")
    }
    self.slots = column(lambda a: a.slots)
    self.write = column(lambda a: a.write)
    self.done = column(lambda a: a.tool == "done")
    self.confirm = column(lambda a: a.tool == "confirm")
    self.opens = column(lambda a: any(s.type == "product" for s in a.slots))
    self.status = functools.cache(
      lambda word: column(lambda a: bool(word) and word in a.tool)
    )
    verb = lambda word: column(lambda a: a.tool.split("_")[0] == word)
    self.verb = functools.cache(verb)

  def of(self, name: str) -> np.ndarray:
    """bool[acts], the act of this name."""
    out = np.zeros(len(self.space), np.bool_)
    if name in self.space.index:
      out[self.space.index[name]] = True
    return out


def chi(
  acts: Acts, state: actions.State, legal: np.ndarray, similar: np.ndarray
) -> np.ndarray:
  """float32[acts, psi.WIDTH]; rows of acts that are not legal are 0.

  `legal` is bool[acts]; `similar` float32[acts], see `Featurizer.likeness`.
  """
  f = dialogue.Columns(NAMES, len(acts.space), psi.WIDTH)
  view = dialogue.view(state)
  untried = np.array([
    bool(ok and a.slots) and view.untried(a)
    for a, ok in zip(acts.space.acts, legal, strict=True)
  ])  # fmt: skip
  _names(f, acts, view, legal, similar)
  _past(f, acts, state)
  _kinds(f, acts, untried)
  _matters(f, acts, view)
  if acts.space.reads and (
    state.seen.of("order") or state.seen.of("reservation")
  ):
    _wishes(f, acts, view)
  choice = actions.Choice(None, acts.space.acts, legal.tolist())
  f["hint"] = HINT * np.array(intents.hint(state, choice))
  f.values[~legal] = 0
  return f.values


def _names(f, acts: Acts, view: dialogue.View, legal, similar) -> None:
  kept = view.said.kept
  if "acts" not in kept:
    heard = view.said.words
    named = np.array([dialogue.share(name, heard) for name in acts.names])
    verb = np.array([bool(name) and name[0] in heard for name in acts.names])
    kept["acts"] = named, verb
  f["named"], f["verb_said"] = kept["acts"]
  heard = view.latest_words
  f["named_now"] = [
    ok and dialogue.share(name, heard)
    for name, ok in zip(acts.names, legal, strict=True)
  ]
  f["similar"] = similar


def _past(f, acts: Acts, state: actions.State) -> None:
  times = np.zeros(len(acts.space))
  for name, _ in state.history:
    times[acts.space.index[name]] += 1
  last = acts.of(state.history[-1][0] if state.history else "")
  f["done"] = times > 0
  f["times"] = np.minimum(times, 4) / 4
  f["last"] = last
  f["last_failed"] = last & (bool(state.errors) and state.errors[-1])


def _kinds(f, acts: Acts, untried: np.ndarray) -> None:
  for kind, is_of in acts.kinds.items():
    f[kind] = is_of
  f["untried"] = untried
  f["no_slots"] = ~acts.slots
  f["untried_named"] = f["named"] * untried
  f["undone_verb"] = f["verb_said"] * (1 - f["done"])


def _matters(f, acts: Acts, view: dialogue.View) -> None:
  none = np.zeros(len(acts.space), np.bool_)
  verbs, statuses, both = none.copy(), none.copy(), none.copy()
  for _, status, mention in view.matters:
    verb = sum((acts.verb(v) for v in mention.verbs), none)
    verbs |= verb
    statuses |= acts.status(status)
    both |= verb & acts.status(status)
  asked = bool(view.matters)
  f["matter_verb"], f["matter_status"], f["matter_both"] = verbs, statuses, both
  f["write"] = acts.write
  f["write_unasked"] = acts.write & (not asked)
  f["close_clear"] = acts.done & (not asked)
  f["close_early"] = acts.done & asked


def _wishes(f, acts: Acts, view: dialogue.View) -> None:
  wishes, unopened = view.wishes, bool(view.unopened)
  wanted = [acts.of(w.act) for w in wishes]
  any_wish = np.any(wanted, axis=0) if wanted else acts.of("")
  f["next_wish"] = WISH * (wanted[0] if wanted else any_wish)
  f["any_wish"] = WISH * any_wish
  f["write_unwished"] = WISH * (acts.write & ~any_wish)
  f["close_done"] = WISH * (acts.done & (not wishes))
  f["close_undone"] = WISH * (acts.done & bool(wishes))
  f["open_product"] = WISH * (acts.opens & unopened)
  f["open_needless"] = WISH * (acts.opens & (not unopened))
  f["confirm_ready"] = WISH * (acts.confirm & (not unopened))
