"""Policies to compare a learner with: floors, chance, and two ceilings.

`make(name, seed)` returns a factory; a policy lives for one episode and is
called with the environment: `policy(env) -> Turn`.

  do_nothing       says that it is done, and nothing else
  always_transfer  hands every user to a human
  random           schema-valid calls on ids it has seen
  oracle           performs the gold actions; the only one that sees them
  telecom_manual   follows tau2's tech-support manual; sees what an agent sees
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jax_cl import names
from jax_cl.tasks import speech, stream, telecom_manual
from jax_cl.tasks.env import Env
from jax_cl.tasks.speech import Act
from jax_cl.types import ToolSchema, Turn

Policy = Callable[[Env], Turn]


def make(name: str, seed: int = 0) -> Callable[[], Policy]:
  """A factory of policies, one for each episode."""
  names.check("reference policy", name, POLICIES)
  acts = POLICIES[name]
  # Each episode of a seed differs, and the whole sequence repeats.
  seeds = random.Random(seed)
  return lambda: _Acting(acts, random.Random(seeds.getrandbits(32)))


class _Acting:
  """Turns a generator of acts into a policy; when it ends, "done" goes on."""

  def __init__(
    self,
    acts: Callable[[Env, random.Random], Iterator[Act]],
    rng: random.Random,
  ):
    self._make, self._rng = acts, rng
    self._acts: Iterator[Act] | None = None
    self._calls = 0

  def __call__(self, env: Env) -> Turn:
    if self._acts is None:
      self._acts = self._make(env, self._rng)
    act = next(self._acts, Act.message("done"))
    self._calls += 1
    return speech.turn(act, env.spec.solo, f"call_{self._calls}")


def do_nothing(env: Env, rng: random.Random) -> Iterator[Act]:
  """Lets the user stop. tau2's table of floors calls this do-nothing."""
  yield Act.message("done")


_TRANSFER = Act(
  "agent", "transfer_to_human_agents", {"summary": telecom_manual.SUMMARY}
)


def always_transfer(env: Env, rng: random.Random) -> Iterator[Act]:
  yield _TRANSFER
  yield Act.message("transfer")


def oracle(env: Env, rng: random.Random) -> Iterator[Act]:
  """The gold actions in their order, then what is to be communicated.

  Writes are confirmed first, the user's actions are asked for (in solo mode
  called). A transfer is announced at the end, when everything else is said.
  """
  criteria = stream.task(env.spec).evaluation_criteria
  kinds = {t.name: t.kind for t in env.domain.tools}
  transferred = False
  for action in (criteria and criteria.actions) or ():
    by = "user" if action.requestor == "user" else "agent"
    if by == "agent" and kinds.get(action.name) == "write":
      if not env.spec.solo:
        yield Act.message("confirm", action.name)
    transferred |= action.name == _TRANSFER.name
    yield Act(by, action.name, action.arguments)
  told = list((criteria and criteria.communicate_info) or ())
  for i in range(0, len(told), 3):
    if not env.spec.solo:
      yield Act.message("inform", *told[i : i + 3])
  if transferred:
    yield Act.message("transfer")


def manual(env: Env, rng: random.Random) -> Iterator[Act]:
  """Telecom only: see `telecom_manual`."""
  if env.spec.base_domain != "telecom":
    raise ValueError(f"telecom_manual is for telecom, not {env.spec.domain!r}")
  facts, read = telecom_manual.begin(env.ticket), 0
  while True:
    turns = env.turns
    for turn in turns[read:]:
      telecom_manual.read_turn(turn, facts)
    read = len(turns)
    yield telecom_manual.next_act(facts)


def wander(env: Env, rng: random.Random) -> Iterator[Act]:
  """Up to twelve random calls or requests, then the end.

  It asks who the user is first, so that there are ids to choose from.
  """
  if not env.spec.solo:
    yield Act.message("ask:identity")
  tools = [*env.domain.tools, *env.domain.user_tools]
  tools = [t for t in tools if t.name != _TRANSFER.name]
  for _ in range(rng.randint(1, 12)):
    tool = rng.choice(tools)
    words = [t.content or "" for t in env.turns] + [env.ticket or ""]
    arguments = _fill(tool, " ".join(words), rng)
    if tool.owner == "user" and tool.name not in speech.REQUESTS:
      continue  # set_apn_settings takes an object that nobody says
    yield Act("user" if tool.owner == "user" else "agent", tool.name, arguments)


# What ids look like, by how a parameter's name ends; the last is for all.
_IDS: Mapping[str, str] = {
  "user_id": r"\b[a-z]+_[a-z]+_\d+\b|\buser_\d\b",
  "order_id": r"#W\d+",
  "product_id": r"\b\d{10}\b",
  "item_id": r"\b\d{10}\b",
  "item_ids": r"\b\d{10}\b",
  "reservation_id": r"\b(?=[A-Z0-9]*[A-Z])[A-Z0-9]{6}\b",
  "payment_id": r"\b(?:credit_card|gift_card|certificate)_\d+",
  "payment_method_id": r"\b(?:credit_card|gift_card|paypal)_\d+",
  "flight_number": r"\bHAT\d{3}\b",
  "date": r"\b20\d\d-\d\d-\d\d\b",
  "origin": r"\b[A-Z]{3}\b",
  "destination": r"\b[A-Z]{3}\b",
  "email": r"[\w.]+@[\w.]+",
  "zip": r"\b\d{5}\b",
  "phone_number": r"\b\d{3}-\d{3}-\d{4}\b",
  "customer_id": r"\bC\d{4}\b",
  "line_id": r"\bL\d{4}\b",
  "bill_id": r"\bB\d{4,}\b",
  "task_id": r"\btask_\d\b",
  "id": r"\b[A-Z]\d{4}\b",
  "": r"#?[A-Za-z_]*\d[\w@.-]*",
}


def _fill(tool: ToolSchema, text: str, rng: random.Random) -> dict[str, Any]:
  """Random arguments that fit the tool's schema: ids seen in `text`."""
  root = tool.parameters
  names = root.get("required", ())
  return {n: _value(n, root["properties"][n], root, text, rng) for n in names}


def _value(
  name: str,
  schema: Mapping[str, Any],
  root: Mapping[str, Any],
  text: str,
  rng: random.Random,
) -> Any:
  """A random value for the parameter `name`, which fits its JSON schema."""
  if "$ref" in schema:
    schema = root["$defs"][schema["$ref"].rsplit("/", 1)[-1]]
  if "anyOf" in schema:
    return _value(name, rng.choice(schema["anyOf"]), root, text, rng)
  if choices := schema.get("enum") or speech.CHOICES.get(name):
    return rng.choice(choices)
  kind = schema.get("type")
  if kind == "array":
    items = schema.get("items", {})
    count = rng.randint(1, 2)
    return [_value(name, items, root, text, rng) for _ in range(count)]
  if kind == "object":
    fields = schema.get("properties", {})
    return {k: _value(k, v, root, text, rng) for k, v in fields.items()}
  if kind == "boolean":
    return rng.random() < 0.5
  if kind == "integer":
    return rng.randint(0, 3)
  if kind == "number":
    return round(rng.uniform(0, 100), 2)
  if kind == "null":
    return None
  pattern = _IDS.get(name) or _IDS[""]
  seen = re.findall(pattern, text) or re.findall(_IDS[""], text)
  return rng.choice(sorted(set(seen)) or ["unknown"])


POLICIES = {
  "do_nothing": do_nothing,
  "always_transfer": always_transfer,
  "random": wander,
  "oracle": oracle,
  "telecom_manual": manual,
}
