"""Demonstrations from gold actions of train tasks: look-ups first, then gold.

A demonstrator drives the same choices as a learner (`actions.State`), so every
decision of a demonstration is one the learner could have made: an action that
no sequence of choices makes is left out and reported. Steered so that what to
do next depends on what has been seen as far as it can: identify the user, open
everything the profile lists, hear the user out, ask and look up what the
dialogue calls for (`intents`), then act and tell what was asked for.

`run` accepts tasks of any split, because the ceiling of an agent confined to
these choices is measured on test tasks, too. `train_only` guards learning: it
refuses anything that is not of the train split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jax_cl.tasks import actions, stream, telecom_manual
from jax_cl.tasks import env as env_lib
from jax_cl.tasks.language import answers, intents, itineraries, reading
from jax_cl.types import Episode, TaskSpec, Turn

Plan = Iterator[tuple[str, Mapping[str, Any]]]
MAX_CLAUSES = 14  # times the user is asked for more
MAX_STEPS = 24  # questions and look-ups before anything is done


def train_only(specs: Iterable[TaskSpec]) -> tuple[TaskSpec, ...]:
  """The specs, or an error: nothing is learned from val or test tasks."""
  specs = tuple(specs)
  for s in specs:
    if s.split != "train":
      raise ValueError(
        f"task {s.task_id!r} of {s.domain} is a {s.split} task: "
        "demonstrations come from the train split alone"
      )
  return specs


def vocabulary(domain: stream.Domain) -> dict[str, tuple[Any, ...]]:
  """Constants of free-text parameters: "<tool>.<parameter>" -> values.

  Values of train gold that two or more train tasks use and that the domain's
  policy or schemas spell out. Val and test gold is not read.
  """
  texts = [domain.policy, *(t.description for t in domain.tools)]
  texts += [t.description for t in domain.user_tools]
  rules = " ".join(texts).lower()
  groups = {f for fields in actions.GROUPS.values() for f in fields}
  pointed = {*actions.PARAMS, *actions.CONSTANTS, *groups}
  uses: dict[tuple[str, Any], set[str]] = {}
  for spec in domain.splits["train"]:
    for action in gold(spec):
      for name, value in action.arguments.items():
        if isinstance(value, str) and name not in pointed:
          uses.setdefault((f"{action.name}.{name}", value), set()).add(
            spec.task_id
          )
  out: dict[str, list[Any]] = {}
  for (name, value), tasks in uses.items():
    if len(tasks) > 1 and value.lower() in rules:
      out.setdefault(name, []).append(value)
  return {k: tuple(sorted(v)) for k, v in out.items()}


def gold(spec: TaskSpec) -> list[Any]:
  """tau2's gold actions of a task."""
  criteria = stream.task(spec).evaluation_criteria
  return list(criteria.actions or ()) if criteria else []


def requires_write(spec: TaskSpec) -> bool:
  """Some gold action changes something."""
  domain = stream.load(spec.domain, solo=spec.solo)
  kinds = {t.name: t.kind for t in (*domain.tools, *domain.user_tools)}
  return any(kinds.get(a.name) == "write" for a in gold(spec))


class Taped(actions.State):
  """A state that can be gone through once more, without its environment."""

  def __init__(self, *args, **kwargs):
    super().__init__(*args, **kwargs)
    self._new = lambda: actions.State(*args, **kwargs)
    self._tape: list[tuple[Turn, ...] | int] = []
    self._marked: set[int] = set()

  def observe(self, turns: Iterable[Turn]) -> None:
    turns = tuple(turns)
    self._tape.append(turns)
    super().observe(turns)

  def choose(self, index: int) -> Turn | None:
    self._tape.append(index)
    return super().choose(index)

  def mark(self) -> None:
    """The choice that comes next will be told again."""
    self._marked.add(len(self._tape))

  def again(self) -> Iterator[tuple[actions.State, actions.Choice, int]]:
    """The marked choices, each with the state it was made in."""
    state = self._new()
    for n, event in enumerate(self._tape):
      if not isinstance(event, int):
        state.observe(event)
        continue
      if n in self._marked:
        yield state, state.choice(), event
      state.choose(event)


