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

import functools
import re
import zlib
from collections.abc import Sequence

import numpy as np

from jax_cl.agents import mentions
from jax_cl.tasks import actions, entities, intents, reading
from jax_cl.types import Decision

BLOCKS = (
  "user", "last_user", "last_result", "reports", "last_act", "done", "open",
)  # fmt: skip
# Sums are divided by a constant rather than by their length: a mean over sixty
# report lines would make each line's weight sixty times harder to learn.
SCALE = {"reports": 6.0, "done": 2.0, "open": 2.0}
LEDGER = 32  # hashed (type, status) of what was named and not yet acted on
FLAGS = 23  # named facts about the episode
BUCKETS = 16  # hashed categorical fields of a candidate
# Weights of few and telling features must move as fast as those of the many
# directions of a hidden state, under one learning rate.
WISH = 12.0
PHI = 1.0
NUMERIC = 96  # the named features below
WIDTH = NUMERIC + BUCKETS  # Dc
_WORD = re.compile(r"[a-z0-9]+")
_SMALL = frozenset(
  "a an the of to and or in for with on at by is it its my your you i we be"
  " that this not no as from want would like".split()
)


# Words that ask for an extreme, in the order of `_extremes`.
CUES = (
  re.compile(r"\b(max\w*|most|bigge\w+|large\w*|high\w*|longe\w+|more|upgrade"
             r"|bright\w+|fast\w*|late\w*)\b"),
  re.compile(r"\b(min\w*|least|small\w*|low\w*|short\w*|less|downgrade"
             r"|early|earli\w+)\b"),
  re.compile(r"\b(cheap\w*|save|lowest price|least expensive)\b"),
  re.compile(r"\b(most expensive|expensive|lottery)\b"),
)  # fmt: skip
# What a call is about: trips, parcels, phones.
TOPICS = (
  re.compile(
    r"\b(flights?|reservations?|trips?|fly|tickets?|airline|booked)\b"
  ),
  re.compile(r"\b(orders?|ordered|items?|exchange|return|delivered|bought)\b"),
  re.compile(r"\b(phone|data|mms|signal|internet|sim|service|line)\b"),
)
ALL = re.compile(r"\b(all|every|everything|both|entire)\b")
EXCEPT = re.compile(r"\b(?:except|but not|other than|keep|besides)\b(.*)")


@functools.lru_cache(maxsize=1 << 16)
def words(text: str) -> tuple[str, ...]:
  """Lower-case words, plural s dropped, function words left out."""
  out = []
  for w in _WORD.findall(reading.flat(text)):
    if w not in _SMALL:
      out.append(w[:-1] if len(w) > 3 and w.endswith("s") else w)
  return tuple(out)


