"""What the scorer sees of an episode: phi(s), and a row for each option.

phi(s) concatenates pooled hidden states of a frozen LLM over the texts of the
episode, one block a role: what the user said, the latest user turn, the latest
tool result, the standing reports, what was done, what was done last, and which
acts still have an untried argument. Every text goes through the LLM by itself
and is cached, so that repeated text costs nothing. Then come a ledger of open
matters and a few named facts.

chi(s, i) describes an act (`chi.py`), psi(s, c) a candidate of a pointer
(`psi.py`). Nothing here reads a task: only `actions.State`, which only saw the
dialogue.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np

from jax_cl.agents import chi, dialogue, psi
from jax_cl.agents.dialogue import WISH
from jax_cl.tasks import actions, entities
from jax_cl.tasks.language import reading
from jax_cl.types import Decision

BLOCKS = (
  "user", "last_user", "last_result", "reports", "last_act", "done", "open",
)  # fmt: skip
# Sums are divided by a constant rather than by their length: a mean over sixty
# report lines would make each line's weight sixty times harder to learn.
SCALE = {"reports": 6.0, "done": 2.0, "open": 2.0}
LEDGER = 32  # hashed (type, status) of what was named and not yet acted on
FLAGS = 23  # named facts about the episode
# What a call is about: trips, parcels, phones.
TOPICS = (
  re.compile(
    r"\b(flights?|reservations?|trips?|fly|tickets?|airline|booked)\b"
  ),
  re.compile(r"\b(orders?|ordered|items?|exchange|return|delivered|bought)\b"),
  re.compile(r"\b(phone|data|mms|signal|internet|sim|service|line)\b"),
)
_QUESTION = re.compile(
  r"\b(know|how (much|many)|total|tracking|price of|ask)\b"
)


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
    self.acts = chi.Acts(space)
    self.act_vectors = self.vectors([a.text for a in space.acts])
    self.n_options = max(len(space), actions.MAX_CANDIDATES)
    self.n_phi = len(BLOCKS) * self.width + LEDGER + FLAGS + 1

  @property
  def spec(self) -> dict[str, tuple[tuple[int, ...], type]]:
    """Leaf -> (shape, dtype) of one row of obs."""
    return {
      "phi": ((self.n_phi,), np.float32),
      "cand": ((self.n_options, psi.WIDTH), np.float32),
      "mask": ((self.n_options,), np.bool_),
      "slot": ((), np.int32),  # -1 for the tool head
      "heat": ((), np.float32),  # log of the temperature it is drawn at
    }

  # ------------------------------------------------------------------- rows
  def obs(
    self, state: actions.State, choice: actions.Choice
  ) -> dict[str, np.ndarray]:
    """One row of `Batch.obs` for a choice."""
    return self.padded(self.bare(state, choice))

  def bare(
    self, state: actions.State, choice: actions.Choice
  ) -> dict[str, np.ndarray]:
    """The row with the options there are: a fifth of the size, to be kept."""
    n = len(choice.options)
    mask = np.array(choice.mask, np.bool_)
    phi = np.zeros(self.n_phi, np.float32)
    cand = np.empty((n, psi.WIDTH), np.float32)
    if choice.slot is None:
      slot = -1
      phi[:] = self.phi(state, mask)
      cand[:] = chi.chi(self.acts, state, mask, self._acts_like(state))
    else:
      assert state.act is not None
      slot = self.space.slot_index[(state.act.name, choice.slot.name)]
      cand[:] = psi.psi(state, choice, self._options_like(state, choice))
    return {
      "phi": phi,
      "cand": cand,
      "mask": mask,
      "slot": np.asarray(slot, np.int32),
      "heat": np.zeros((), np.float32),
    }

  def padded(self, row: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A bare row with room for as many options as any choice has."""
    n = len(row["mask"])
    cand = np.zeros((self.n_options, psi.WIDTH), np.float32)
    mask = np.zeros(self.n_options, np.bool_)
    cand[:n], mask[:n] = row["cand"], row["mask"]
    return {**row, "cand": cand, "mask": mask}

  def decision(self, state, choice, obs, action: int, logp: float) -> Decision:
    head = "tool" if choice.slot is None else choice.slot.type
    return Decision(obs, action, logp, head)

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

  def prefetch(
    self, states: Sequence[actions.State], choices: Sequence[actions.Choice]
  ) -> None:
    """Embeds what several episodes will ask for in one call."""
    texts: dict[str, None] = {}
    for s, c in zip(states, choices, strict=True):
      texts.update(dict.fromkeys(s.user_texts))
      if c.slot is None:
        texts.update(dict.fromkeys(s.last_result))
        for report in s.reports.values():
          texts.update(dict.fromkeys(report))
      else:
        texts.update(dict.fromkeys(_text(e) or "nothing" for e in c.options))
    self.vectors([t for t in texts if t not in self.rows])

  # ---------------------------------------------------------------- phi(s)
  def phi(self, state: actions.State, legal: np.ndarray) -> np.ndarray:
    """float32[blocks * width + ledger + flags + 1], the last entry is 1."""
    view = dialogue.view(state)
    reports = [t for ts in state.reports.values() for t in ts]
    blocks = np.zeros((len(BLOCKS), self.width), np.float32)
    blocks[0] = self._user(view.said)
    blocks[1] = self._pooled("last_user", state.last_user)
    blocks[2] = self._pooled("last_result", state.last_result)
    blocks[3] = self._pooled("reports", reports)
    if state.history:
      last = self.act_vectors[self.space.index[state.history[-1][0]]]
      blocks[4] = -last if state.errors[-1] else last  # it failed: the opposite
    done = sorted(self.space.index[name] for name in view.acts)
    untried = [
      i
      for i, act in enumerate(self.space.acts)
      if legal[i] and act.slots and view.untried(act)
    ]
    for k, rows in ((5, done), (6, untried)):
      if rows:
        blocks[k] = self.act_vectors[rows].sum(0) / SCALE[BLOCKS[k]]
    one = np.ones(1, np.float32)
    return np.concatenate([blocks.ravel(), ledger(view), flags(view), one])

  def _user(self, said: dialogue.Said) -> np.ndarray:
    """The block of all that the user said, and their lines for `_like`."""
    if "block" not in said.kept:
      said.kept["block"] = self._pooled("user", said.texts)
    return said.kept["block"]

  def _pooled(self, block: str, texts: Sequence[str]) -> np.ndarray:
    if not texts:
      return np.zeros(self.width, np.float32)
    v, scale = self.vectors(texts), SCALE.get(block)
    return v.sum(0) / scale if scale else v.mean(0) * 2.0

  # ------------------------------------------------------------- likeness
  def _like(self, z_ND: np.ndarray, said: dialogue.Said) -> np.ndarray:
    """float32[N], max over the user's lines of cos(z, line)."""
    if "lines" not in said.kept:
      lines = self.vectors(said.texts)[:, : self.linear]
      said.kept["lines"] = lines.T
    return (z_ND[:, : self.linear] @ said.kept["lines"]).max(1)

  def _acts_like(self, state: actions.State) -> np.ndarray:
    said = dialogue.said(state)
    if not said.texts:
      return np.zeros(len(self.space), np.float32)
    if "acts_like" not in said.kept:
      said.kept["acts_like"] = self._like(self.act_vectors, said)
    return said.kept["acts_like"]

  def _options_like(self, state, choice: actions.Choice) -> np.ndarray:
    """0 for what has no words."""
    texts = [_text(e) for e in choice.options]
    said = dialogue.said(state)
    if not said.texts or not any(texts):
      return np.zeros(len(texts), np.float32)
    like = self._like(self.vectors([t or "nothing" for t in texts]), said)
    return np.where([bool(t) for t in texts], like, 0)


