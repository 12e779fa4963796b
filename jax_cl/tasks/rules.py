"""What the hand-written rules score alone, with nothing learned.

An agent that always takes the hinted option (`intents.hint`), after the script
by which demonstrations begin (`demos.approach`); telecom's is its manual. It
reads no gold action. Beside a learner that has the hints as features, its
score says how much of the learner's is the rules' and how much was learned:
who calls, when to look up what, and when not to trust a hint are learned.
"""

from __future__ import annotations

from jax_cl.tasks import actions, demos
from jax_cl.tasks import env as env_lib
from jax_cl.tasks.language import intents, reading
from jax_cl.types import Episode, TaskSpec, Turn

MAX_ACTS = 40  # beyond the script


def run(spec: TaskSpec, env: env_lib.Env, state: actions.State) -> Episode:
  """One episode of the rules alone."""
  if spec.base_domain not in ("airline", "retail"):
    return demos.run(spec, env, state)  # no gold: the manual
  demos.observe(env, state, env.reset())
  for name, arguments in demos.approach(spec.base_domain, state):
    try:
      path = state.path_to(name, arguments)
    except actions.Unexpressible:
      continue
    turn = None
    for index in path:
      turn = state.choose(index)
    _step(env, state, turn)
    if env.done:
      return env.episode()
  for _ in range(MAX_ACTS):
    _step(env, state, _act(state))
    if env.done:
      break
  while not env.done:
    env.step(Turn("assistant", content="Is there anything else?"))
  return env.episode()


def _step(env, state: actions.State, turn: Turn | None) -> None:
  assert turn is not None
  demos.observe(env, state, env.step(turn))


def _act(state: actions.State) -> Turn:
  """The intended act with hinted arguments, else the end of the call."""
  coming = intents.intents(state)
  at = state.space.index
  act = at[coming[0].act] if coming else at["say:done"]
  if not state.choice().mask[act]:
    act = at["say:done"]
  turn = state.choose(act)
  while turn is None:
    turn = state.choose(_pick(state, state.choice()))
  return turn


def _pick(state: actions.State, choice: actions.Choice) -> int:
  """The hinted option; without a hint, the one that scores best by rule."""
  hints = intents.hint(state, choice)
  if max(hints) > 0:
    return hints.index(max(hints))
  assert choice.slot is not None
  if choice.slot.type == "variant":
    return _variant(state, choice)
  if choice.slot.type == "address":
    said = reading.read(state).text
    return reading.address(state, choice.options, said)
  return _reason(state, choice) if choice.slot.name == "reason" else 0


def _variant(state: actions.State, choice: actions.Choice) -> int:
  """The one that answers best what was said of the item it replaces."""
  items = [e for e in state.picks.get("item_ids", ()) if e is not actions.STOP]
  if choice.position >= len(items):
    return 0
  old = items[choice.position]
  said = reading.read(state)
  scope = said.scopes.get(old.key) or said.text
  like = reading.like_of(state, old, scope)
  score = reading.variant_scores(choice.options, old, scope, like)
  return score.index(max(score))


def _reason(state: actions.State, choice: actions.Choice) -> int:
  """ "By mistake", if that was said; else what is offered first of the rest."""
  slip = reading.slipped(state)
  return next(
    (i for i, e in enumerate(choice.options)
     if ("mistake" in str(e.value)) == slip), 0,
  )  # fmt: skip