class Featurizer:
  """Turns an `actions.State` and a choice into the arrays of one Batch row.

  Hidden states of one LLM share a large common component; they are centred and
  whitened (shrinkage `shrink`) on texts that belong to no task: schemas and
  policies of the stream's domains. `width` keeps that many leading directions.

  A text's vector z is that unit vector u beside `rff` random Fourier features
  of it, sqrt(2/rff) cos(gamma W u + b), whose inner products approach
  exp(-gamma^2 |u - v|^2 / 2) (Rahimi & Recht 2007). The first part says what a
  text is about; the second tells "Airplane Mode: ON" from "Airplane Mode: OFF"
  in a sum over thirty texts, where hidden states all but cancel.
  """

  def __init__(
    self,
    embedder,
    space: actions.ActSpace,
    reference: Sequence[str],
    *,
    width: int = 128,
    shrink: float = 0.1,
    rff: int = 384,
    gamma: float = 4.0,
  ):
    self.embedder = embedder
    self.space = space
    texts = sorted(set(reference) | {a.text for a in space.acts})
    raw = embedder.embed(texts).astype(np.float64)
    self.mean = raw.mean(0)
    values, vectors = np.linalg.eigh(np.cov((raw - self.mean).T))
    order = np.argsort(values)[::-1][:width]
    values, vectors = values[order], vectors[:, order]
    self.linear = len(order)
    self.width = self.linear + rff
    rng = np.random.default_rng(0)
    self.rff_w = gamma * rng.standard_normal((self.linear, rff))
    self.rff_b = rng.uniform(0, 2 * np.pi, rff)
    floor = shrink * values.mean()
    self.project = vectors / np.sqrt(np.maximum(values, 0) + floor)
    self.rows: dict[str, int] = {}  # text -> row of `table`
    self.table = np.zeros((1024, self.width), np.float32)
    self.act_vectors = self.vectors([a.text for a in space.acts])
    self.index = {a.name: i for i, a in enumerate(space.acts)}
    self.n_options = max(len(space), actions.MAX_CANDIDATES)

  @property
  def spec(self) -> dict[str, tuple[tuple[int, ...], type]]:
    """Leaf -> (shape, dtype) of one row of obs."""
    return {
      "phi": ((len(BLOCKS) * self.width + LEDGER + FLAGS + 1,), np.float16),
      "cand": ((self.n_options, WIDTH), np.float16),
      "mask": ((self.n_options,), np.bool_),
      "slot": ((), np.int32),  # -1 for the tool head
    }

  # ------------------------------------------------------------------ texts
  def vectors(self, texts: Sequence[str]) -> np.ndarray:
    """float32[n, width], both parts of each text. Cached by text."""
    new = [t for t in dict.fromkeys(texts) if t not in self.rows]
    if new:
      z = (self.embedder.embed(new) - self.mean) @ self.project
      z /= np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-6)
      if n_rff := len(self.rff_b):
        waves = np.cos(z @ self.rff_w + self.rff_b) * np.sqrt(2 / n_rff)
        z = np.concatenate([z, waves], axis=1)
      n = len(self.rows)
      while n + len(new) > len(self.table):
        self.table = np.concatenate([self.table, np.zeros_like(self.table)])
      self.table[n : n + len(new)] = z
      self.rows.update(zip(new, range(n, n + len(new)), strict=True))
    return self.table[[self.rows[t] for t in texts]]

  def prefetch(self, states: Sequence[actions.State]) -> None:
    """Embeds what several episodes will ask for in one call."""
    texts: list[str] = []
    for s in states:
      if s.act is None:
        texts += s.user_texts + s.last_result
        texts += [t for ts in s.reports.values() for t in ts]
      else:
        slot = s.choice().slot
        assert slot is not None
        texts += s.user_texts
        texts += [_text(e) or "nothing" for e in s.candidates(slot)]
    self.vectors(texts)

  def phi(self, state: actions.State, mask: Sequence[bool]) -> np.ndarray:
    """float32[blocks * width + ledger + flags + 1], the last entry is 1."""
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
    one = np.ones(1, np.float32)
    return np.concatenate(
      [PHI * out.ravel(), self.ledger(state), flags(state), one]
    )

  def ledger(self, state: actions.State) -> np.ndarray:
    """What the user named and nothing has been done with, by type and status.

    Entities that share no id with any call that changed something.
    """
    out = np.zeros(LEDGER, np.float32)
    for e, status, mention in _open_matters(state):
      out[_bucket(f"{e.type}={status}", LEDGER)] = 1
      for verb in mention.verbs:
        out[_bucket(f"{verb}:{status}", LEDGER)] = 1
    return out

  # ------------------------------------------------------------------- rows
  def obs(
    self, state: actions.State, choice: actions.Choice
  ) -> dict[str, np.ndarray]:
    """One row of `Batch.obs` for a choice."""
    mask = np.zeros(self.n_options, np.bool_)
    mask[: len(choice.mask)] = choice.mask
    phi = np.zeros(self.spec["phi"][0], np.float32)
    cand = np.zeros(self.spec["cand"][0], np.float32)
    slot = -1
    if choice.slot is None:
      phi = self.phi(state, choice.mask)
      cand[: len(choice.options)] = self.chi(state, choice.mask)
    else:
      cand[: len(choice.options)] = self.psi(state, choice)
      slot = self.space.slot_index[(state.act.name, choice.slot.name)]
    return {
      "phi": phi.astype(np.float16),
      "cand": cand.astype(np.float16),
      "mask": mask,
      "slot": np.asarray(slot, np.int32),
    }

  def decision(self, state, choice, obs, action: int, logp: float) -> Decision:
    head = "tool" if choice.slot is None else choice.slot.type
    return Decision(obs, action, logp, head)

  # ------------------------------------------------------------- candidates
  def chi(self, state: actions.State, mask: Sequence[bool]) -> np.ndarray:
    """float32[acts, WIDTH]: each legal act against what was said and done."""
    user = _user_words(state)
    latest = {w for t in state.last_user for w in words(t)}
    last = state.history[-1][0] if state.history else ""
    counts: dict[str, int] = {}
    for name, _ in state.history:
      counts[name] = counts.get(name, 0) + 1
    sims = np.zeros(len(self.space))
    if state.user_texts:
      said = self.vectors(state.user_texts)[:, : self.linear]
      sims = (self.act_vectors[:, : self.linear] @ said.T).max(1)
    matters = _open_matters(state)
    wishes, unopened = reading.open_wishes(state), reading.unopened(state)
    things = state.seen.of("order") or state.seen.of("reservation")
    readable = self.space.reads and bool(things)
    out = np.zeros((len(self.space), WIDTH), np.float32)
    choice = actions.Choice(None, self.space.acts, mask)
    out[:, 30] = WISH * np.array(intents.hint(state, choice))
    for i, act in enumerate(self.space.acts):
      if not mask[i]:
        continue
      f = out[i]
      name = words(act.tool.replace("_", " "))
      f[0] = _named([name], user)
      f[1] = _named([name], latest)
      f[2] = bool(name) and name[0] in user
      f[3] = sims[i]
      f[4] = act.name in counts
      f[5] = min(counts.get(act.name, 0), 4) / 4
      f[6] = act.name == last
      f[7] = act.name == last and state.errors[-1]
      f[8] = bool(act.slots) and _untried(state, act)
      f[9:12] = [act.kind == k for k in ("tool", "request", "say")]
      f[12] = not act.slots
      f[13] = f[0] * f[8]
      f[14] = f[2] * (not f[4])
      verb = act.tool.split("_")[0]
      asked = [(s, verb in m.verbs) for _, s, m in matters]
      f[15] = any(v for _, v in asked)
      f[16] = any(s and s in act.tool for s, _ in asked)
      f[17] = any(v and s and s in act.tool for s, v in asked)
      f[18] = act.write and not asked
      f[19] = act.write
      f[20] = act.tool == "done" and not asked
      f[21] = act.tool == "done" and bool(asked)
      if not readable:
        continue
      wanted = [w.act == act.name for w in wishes]
      f[22] = WISH * (wanted[:1] == [True])
      f[23] = WISH * any(wanted)
      f[24] = WISH * (act.write and not any(wanted))
      f[25] = WISH * (act.tool == "done" and not wishes)
      f[26] = WISH * (act.tool == "done" and bool(wishes))
      opens = any(s.type == "product" for s in act.slots)
      f[27] = WISH * (opens and bool(unopened))
      f[28] = WISH * (opens and not unopened)
      f[29] = WISH * (act.tool == "confirm" and not unopened)
    return out

  def psi(self, state: actions.State, choice: actions.Choice) -> np.ndarray:
    """float32[n, WIDTH], the features of each option of a pointer."""
    options, slot = choice.options, choice.slot
    bags = [_bag(e) for e in options]
    parts = [_parts(e) for e in options]
    counts: dict[str, int] = {}
    for bag in bags:
      for w in bag:
        counts[w] = counts.get(w, 0) + 1
    user = _user_words(state)
    text, latest = " ".join(state.user_texts), " ".join(state.last_user)
    low = text.lower()
    found = _mentions(state)
    verb = state.act.tool.split("_")[0]
    says_all = bool(ALL.search(low))
    without = {w for m in EXCEPT.findall(low) for w in words(m)}
    lines = [set(words(t)) for t in state.user_texts]
    chosen = [e for es in state.picks.values() for e in es]
    first = chosen[0] if chosen else None
    aligned = None
    if slot.type == "variant":
      items = [
        e for e in state.picks.get("item_ids", ()) if e is not actions.STOP
      ]
      if choice.position < len(items):
        aligned = items[choice.position]
    said_of = mentions.NOWHERE
    if aligned is not None:
      said_of = found.get(aligned.key, mentions.NOWHERE)
    about = f"{said_of.before[-40:]} {said_of.scope}" if said_of.scope else low
    cues = [bool(c.search(about)) for c in CUES]
    about_words = set(words(about))
    open_items = [e for e, _, _ in _open_matters(state)]
    verbs = set(words(state.act.name.replace("_", " ")))
    used_here = state.used.get((state.act.name, slot.name), set())
    used = set().union(*state.used.values()) if state.used else set()
    written = state.written
    sims = self._similarity(state, options)
    rarity = [sum(1 / counts[w] for w in bag & user) for bag in bags]
    named = [_named(p, user) for p in parts]
    related = [
      bool(chosen) and any(actions.related(e, c) for c in chosen)
      for e in options
    ]
    same = [aligned is None or _shares(e, aligned) for e in options]
    extremes = _extremes(options, same, aligned)
    most_rare, most_named = max(rarity, default=0), max(named, default=0)
    last_turn = max((e.turn for e in options), default=0)
    left = [x >= 1 and r for x, r in zip(named, related, strict=True)]
    more = says_all and any(related)
    out = np.zeros((len(options), WIDTH), np.float32)
    self._wished(state, choice, aligned, out)
    for i, e in enumerate(options):
      f = out[i]
      if e is actions.STOP:
        f[0] = 1
        f[1] = choice.position == 1
        f[2] = min(choice.position, 5) / 5
        f[3] = any(left)
        f[4] = more
        f[5] = most_named
        continue
      value = str(e.value) if not isinstance(e.value, dict) else ""
      f[6] = bool(value) and value in text
      f[7] = bool(value) and value in latest
      f[8] = e.key in used_here
      f[9] = e.key in used
      f[10] = e.key in written
      f[11] = 1 / (1 + i)
      f[12] = e.turn == last_turn
      f[13] = e.source == "user"
      f[14] = e.source == "derived"
      f[15] = min(rarity[i], 4) / 4
      f[16] = named[i]
      f[17] = named[i] >= 1
      f[18] = rarity[i] > 0 and rarity[i] == most_rare
      f[19] = named[i] > 0 and named[i] == most_named
      f[20] = first is not None and actions.related(e, first)
      f[21] = related[i]
      f[22] = aligned is not None and same[i]
      f[23] = sims[i]
      f[24] = sims[i] >= max(sims)
      free = e.fields.get("available")
      f[25], f[26] = free == "True", free == "False"
      if aligned is not None and same[i]:
        f[27:33] = _change(e, aligned, user)
      top = (
        max((len(bags[i] & ws), k) for k, ws in enumerate(lines))
        if (lines and bags[i])
        else (0, 0)
      )
      if top[0] > 0:
        f[33] = len(verbs & lines[top[1]]) > 0
        f[34] = min(sum(1 / counts[w] for w in bags[i] & lines[top[1]]), 4) / 4
      f[35] = i == choice.position
      f[36] = related[i] and not f[9]
      f[37] = f[18] * related[i]
      f[38] = f[17] * related[i]
      f[39] = f[22] * f[18]
      f[40] = says_all * related[i]
      f[41] = bool(without) and _named(parts[i], without) >= 1
      f[42] = sum(_named([p], user) >= 1 for p in parts[i]) > 1
      for k in range(4):  # an extreme, and whether its words were said
        f[43 + k] = extremes[i][k]
        f[47 + k] = extremes[i][k] and cues[k]
      f[51] = f[25] * f[47]
      f[52] = f[25] * f[48]
      f[53] = f[25] * f[49]
      f[54] = f[17] * (not f[10])
      f[55] = f[22] * f[25] * f[32]
      m = found.get(e.key, mentions.NOWHERE)
      f[56] = bool(m.scope)
      f[57] = verb in m.verbs
      f[58] = bool(m.verbs) and verb not in m.verbs
      f[59] = f[56] * related[i] * (not f[10])
      f[60] = f[57] * related[i]
      status = e.fields.get("status", "")
      f[61] = bool(status) and status in state.act.tool
      if e.type == "order":
        inside = [
          x for x in open_items if x.type == "item" and actions.related(x, e)
        ]
        f[62] = bool(inside)
        f[63] = min(len(inside), 3) / 3
        f[64] = any(verb in found[x.key].verbs for x in inside)
        f[65] = f[61] * f[64]
        f[66] = f[61] * f[62]
        f[67] = f[61] * (not f[10])
      if aligned is not None and same[i]:
        f[68:73] = _change(e, aligned, about_words)[1:]
        up, down = _compared(e, aligned)
        f[73] = up and cues[0]
        f[74] = down and cues[1]
        f[75] = up and not cues[0]
        f[76] = down and not cues[1]
        f[77] = f[25] * f[70] * (not f[30])
      for k, v in e.fields.items():
        if len(v) < 24 and not re.search(r"\d\d", v):
          f[NUMERIC + zlib.crc32(f"{k}={v}".encode()) % BUCKETS] += 1
    return out

  def _wished(self, state, choice, aligned, out) -> None:
    """How the options agree with the reading of what the user wants."""
    if not self.space.reads:
      return
    options, slot, act = choice.options, choice.slot, state.act
    out[:, 86] = WISH * np.array(intents.hint(state, choice))
    wishes = [w for w in reading.open_wishes(state) if w.act == act.name]
    orders = [w.order.key for w in wishes]
    picked = {e.key for es in state.picks.values() for e in es}
    own = next((w for w in wishes if w.order.key in picked), None)
    mine = {e.key for e in own.items} if own else set()
    unopened = [p.key for p in reading.unopened(state)]
    text = reading.read(state).text
    score = None
    if slot.type == "variant" and aligned is not None:
      scope = reading.read(state).scopes.get(aligned.key) or text
      like = reading.like_of(state, aligned, scope)
      score = reading.variant_scores(options, aligned, scope, like)
    slip = r"\bby (mistake|accident)|accidental|mistaken"
    mistake = bool(re.search(slip, text))
    best = None
    if slot.type in ("person", "zip", "email", "user"):
      best = reading.caller(state, options)
    elif slot.type == "address":
      best = reading.address(state, options, text)
    for i, e in enumerate(options):
      f = out[i]
      if slot.type in ("order", "reservation", "user") and wishes:
        f[78] = WISH * (e.key == orders[0])
        f[79] = WISH * (e.key in orders)
      elif slot.type in ("item", "number") and own:
        f[80] = WISH * (e.key in mine)
        f[81] = WISH * (e is not actions.STOP and e.key not in mine)
        f[82] = WISH * (e is actions.STOP and mine <= picked)
        f[83] = WISH * (e is actions.STOP and not mine <= picked)
      elif score is not None:
        f[84] = WISH * (score[i] == max(score))
        f[85] = WISH / 2 * max(score[i] - max(score), -4)
      elif slot.type == "product":
        f[87] = WISH * (e.key in unopened)
        f[88] = WISH * (e.key in unopened[:1])
      if slot.name == "reason":
        f[90] = WISH * (("mistake" in str(e.value)) == mistake)
      f[95] = WISH * (i == best)
      f[89] = WISH * ((act.name, e.key) in state.failed)
      if slot.type == "value" and e is not actions.STOP:
        user = _user_words(state)
        kind = _named([words(e.fields.get("kind", ""))], user)
        name = _named([words(e.fields.get("name", ""))], user)
        f[91:94] = WISH / 2 * np.array([kind, kind * name, name])
        f[94] = WISH * (kind >= 1) * (name >= 1)

  def _similarity(self, state, options) -> list[float]:
    """max over user sentences of cos(candidate's words, sentence)."""
    texts = [_text(e) for e in options]
    if not state.user_texts or not any(texts):
      return [0.0] * len(options)
    said = self.vectors(state.user_texts)[:, : self.linear]
    known = self.vectors([t or "nothing" for t in texts])[:, : self.linear]
    return [
      float(s) if t else 0.0
      for s, t in zip((known @ said.T).max(1), texts, strict=True)
    ]