def run(
  spec: TaskSpec,
  env: env_lib.Env,
  state: actions.State,
) -> Episode:
  """One demonstration.

  A `Taped` state keeps the choices worth cloning. The episode's info holds
  "unexpressible": the actions no choice could make.
  """
  observe(env, state, env.reset())
  missing: list[str] = []
  plan = PLANS.get(spec.base_domain, _generic)(spec, env, state)
  stuck = 0
  for name, arguments in plan:
    if stuck > 8:
      break  # the plan insists on what cannot be said
    try:
      path = state.path_to(name, arguments)
    except actions.Unexpressible as e:
      missing.append(str(e))
      stuck += 1
      continue
    turn = None
    for index in path:
      if isinstance(state, Taped):
        if not _contradicts(state, state.choice(), index):
          state.mark()
      turn = state.choose(index)
    assert turn is not None, (name, arguments)
    observe(env, state, env.step(turn))
    if env.done:
      break
  info = {"unexpressible": tuple(missing), "demonstration": True}
  if not env.done:  # a plan that ends too early is data, not a crash
    return Episode(spec, env.turns, _unfinished(), "max_steps", (), info)
  return env.episode((), info)


def _contradicts(state, choice: actions.Choice, index: int) -> bool:
  """The choice is not what the dialogue seemed to ask for.

  See `reading.contradicts`: to clone it would teach not to listen.
  """
  if reading.contradicts(state, choice, index):
    return True
  hints = intents.hint(state, choice)
  return any(h > 0 for h in hints) and hints[index] <= 0


def _unfinished():
  from jax_cl.types import Verdict

  return Verdict(0.0, {}, (), "the plan ended before the episode")


def observe(
  env: env_lib.Env, state: actions.State, turns: Sequence[Turn]
) -> None:
  """Shows the state what happened; in solo mode, the ticket first."""
  if env.ticket is not None and not state.user_texts:
    state.read_ticket(env.ticket)
  state.observe(turns)


# ----------------------------------------------------------------------- plans
def _say(name: str, **arguments) -> tuple[str, dict[str, Any]]:
  return f"say:{name}", arguments


def _each(state: actions.State, type: str, tool: str, slot: str) -> Plan:
  """Opens every entity of a type, also those that turn up meanwhile."""
  while True:
    used = state.used.get((tool, slot), set())
    new = [e for e in state.seen.of(type) if e.key not in used]
    if not new:
      return
    before = len(used)
    yield tool, {slot: new[0].value}
    if len(state.used.get((tool, slot), ())) == before:
      return  # it could not be said


def _hear_out(state: actions.State) -> Plan:
  """Asks for details until the user has nothing new to say."""
  for _ in range(MAX_CLAUSES):
    before = len(state.user_texts)
    yield _say("ask:details")
    if len(state.user_texts) == before:
      return


def _prepare(state: actions.State) -> Plan:
  """Questions and look-ups that what was said calls for."""
  kinds = {a.name: a for a in state.space.acts}
  for _ in range(MAX_STEPS):
    coming = intents.intents(state)
    if not coming or coming[0].act in ("say:confirm", "say:inform", "say:done"):
      return
    if kinds[coming[0].act].write:
      return
    yield coming[0].act, coming[0].values


def _finish(env: env_lib.Env) -> Plan:
  while not env.done:
    yield _say("done")


def _informs(spec: TaskSpec, state: actions.State) -> Plan:
  """What was asked for as far as it was understood, then the rest of gold."""
  for _ in range(intents.MAX_INFORMS):
    said = answers.told(state)
    if not (values := _asked(state) or _left(spec, state, said)):
      return
    yield _say("inform", values=values[: actions.MAX_INFORM])
    if answers.told(state) == said:
      return  # it could not be said


def _asked(state: actions.State) -> list[str]:
  coming = intents.intents(state)
  if coming and coming[0].act == "say:inform":
    return list(coming[0].values["values"])
  return []


def _left(spec: TaskSpec, state: actions.State, said: set[str]) -> list[str]:
  criteria = stream.task(spec).evaluation_criteria
  wanted = list(criteria.communicate_info or ()) if criteria else []
  known = {str(e.value): e.value for e in state.seen.of("value")}
  return [
    known[v] for w in wanted if not any(w in x for x in said)
    for v in (w, f"{w}0") if v in known
  ]  # fmt: skip


