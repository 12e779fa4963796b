"""phi(s) and psi(s, c): what the scorer sees of an episode.

phi(s) concatenates pooled hidden states of a frozen LLM over the texts of the
episode, one block a role: what the user said, the latest user turn, the latest
tool result, the standing reports, what was done, what was done last, and which
acts still have an untried argument. Every text goes through the LLM by itself
and is cached, so that repeated text costs nothing.

psi(s, c) describes a candidate of a pointer: whether the user named it, how
its words overlap with the user's against the other candidates', cosine
similarity under the same LLM, links to values already chosen, use before.

Nothing here reads a task: only `actions.State`, which only saw the dialogue.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np

from jax_cl.tasks import actions, entities
from jax_cl.types import Decision

BLOCKS = (
  "user", "last_user", "last_result", "reports", "last_act", "done", "open",
)  # fmt: skip
# Sums are divided by a constant rather than by their length: a mean over sixty
# report lines would make each line's weight sixty times harder to learn.
SCALE = {"reports": 6.0, "done": 2.0, "open": 2.0}
BUCKETS = 24  # hashed categorical fields of a candidate
NUMERIC = 40  # the named features below
WIDTH = NUMERIC + BUCKETS  # Dc
_WORD = re.compile(r"[a-z0-9]+")
_SMALL = frozenset(
  "a an the of to and or in for with on at by is it its my your you i we be"
  " that this not no as from want would like".split()
)


def words(text: str) -> list[str]:
  """Lower-case words, plural s dropped, function words left out."""
  out = []
  for w in _WORD.findall(text.lower()):
    if w not in _SMALL:
      out.append(w[:-1] if len(w) > 3 and w.endswith("s") else w)
  return out


class Featurizer:
  """Turns an `actions.State` and a choice into the arrays of one Batch row.

  Hidden states of one LLM share a large common component; they are centred and
  whitened (shrinkage `shrink`) on texts that belong to no task: schemas and
  policies of the stream's domains. `width` keeps that many leading directions.
  """

  def __init__(
    self,
    embedder,
    space: actions.ActSpace,
    reference: Sequence[str],
    *,
    width: int = 256,
    shrink: float = 0.1,
  ):
    self.embedder = embedder
    self.space = space
    texts = sorted(set(reference) | {a.text for a in space.acts})
    raw = embedder.embed(texts).astype(np.float64)
    self.mean = raw.mean(0)
    values, vectors = np.linalg.eigh(np.cov((raw - self.mean).T))
    order = np.argsort(values)[::-1][:width]
    values, vectors = values[order], vectors[:, order]
    self.width = len(order)
    floor = shrink * values.mean()
    self.project = vectors / np.sqrt(np.maximum(values, 0) + floor)
    self.cache: dict[str, np.ndarray] = {}
    self.act_vectors = self.vectors([a.text for a in space.acts])
    self.index = {a.name: i for i, a in enumerate(space.acts)}
    self.n_options = max(len(space), actions.MAX_CANDIDATES)

  @property
  def spec(self) -> dict[str, tuple[tuple[int, ...], type]]:
    """Leaf -> (shape, dtype) of one row of obs."""
    return {
      "phi": ((len(BLOCKS) * self.width + 1,), np.float32),
      "cand": ((actions.MAX_CANDIDATES, WIDTH), np.float32),
      "mask": ((self.n_options,), np.bool_),
      "slot": ((), np.int32),  # -1 for the tool head
    }

  # ------------------------------------------------------------------ texts
  def vectors(self, texts: Sequence[str]) -> np.ndarray:
    """float32[n, width], unit length, whitened. Cached by text."""
    new = [t for t in dict.fromkeys(texts) if t not in self.cache]
    if new:
      z = (self.embedder.embed(new) - self.mean) @ self.project
      z /= np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-6)
      self.cache.update(zip(new, z.astype(np.float32), strict=True))
    if not texts:
      return np.zeros((0, self.width), np.float32)
    return np.stack([self.cache[t] for t in texts])

  def prefetch(self, states: Sequence[actions.State]) -> None:
    """Embeds what several episodes will ask for in one call."""
    texts: list[str] = []
    for s in states:
      if s.act is None:
        texts += s.user_texts + s.last_result
        texts += [t for ts in s.reports.values() for t in ts]
      else:
        slot = s.choice().slot
        texts += s.user_texts
        texts += [_text(e) or "nothing" for e in s.candidates(slot)]
    self.vectors(texts)

  def phi(self, state: actions.State, mask: Sequence[bool]) -> np.ndarray:
    """float32[blocks * width + 1], the last entry is 1."""
    out = np.zeros((len(BLOCKS), self.width), np.float32)
    reports = [t for ts in state.reports.values() for t in ts]
    for k, texts in enumerate(
      (state.user_texts, state.last_user, state.last_result, reports)
    ):
      if texts:
        v = self.vectors(texts)
        scale = SCALE.get(BLOCKS[k], 0.0)
        out[k] = v.sum(0) / scale if scale else v.mean(0) * 2.0
    called = {self.index[name] for name, _ in state.history}
    if state.history:
      out[4] = self.act_vectors[self.index[state.history[-1][0]]]
      if state.errors[-1]:
        out[4] = -out[4]  # the last call failed
    done = [self.act_vectors[i] for i in sorted(called)]
    if done:
      out[5] = np.sum(done, 0) / SCALE["done"]
    open_ = [
      self.act_vectors[i]
      for i, act in enumerate(self.space.acts)
      if mask[i] and act.slots and _untried(state, act)
    ]
    if open_:
      out[6] = np.sum(open_, 0) / SCALE["open"]
    return np.append(out.ravel(), np.float32(1.0))

  # ------------------------------------------------------------------- rows
  def obs(
    self, state: actions.State, choice: actions.Choice
  ) -> dict[str, np.ndarray]:
    """One row of `Batch.obs` for a choice."""
    mask = np.zeros(self.n_options, np.bool_)
    mask[: len(choice.mask)] = choice.mask
    if choice.slot is None:
      phi = self.phi(state, choice.mask)
      cand = np.zeros((actions.MAX_CANDIDATES, WIDTH), np.float32)
      slot = -1
    else:
      phi = np.zeros(len(BLOCKS) * self.width + 1, np.float32)
      cand = np.zeros((actions.MAX_CANDIDATES, WIDTH), np.float32)
      cand[: len(choice.options)] = self.psi(state, choice)
      slot = self.space.slot_index[(state.act.name, choice.slot.name)]
    return {
      "phi": phi,
      "cand": cand,
      "mask": mask,
      "slot": np.int32(slot),
    }

  def decision(self, state, choice, obs, action: int, logp: float) -> Decision:
    head = "tool" if choice.slot is None else choice.slot.type
    return Decision(obs, action, logp, head)

  # ------------------------------------------------------------- candidates
  def psi(self, state: actions.State, choice: actions.Choice) -> np.ndarray:
    """float32[n, WIDTH], the features of each option of a pointer."""
    options = choice.options
    bags = [_bag(e) for e in options]
    names = [_name(e) for e in options]
    counts: dict[str, int] = {}
    for bag in bags:
      for w in bag:
        counts[w] = counts.get(w, 0) + 1
    user = {w for t in state.user_texts for w in words(t)}
    text = " ".join(state.user_texts)
    latest = " ".join(state.last_user)
    lines = [(set(words(t)), t) for t in state.user_texts]
    chosen = [e for es in state.picks.values() for e in es]
    first = chosen[0] if chosen else None
    aligned = None
    if choice.slot.type == "variant":
      items = [e for e in state.picks.get("item_ids", ()) if e is not actions.STOP]
      aligned = items[choice.position] if choice.position < len(items) else None
    verbs = set(words(state.act.name.replace("_", " ")))
    used_here = state.used.get((state.act.name, choice.slot.name), set())
    used = set().union(*state.used.values()) if state.used else set()
    sims = self._similarity(state, options)
    rarity = [sum(1 / counts[w] for w in bag & user) for bag in bags]
    named = [
      sum(w in user for w in n) / len(n) if n else 0.0 for n in names
    ]
    related = [
      bool(chosen) and any(actions.related(e, c) for c in chosen)
      for e in options
    ]
    prices = _prices(options, [
      aligned is None or actions.related(e, aligned) or _shares(e, aligned)
      for e in options
    ])
    most_rare, most_named = max(rarity, default=0), max(named, default=0)
    last_turn = max((e.turn for e in options), default=0)
    n_left = sum(x >= 1 for x in named)
    out = np.zeros((len(options), WIDTH), np.float32)
    for i, e in enumerate(options):
      f = out[i]
      if e is actions.STOP:
        f[0] = 1
        f[1] = choice.position == 1
        f[2] = min(choice.position, 5) / 5
        f[3] = n_left > 0
        f[4] = most_named
        continue
      value = str(e.value) if not isinstance(e.value, dict) else ""
      f[5] = bool(value) and value in text
      f[6] = bool(value) and value in latest
      f[7] = e.key in used_here
      f[8] = e.key in used
      f[9] = 1 / (1 + i)
      f[10] = e.turn == last_turn
      f[11] = e.source == "user"
      f[12] = e.source == "derived"
      f[13] = min(rarity[i], 4) / 4
      f[14] = named[i]
      f[15] = named[i] >= 1
      f[16] = rarity[i] > 0 and rarity[i] == most_rare
      f[17] = named[i] > 0 and named[i] == most_named
      f[18] = first is not None and actions.related(e, first)
      f[19] = related[i]
      f[20] = aligned is not None and _shares(e, aligned)
      f[21] = sims[i]
      f[22] = sims[i] >= max(sims)
      low, high = prices[i]
      f[23], f[24] = low, high
      free = e.fields.get("available")
      f[25], f[26] = free == "True", free == "False"
      if aligned is not None and _shares(e, aligned):
        f[27:33] = _change(e, aligned, user)
      best = [(len(set(names[i]) & ws), ws) for ws, _ in lines if names[i]]
      if best and (top := max(best, key=lambda x: x[0]))[0] > 0:
        f[33] = len(verbs & top[1]) > 0
        f[34] = min(sum(1 / counts[w] for w in bags[i] & top[1]), 4) / 4
      f[35] = i == choice.position
      f[36] = bool(related[i] and not f[8])
      f[37] = bool(f[16] and related[i])
      f[38] = bool(f[15] and related[i])
      f[39] = bool(f[20] and f[16])
      for k, v in e.fields.items():
        if len(v) < 24 and not re.search(r"\d\d", v):
          f[NUMERIC + zlib.crc32(f"{k}={v}".encode()) % BUCKETS] += 1
    return out

  def _similarity(self, state, options) -> list[float]:
    """max over user sentences of cos(candidate's words, sentence)."""
    texts = [_text(e) for e in options]
    if not state.user_texts or not any(texts):
      return [0.0] * len(options)
    said = self.vectors(state.user_texts)
    known = self.vectors([t or "nothing" for t in texts])
    return [
      float(s) if t else 0.0
      for s, t in zip((known @ said.T).max(1), texts, strict=True)
    ]


def _untried(state: actions.State, act: actions.Act) -> bool:
  """Some slot has a candidate that this act has not been given yet."""
  for slot in act.slots:
    if slot.values or slot.type == "count":
      continue
    used = state.used.get((act.name, slot.name), set())
    if any(k not in used for k in state.seen.by_type.get(slot.type, ())):
      return True
  return False


def _bag(e: entities.Entity) -> set[str]:
  return {w for k, v in e.fields.items() if k != "price" for w in words(v)}


def _name(e: entities.Entity) -> list[str]:
  text = e.fields.get("name") or e.fields.get("value") or ""
  if isinstance(e.value, dict) and "first_name" in e.value:
    text = f"{e.value['first_name']} {e.value['last_name']}"
  return words(text) if text else sorted(_bag(e))[:12]


def _text(e: entities.Entity) -> str:
  """The words of a candidate that the frozen LLM reads: no numbers, no ids."""
  keep = [
    v for k, v in e.fields.items()
    if k not in ("price", "available") and not re.search(r"\d", v)
  ]
  return " ".join(keep)[:120]


def _shares(e: entities.Entity, item: entities.Entity) -> bool:
  """A variant of the item's product."""
  return bool(e.links & item.links) and "options" not in e.fields


def _prices(options, comparable) -> list[tuple[bool, bool]]:
  """(cheapest, dearest) among the available comparable options."""
  price = [
    float(e.fields["price"])
    if ok and re.fullmatch(r"[\d.]+", e.fields.get("price", ""))
    and e.fields.get("available") != "False"
    else None
    for e, ok in zip(options, comparable, strict=True)
  ]
  known = [p for p in price if p is not None]
  if not known:
    return [(False, False)] * len(price)
  low, high = min(known), max(known)
  return [(p == low, p == high) if p is not None else (False, False)
          for p in price]


def _change(new: entities.Entity, old: entities.Entity, user: set[str]):
  """Options kept, changed, changed to what the user named, changed unasked."""
  skip = ("name", "price", "available", "status")
  keys = [k for k in new.fields if k in old.fields and k not in skip]
  changed = [k for k in keys if new.fields[k] != old.fields[k]]
  asked = [
    k for k in changed
    if (w := set(words(new.fields[k])) - set(words(old.fields[k]))) and w <= user
  ]
  n = max(len(keys), 1)
  cheaper = float(new.fields.get("price", 0)) < float(old.fields.get("price", 0))
  return (
    (n - len(changed)) / n,
    not changed,
    len(asked) / max(len(changed), 1),
    (len(changed) - len(asked)) / n,
    cheaper,
    len(asked) == len(changed) > 0,
  )