def _readable(state: actions.State) -> bool:
  """Things that wishes can be about have been seen, or a caller is sought."""
  return bool(
    state.seen.of("order") or state.seen.of("reservation")
    or state.seen.of("zip") or state.seen.of("person") or state.seen.of("email")
    or "say:ask:name_zip" in {name for name, _ in state.history}
  )  # fmt: skip


def flags(state: actions.State) -> np.ndarray:
  """Named facts that decide what comes next, float32[FLAGS]."""
  f = np.zeros(FLAGS, np.float32)
  said = {name for name, _ in state.history}
  f[0] = state.heard_out
  f[1] = "say:ask:details" in said
  f[2] = "say:confirm" in said
  f[8] = bool(state.errors) and state.errors[-1]
  f[9] = sum(state.errors) > 2
  f[10] = "say:inform" in said
  for k, topic in enumerate(TOPICS):
    f[20 + k] = any(topic.search(t.lower()) for t in state.user_texts)
  if not _readable(state):
    return WISH * f
  wishes, unopened = reading.open_wishes(state), reading.unopened(state)
  text = reading.read(state).text
  f[3] = bool(unopened)
  f[4] = bool(wishes)
  f[5] = bool(wishes) and state.heard_out and not unopened
  f[6] = bool(wishes) and "say:confirm" in said
  f[7] = not wishes and "say:confirm" in said
  ask = re.search(
    r"\b(know|how (much|many)|total|tracking|price of|ask)\b", text
  )
  f[11] = ask is not None
  f[12] = ask is not None and not f[10]
  f[13] = not state.seen.of("user")
  f[14] = bool(state.seen.of("email")) and not state.seen.of("user")
  f[15] = bool(state.history) and state.history[-1][0] == "say:confirm"
  f[16] = "say:ask:name_zip" in said and not state.seen.of("zip")
  f[17] = "say:ask:email" in said and not state.seen.of("email")
  known = state.seen.of("zip") and state.seen.of("person")
  f[18] = not state.seen.of("user") and bool(known)
  f[19] = bool(state.failed) and not state.seen.of("user")
  return WISH * f