def _act_on_gold(spec: TaskSpec, state: actions.State, reads: bool) -> Plan:
  """Gold actions in order, look-ups or the rest, each asked for once."""
  domain = stream.load(spec.domain, solo=spec.solo)
  kinds = {t.name: t.kind for t in domain.tools}
  asked = set(state.history)
  actions_ = gold(spec) if reads else _by_order(state, gold(spec))
  for a in actions_:
    if a.requestor != "assistant" or a.name == "calculate":
      continue
    if (kinds.get(a.name) == "read") != reads:
      continue
    call = (a.name, actions.entities.key_of(a.arguments))
    if reads and call in asked:
      continue
    asked.add(call)
    if a.name == "get_product_details" and not _known(state, a):
      listed = any(n == "list_all_product_types" for n, _ in state.history)
      if not listed:
        yield "list_all_product_types", {}
      if not _known(state, a):
        continue  # it is no product
    known = {k: v for k, v in actions.CONSTANTS.items() if k in a.arguments}
    yield a.name, {**_in_order(state, a.name, a.arguments), **known}
    if a.name == "transfer_to_human_agents":
      yield _say("transfer")


def _by_order(state: actions.State, gold_: Sequence[Any]) -> list[Any]:
  """Writes in one order: addresses first, then order by order as listed.

  Most of them commute; where one must come before another of the same order,
  gold has them in the order of this sort already.
  """
  place = list(state.seen.by_type.get("order", {}))

  def rank(a) -> tuple:
    key = actions.entities.key_of(a.arguments.get("order_id"))
    where = place.index(key) if key in place else len(place)
    return ("address" not in a.name, where)

  if not any("order_id" in a.arguments for a in gold_):
    return list(gold_)
  return sorted(gold_, key=rank)


def _in_order(
  state: actions.State, tool: str, arguments: Mapping[str, Any]
) -> dict:
  """Lists of items in the order of speaking, else of seeing, pairs kept.

  tau2 sorts these lists, so that order carries no reward; one order for all
  demonstrations makes the next pick a function of what was picked. But for
  pending orders, where tau2 adds up price differences without rounding: there
  the gold's own order stays.
  """
  out = dict(arguments)
  items = arguments.get("item_ids")
  if not isinstance(items, list) or tool.startswith("modify"):
    return out
  wishes = [
    w for w in reading.open_wishes(state)
    if (w.act, w.order.value) == (tool, arguments.get("order_id"))
  ]  # fmt: skip
  place = [e.key for w in wishes for e in w.items]
  place += list(state.seen.by_type.get("item", {}))

  def rank(item) -> int:
    key = actions.entities.key_of(item)
    return place.index(key) if key in place else 0

  order = sorted(range(len(items)), key=lambda j: rank(items[j]))
  for name in ("item_ids", "new_item_ids"):
    if isinstance(values := arguments.get(name), list):
      if len(values) == len(items):
        out[name] = [values[j] for j in order]
  return out


def _known(state: actions.State, action: Any) -> bool:
  key = actions.entities.key_of(action.arguments["product_id"])
  return key in state.seen.by_type.get("product", {})


def approach(domain: str, state: actions.State) -> Plan:
  """Who calls, what is on file, and what they say: it needs no gold."""
  if domain == "retail":
    yield from _identify(state)
  elif not state.seen.of("user"):
    yield _say("ask:user_id")
  yield from _each(state, "user", "get_user_details", "user_id")
  yield from _each(state, "order", "get_order_details", "order_id")
  tool = "get_reservation_details"
  yield from _each(state, "reservation", tool, "reservation_id")
  yield from _hear_out(state)


def _retail(spec: TaskSpec, env: env_lib.Env, state: actions.State) -> Plan:
  yield from approach(spec.base_domain, state)
  yield from _prepare(state)
  yield from _open_products(spec, state)
  if _asks_of_products(spec):
    yield from _act_on_gold(spec, state, reads=True)
  yield from _settle(spec, env, state)


def _asks_of_products(spec: TaskSpec) -> bool:
  """Gold looks at products though there is something to tell."""
  criteria = stream.task(spec).evaluation_criteria
  return bool(criteria and criteria.communicate_info)