def _text(e: entities.Entity) -> str:
  """The words of a candidate that the frozen LLM reads: no numbers, no ids."""
  if "text" not in e.memo:
    e.memo["text"] = " ".join(
      v
      for k, v in e.fields.items()
      if k not in ("price", "available") and not re.search(r"\d", v)
    )[:120]
  return e.memo["text"]


def ledger(view: dialogue.View) -> np.ndarray:
  """What the user named and nothing has been done with, by type and status."""
  out = np.zeros(LEDGER, np.float32)
  bucket = lambda text: zlib.crc32(text.encode()) % LEDGER
  for e, status, mention in view.matters:
    out[bucket(f"{e.type}={status}")] = 1
    for verb in mention.verbs:
      out[bucket(f"{verb}:{status}")] = 1
  return out


def flags(view: dialogue.View) -> np.ndarray:
  """Named facts that decide what comes next, float32[FLAGS]."""
  f = np.zeros(FLAGS, np.float32)
  state, acts = view.state, view.acts
  f[0] = state.heard_out
  f[1] = "say:ask:details" in acts
  f[2] = "say:confirm" in acts
  f[8] = bool(state.errors) and state.errors[-1]
  f[9] = sum(state.errors) > 2
  f[10] = "say:inform" in acts
  f[20:] = _topics(view.said)
  if _readable(view):
    _wish_flags(f, view)
    _caller_flags(f, view)
  return WISH * f


def _topics(said: dialogue.Said) -> list[bool]:
  if "topics" not in said.kept:
    low = "\n".join(said.texts).lower()
    said.kept["topics"] = [bool(t.search(low)) for t in TOPICS]
  return said.kept["topics"]


def _readable(view: dialogue.View) -> bool:
  """Things that wishes can be about have been seen, or a caller is sought."""
  things = ("order", "reservation", "zip", "person", "email")
  return "say:ask:name_zip" in view.acts or any(
    view.state.seen.of(t) for t in things
  )


def _wish_flags(f: np.ndarray, view: dialogue.View) -> None:
  state, acts, wishes = view.state, view.acts, view.wishes
  asks = bool(_QUESTION.search(reading.read(state).text))
  f[3] = bool(view.unopened)
  f[4] = bool(wishes)
  f[5] = bool(wishes) and state.heard_out and not view.unopened
  f[6] = bool(wishes) and "say:confirm" in acts
  f[7] = not wishes and "say:confirm" in acts
  f[11] = asks
  f[12] = asks and not f[10]
  f[15] = bool(state.history) and state.history[-1][0] == "say:confirm"


def _caller_flags(f: np.ndarray, view: dialogue.View) -> None:
  state, seen = view.state, view.state.seen
  user = bool(seen.of("user"))
  f[13] = not user
  f[14] = bool(seen.of("email")) and not user
  f[16] = "say:ask:name_zip" in view.acts and not seen.of("zip")
  f[17] = "say:ask:email" in view.acts and not seen.of("email")
  f[18] = not user and bool(seen.of("zip") and seen.of("person"))
  f[19] = bool(state.failed) and not user