def _untried(state: actions.State, act: actions.Act) -> bool:
  """Some slot has a candidate that this act has not been given yet."""
  for slot in act.slots:
    if slot.values or slot.type == "count":
      continue
    used = state.used.get((act.name, slot.name), set())
    if any(e.key not in used for e in state.seen.of(slot.type)):
      return True
  return False


def _bag(e: entities.Entity) -> set[str]:
  if "bag" not in e.memo:
    e.memo["bag"] = {
      w for k, v in e.fields.items() if k != "price" for w in words(v)
    }
  return e.memo["bag"]


def _bucket(text: str, n: int) -> int:
  return zlib.crc32(text.encode()) % n


def _mentions(state: actions.State) -> dict[str, mentions.Mention]:
  """Mentions of every item, order and reservation, kept while nothing new."""
  things = [
    e for t in ("item", "order", "reservation") for e in state.seen.of(t)
  ]
  stamp = (len(state.user_texts), len(things), state.turn)
  if state.memo.get("mentions", (None,))[0] != stamp:
    known = {e.key: mentions.surfaces(e) for e in things}
    state.memo["mentions"] = (stamp, mentions.find(state.user_texts, known))
  return state.memo["mentions"][1]


def _open_matters(state: actions.State):
  """(entity, status, mention) of what was named and not yet acted on.

  An item has the status of its order.
  """
  found = _mentions(state)
  done = state.written
  orders = {e.id: e.fields.get("status", "") for e in state.seen.of("order")}
  out = []
  for t in ("item", "order", "reservation"):
    for e in state.seen.of(t):
      if e.key in found and e.key not in done:
        status = e.fields.get("status") or e.fields.get("cabin", "")
        if t == "item":
          status = next((orders[x] for x in e.links if x in orders), "")
        if not (
          t == "item" and any(entities.key_of(x) in done for x in e.links)
        ):
          out.append((e, status, found[e.key]))
  return out