def _identify(state: actions.State) -> Plan:
  """Asks who calls; tries every email, then the names, the latest first."""
  seen = state.seen
  if not seen.of("email"):
    yield _say("ask:name_zip")
  if not seen.of("email") and not (seen.of("zip") and seen.of("person")):
    yield _say("ask:email")
  for email in seen.of("email"):
    if seen.of("user"):
      return
    yield "find_user_id_by_email", {"email": email.value}
  if not seen.of("user") and not seen.of("zip"):
    yield _say("ask:name_zip")
  people = sorted(
    seen.of("person"), key=lambda e: (e.fields.get("role") != "self", -e.turn)
  )
  for zip_code in sorted(seen.of("zip"), key=lambda e: -e.turn):
    for person in people[:4]:
      if seen.of("user"):
        return
      arguments = {**person.value, "zip": zip_code.value}
      yield "find_user_id_by_name_zip", arguments


def _open_products(spec: TaskSpec, state: actions.State) -> Plan:
  """Products whose variants will or might be chosen, in the order seen."""
  items = state.seen.by_type.get("item", {})
  key = actions.entities.key_of
  links = {
    link
    for a in gold(spec) if "new_item_ids" in a.arguments
    for i in a.arguments["item_ids"] if key(i) in items
    for link in items[key(i)].links
  }  # fmt: skip
  tool, slot = "get_product_details", "product_id"
  links |= {product.id for product in reading.unopened(state)}
  for product in state.seen.of("product"):
    if product.id in links:
      if product.key not in state.used.get((tool, slot), set()):
        yield tool, {slot: product.value}


def _airline(spec: TaskSpec, env: env_lib.Env, state: actions.State) -> Plan:
  yield from approach(spec.base_domain, state)
  yield from _prepare(state)
  yield from _search(spec, state)
  yield from _settle(spec, env, state)


def _search(spec: TaskSpec, state: actions.State) -> Plan:
  """Searches for flights that gold books and that were not seen yet."""
  for a in gold(spec):
    for f in a.arguments.get("flights", ()):
      for origin, end in _ways(state, a.arguments):
        for tool in itineraries.SEARCHES:
          legs = state.seen.by_type.get("leg", {})
          found = (f["flight_number"], f["date"]) in state.seen.offers
          kept = a.name != "book_reservation"  # its price is known
          if found or (kept and actions.entities.key_of(f) in legs):
            break
          where = {"origin": origin, "destination": end, "date": f["date"]}
          if (tool, actions.entities.key_of(where)) not in state.history:
            yield tool, where


def _ways(
  state: actions.State, call: Mapping[str, Any]
) -> tuple[tuple[str, str], tuple[str, str]]:
  """(origin, destination) of a booking, there and back."""
  trip = state.seen.records.get(call.get("reservation_id", ""), call)
  there = trip["origin"], trip["destination"]
  return there, there[::-1]


def _settle(spec: TaskSpec, env: env_lib.Env, state: actions.State) -> Plan:
  """Confirms, does what is to be done, closes.

  Also where nothing is to be done: the user may take back what they asked.
  """
  yield _say("confirm")
  yield from _prepare(state)  # for what only now was asked for
  yield from _open_products(spec, state)
  yield from _act_on_gold(spec, state, reads=False)
  yield from _informs(spec, state)
  yield from _finish(env)


def _telecom(spec: TaskSpec, env: env_lib.Env, state: actions.State) -> Plan:
  """The tech-support manual, step by step, from what an agent sees."""
  facts, read = telecom_manual.begin(env.ticket), 0
  while True:
    turns = env.turns
    for turn in turns[read:]:
      telecom_manual.read_turn(turn, facts)
    read = len(turns)
    act = telecom_manual.next_act(facts)
    arguments = dict(act.arguments)
    for name in set(arguments) & set(actions.CONSTANTS):
      arguments[name] = actions.CONSTANTS[name]
    if act.by == "message":
      yield f"say:{act.name}", {}
    elif act.by == "user" and not spec.solo:
      yield f"request:{act.name}", arguments
    else:
      yield act.name, arguments


def _generic(spec: TaskSpec, env: env_lib.Env, state: actions.State) -> Plan:
  """Any other domain: hear the user out, gold in order, close."""
  if not spec.solo:
    yield from _hear_out(state)
  for reads in (True, False):
    yield from _act_on_gold(spec, state, reads)
  yield from _finish(env)


PLANS: dict[str, Callable[[TaskSpec, env_lib.Env, actions.State], Plan]] = {
  "retail": _retail,
  "airline": _airline,
  "telecom": _telecom,
}