def _compared(new: entities.Entity, old: entities.Entity) -> tuple[bool, bool]:
  """(some size above the old one's, some size below it)."""
  skip = ("name", "price", "available", "status")
  pairs = [
    (_magnitude(v), _magnitude(old.fields[k]))
    for k, v in new.fields.items()
    if k in old.fields and k not in skip
  ]
  known = [(a, b) for a, b in pairs if a is not None and b is not None]
  return any(a > b for a, b in known), any(a < b for a, b in known)


def _user_words(state: actions.State) -> set[str]:
  return {w for t in state.user_texts for w in words(t)}


def _parts(e: entities.Entity) -> list[tuple[str, ...]]:
  """The names an entity goes by; an order goes by those of its items."""
  if "parts" not in e.memo:
    e.memo["parts"] = _make_parts(e)
  return e.memo["parts"]


def _make_parts(e: entities.Entity) -> list[tuple[str, ...]]:
  if isinstance(e.value, dict) and "first_name" in e.value:
    return [words(f"{e.value['first_name']} {e.value['last_name']}")]
  text = e.fields.get("name") or e.fields.get("value") or ""
  if text:
    return [words(p) for p in text.split("; ")]
  return [tuple(sorted(_bag(e))[:12])]


def _named(parts: Sequence[Sequence[str]], user: set[str]) -> float:
  """The largest share of a name's words that the user said."""
  return max(
    (
      1.0
      if p[-1] in user and len(p) > 1
      else sum(w in user for w in p) / len(p)
      for p in parts
      if p
    ),
    default=0.0,
  )


def _text(e: entities.Entity) -> str:
  """The words of a candidate that the frozen LLM reads: no numbers, no ids."""
  keep = [
    v
    for k, v in e.fields.items()
    if k not in ("price", "available") and not re.search(r"\d", v)
  ]
  return " ".join(keep)[:120]


def _shares(e: entities.Entity, item: entities.Entity) -> bool:
  """A variant of the item's product."""
  return bool(e.links & item.links) and "options" not in e.fields


def _magnitude(text: str) -> float | None:
  """The number in an option's value: 10x, 1000ml, 15-inch, high."""
  scale = {"low": 0.0, "small": 0.0, "medium": 1.0, "large": 2.0, "high": 2.0}
  if text.lower() in scale:
    return scale[text.lower()]
  m = re.search(r"\d+(?:\.\d+)?", text)
  return float(m.group()) if m else None


def _extremes(options, same, old) -> list[tuple[bool, bool, bool, bool]]:
  """(largest or above the old, smallest or below it, cheapest, dearest).

  Among available comparable options; sizes are the numbers of option values.
  """
  ok = [
    s and e.fields.get("available") != "False" and e is not actions.STOP
    for e, s in zip(options, same, strict=True)
  ]
  price = [
    _magnitude(e.fields.get("price", "")) if k else None
    for e, k in zip(options, ok, strict=True)
  ]
  known = [p for p in price if p is not None]
  skip = ("name", "price", "available", "status", "value", "kind")
  sizes: dict[str, list[float]] = {}
  for e, k in zip(options, ok, strict=True):
    for key, v in e.fields.items():
      if k and key not in skip and (m := _magnitude(v)) is not None:
        sizes.setdefault(key, []).append(m)
  out = []
  for e, k, p in zip(options, ok, price, strict=True):
    big = small = False
    for key, v in e.fields.items() if k else ():
      m = _magnitude(v) if key in sizes else None
      if m is None or max(sizes[key]) == min(sizes[key]):
        continue
      big |= m == max(sizes[key])
      small |= m == min(sizes[key])
    out.append(
      (
        big,
        small,
        p is not None and p == min(known),
        p is not None and p == max(known),
      )
    )
  return out


def _change(new: entities.Entity, old: entities.Entity, user: set[str]):
  """Options kept, changed, changed to what the user named, changed unasked."""
  skip = ("name", "price", "available", "status")
  keys = [k for k in new.fields if k in old.fields and k not in skip]
  changed = [k for k in keys if new.fields[k] != old.fields[k]]
  asked = [
    k
    for k in changed
    if (w := set(words(new.fields[k])) - set(words(old.fields[k])))
    and w <= user
  ]
  n = max(len(keys), 1)
  cheaper = float(new.fields.get("price", 0)) < float(
    old.fields.get("price", 0)
  )
  return (
    (n - len(changed)) / n,
    not changed,
    len(asked) / max(len(changed), 1),
    (len(changed) - len(asked)) / n,
    cheaper,
    len(asked) == len(changed) > 0,
  )
