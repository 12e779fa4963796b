"""A domain's state: one shared parse, a private copy-on-write view an episode.

tau2 builds its environment anew for each episode and hashes whole databases
to compare two of them; over 99% of an airline or retail episode goes there.
Here the tools are tau2's own and run unchanged, but on a cheaper database:

  airline, retail, mock: each table is a `copy_on_write.Table`, a dict over
    the shared entities which hands out a private copy of an entity when it is
    first looked up, so that what changed is among what was looked up;
  telecom: small, full of lists, and every task begins with its own faults, so
    the state after the task's initialisation is kept and copied whole.

A domain that tau2's registry knows and this module does not runs on the stock
environment, with a warning.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jax_cl import names
from jax_cl.tasks.copy_on_write import Copier, Rows, Table, canonical, copier

Task = Any  # tau2.data_model.tasks.Task
Toolkit = Any  # tau2.environment.toolkit.ToolKitBase

MAX_EXPRESSION = 200  # characters; keeps `calculate` within microseconds


class _Classes(NamedTuple):
  """Where tau2 keeps a domain's parts, below `tau2.domains.<name>`."""

  db: str
  tools: str
  user_db: str = ""
  user_tools: str = ""


FAST = {
  "airline": _Classes("data_model.FlightDB", "tools.AirlineTools"),
  "retail": _Classes("data_model.RetailDB", "tools.RetailTools"),
  "telecom": _Classes(
    "data_model.TelecomDB",
    "tools.TelecomTools",
    "user_data_model.TelecomUserDB",
    "user_tools.TelecomUserTools",
  ),
  "mock": _Classes("data_model.MockDB", "tools.MockTools"),
}

# ------------------------------------------------------------ data directory

_data_dir: Path | None = None


def use_data_dir(data_dir: str | Path | None) -> None:
  """Reads domains from `data_dir/tau2/domains` instead of tau2's own data.

  One directory a process: tau2 computes its paths when a domain is imported,
  and a task is named by its domain and id alone. None keeps what is in use.
  """
  global _data_dir
  if data_dir is None:
    return
  path = Path(data_dir).expanduser().resolve()
  if _data_dir == path:
    return
  if not (path / "tau2" / "domains").is_dir():
    raise ValueError(
      f"data_dir={str(data_dir)!r} has no folder tau2/domains; name the "
      "directory that tau2 would be given as TAU2_DATA_DIR"
    )
  if any(m.startswith("tau2.domains.") for m in sys.modules):
    raise ValueError(
      f"data_dir={str(data_dir)!r} comes too late: this process has already "
      f"read tasks from {_data_dir or 'the installed tau2'}; name it in the "
      "first load, or start a new process"
    )
  import tau2.utils
  import tau2.utils.utils

  tau2.utils.DATA_DIR = tau2.utils.utils.DATA_DIR = path
  _data_dir = path


def read_json(path: Path) -> Any:
  try:
    with open(path, encoding="utf-8") as f:
      return json.load(f)
  except FileNotFoundError:
    raise ValueError(f"{path}: no such file") from None
  except (json.JSONDecodeError, UnicodeDecodeError) as e:
    raise ValueError(f"{path} does not parse as JSON: {e}") from None


# ---------------------------------------------------------------------- world


def safe_calculate(expression: str) -> str:
  """tau2's `calculate` without powers: its `9**9**7` takes 4.5 s."""
  if not all(char in "0123456789+-*/(). " for char in expression):
    raise ValueError("Invalid characters in expression")
  if "**" in expression:
    raise ValueError("Powers are not allowed in expression")
  if len(expression) > MAX_EXPRESSION:
    raise ValueError(f"Expression is longer than {MAX_EXPRESSION} characters")
  return str(round(float(eval(expression, {"__builtins__": None}, {})), 2))


class World:
  """The live state of one episode: tau2's tools over private data."""

  def __init__(self, environment: Any, safe: bool = True):
    self.environment = environment
    tools = environment.tools
    if safe and hasattr(tools, "calculate"):
      tools.calculate = safe_calculate

  def call(
    self, name: str, arguments: Mapping[str, Any], requestor: str
  ) -> tuple[str, bool]:
    """(content, error) of a tool call, as `Environment.get_response` has it."""
    environment = self.environment
    tool = self._tool(name, requestor)
    try:
      if tool is None or not _CLASH.isdisjoint(arguments):
        answer = environment.make_tool_call(
          name, requestor=requestor, **arguments
        )
      else:
        answer = tool(**arguments)
      environment.sync_tools()
    except Exception as e:
      return f"Error: {e}", True
    return environment.to_json_str(answer), False

  def _tool(self, name: str, requestor: str) -> Callable[..., Any] | None:
    """The tool that `Environment.make_tool_call` would find, without building
    dictionaries of bound methods; None is for tau2 to refuse."""
    environment = self.environment
    theirs = environment.user_tools
    if theirs is not None and (requestor == "user") != environment.solo_mode:
      if name in _tool_names(theirs):
        return getattr(theirs, name)
    if requestor == "assistant" and name in _tool_names(environment.tools):
      return getattr(environment.tools, name)
    return None

  def holds(self, assertion: Any) -> bool:
    """Whether an assertion is met. One that raises is not: what it asks for
    is missing (there tau2 raises, and the episode has no verdict)."""
    try:
      return self.environment.run_env_assertion(
        assertion, raise_assertion_error=False
      )
    except Exception:
      return False

  def state(self) -> Any:
    """Equal for two worlds of one task if and only if tau2's hashes are."""
    sides = (self.environment.tools, self.environment.user_tools)
    return [None if t is None else _state(t.db) for t in sides]


# Argument names that tau2's own dispatch would trip over.
_CLASH = frozenset({"tool_name", "requestor", "self"})


def _tool_names(toolkit: Toolkit) -> frozenset[str]:
  names = _names.get(type(toolkit))
  if names is None:
    names = _names[type(toolkit)] = frozenset(toolkit._func_tools)
  return names


_names: dict[type, frozenset[str]] = {}


def _state(db: Any) -> Any:
  fields = db.__dict__
  if not all(isinstance(x, Table) for x in fields.values()):
    return canonical(db)
  return {name: table.changes() for name, table in fields.items()}


# ---------------------------------------------------------------------- store


class _PerTask:
  """Values by task: by the object, since a recorded file may bring another
  form of a task that tau2 knows by the same id."""

  def __init__(self):
    self._held: dict[int, tuple[Task, Any]] = {}

  def get(self, task: Task, make: Callable[[Task], Any]) -> Any:
    hit = self._held.get(id(task))
    if hit is None:
      hit = self._held[id(task)] = (task, make(task))
    return hit[1]


class Store:
  """A domain's rules and data, shared by all of its episodes."""

  def __init__(self, name: str):
    self.name = name
    root = f"tau2.domains.{name}"
    self.module = importlib.import_module(f"{root}.environment")
    get = lambda path: getattr(
      importlib.import_module(f"{root}.{path.split('.')[0]}"),
      path.split(".")[1],
    )
    classes = FAST[name]
    paths = importlib.import_module(f"{root}.utils")
    path = lambda kind: Path(getattr(paths, f"{name.upper()}_{kind}_PATH"))
    self.folder = path("DB").parent
    self._tools = get(classes.tools)
    self._user_tools = get(classes.user_tools) if classes.user_tools else None
    self._db = _load_db(get(classes.db), path("DB"))
    self._user_db = (
      _load_db(get(classes.user_db), path("USER_DB"))
      if classes.user_db
      else None
    )
    self._tabled = all(isinstance(x, dict) for x in self._db.__dict__.values())
    self._rows = self._tables(self._db)
    self._prepared = _PerTask()
    self._copiers: dict[bytes, Copier] = {}
    self._gold = _PerTask()
    self._policies: dict[bool, str] = {}

  def tasks(self) -> dict[str, Any]:
    """Task id -> the task as JSON; `task` validates (telecom has 2,285)."""
    path = self.folder / "tasks.json"
    raw = read_json(path)
    raw = raw.get("tasks", raw) if isinstance(raw, dict) else raw
    if not isinstance(raw, list) or not all(
      isinstance(t, dict) and isinstance(t.get("id"), str) for t in raw
    ):
      raise ValueError(f"{path} does not parse: not a list of tasks with ids")
    return {t["id"]: t for t in raw}

  def task(self, raw: Any) -> Task:
    from tau2.data_model.tasks import Task

    try:
      return Task.model_validate(raw)
    except ValueError as e:
      raise ValueError(
        f"{self.folder / 'tasks.json'}: task {raw['id']!r} does not parse: {e}"
      ) from None

  def splits(self) -> dict[str, list[str]]:
    """tau2's official splits: name -> task ids."""
    path = self.folder / "split_tasks.json"
    return read_json(path) if path.exists() else {}

  def policy(self, solo: bool) -> str:
    if solo not in self._policies:
      extra = {"user_db": self._user_db} if self._user_db is not None else {}
      self._policies[solo] = self.module.get_environment(
        db=self._db, solo_mode=solo, **extra
      ).policy
    return self._policies[solo]

  def toolkits(self) -> tuple[Toolkit, Toolkit | None]:
    """Over the shared data, for their schemas alone."""
    user = self._user_tools(self._user_db) if self._user_tools else None
    return self._tools(self._db), user

  def world(self, task: Task, solo: bool, safe: bool = True) -> World:
    """The state before a task's first turn."""
    if self._tabled:
      return self._prepare(task, solo, safe)
    new_db, new_user_db, new_vpn, alias = self._prepared.get(
      task, self._snapshot
    )
    user_db = new_user_db()
    # `break_vpn` spoils the default through the phone: they stay one object.
    vpn = user_db.device.vpn_details if alias else new_vpn()
    return World(self._environment(new_db(), user_db, solo, vpn), safe)

  def gold(self, task: Task) -> Any:
    """`World.state` after the task's gold actions, as the evaluator has it."""
    return self._gold.get(task, self._play_gold)

  def _play_gold(self, task: Task) -> Any:
    # tau2 judges against a world that is never solo, swallows errors of gold
    # actions and does not synchronise after them.
    world = self.world(task, solo=False, safe=False)
    for action in task.evaluation_criteria.actions or []:
      try:
        world.environment.make_tool_call(
          tool_name=action.name,
          requestor=action.requestor,
          **action.arguments,
        )
      except Exception:
        pass
    return world.state()

  def _snapshot(self, task: Task) -> tuple[Any, ...]:
    environment = self._prepare(task, False, False).environment
    user = environment.user_tools
    vpn = user.default_vpn_details
    alias = user.db.device.vpn_details is vpn
    known = self._copiers
    return (
      copier(environment.tools.db, known),
      copier(user.db, known),
      copier(vpn, known),
      alias,
    )

  def _prepare(self, task: Task, solo: bool, safe: bool) -> World:
    initial = task.initial_state
    data = initial.initialization_data if initial else None
    if self._tabled:
      db = self._fork(self._base_rows(task, data))
    else:
      db = copier(self._db)()
    user_db = copier(self._user_db)()
    environment = self._environment(db, user_db, solo)
    if data is not None and not self._tabled:
      if data.agent_data is not None:
        environment.tools.update_db(data.agent_data)
      if data.user_data is not None:
        environment.user_tools.update_db(data.user_data)
    if initial is not None:
      environment.set_state(
        initialization_data=None,
        initialization_actions=initial.initialization_actions,
        message_history=initial.message_history or [],
      )
    return World(environment, safe)

  def _base_rows(self, task: Task, data: Any) -> dict[str, Rows]:
    if data is None or data.agent_data is None:
      return self._rows
    return self._prepared.get(task, self._own_rows)

  def _own_rows(self, task: Task) -> dict[str, Rows]:
    toolkit = self._tools(self._db)
    toolkit.update_db(task.initial_state.initialization_data.agent_data)
    return self._tables(toolkit.db)  # update_db has made a new database

  def _tables(self, db: Any) -> dict[str, Rows]:
    if not self._tabled:
      return {}
    return {name: Rows(rows) for name, rows in db.__dict__.items()}

  def _fork(self, rows: dict[str, Rows]) -> Any:
    tables = {name: Table(base) for name, base in rows.items()}
    return type(self._db).model_construct(**tables)

  def _environment(
    self, db: Any, user_db: Any, solo: bool, vpn: Any = None
  ) -> Any:
    from tau2.environment.environment import Environment

    cls = Environment if user_db is None else self.module.TelecomEnvironment
    environment = cls.__new__(cls)  # tau2's constructor reads no policy either
    environment.domain_name = self.name
    environment.policy = ""
    environment.tools = self._tools(db)
    environment.user_tools = None
    environment.solo_mode = solo
    if self._user_tools is not None:
      environment.user_tools = self._user_tools(user_db)
      # tau2 keeps this on the class and `break_vpn` changes it in place: one
      # episode would spoil the VPN of all later ones.
      environment.user_tools.default_vpn_details = vpn or vpn_default(
        self._user_tools
      )
    return environment


@functools.cache
def _pristine_vpn(toolkit: type) -> Any:
  """The VPN default as tau2's source has it, whatever became of it since."""
  details = toolkit.default_vpn_details
  best = type(details.server_performance)("excellent")
  return details.model_copy(update={"server_performance": best})


def vpn_default(toolkit: type) -> Any:
  return _pristine_vpn(toolkit).model_copy()


def _load_db(cls: Any, path: Path) -> Any:
  try:
    return cls.load(path)
  except Exception as e:
    raise ValueError(f"{path} does not parse as {cls.__name__}: {e}") from None


class StockStore:
  """A registered domain without a fast store: stock worlds, whole dumps."""

  def __init__(self, name: str):
    # Only tau2 itself or somebody who has imported the registry can have
    # registered a domain, so that a mistyped name costs no import (8-10 s).
    known = {*FAST, "telecom-workflow"}
    if "tau2.registry" in sys.modules:
      known |= set(sys.modules["tau2.registry"].registry.get_domains())
    if name not in known:
      raise ValueError(names.unknown("domain", name, known))
    from tau2.registry import registry

    warnings.warn(
      f"domain {name!r} has no fast store: it runs on tau2's stock "
      "environment, which loads its database for every episode",
      stacklevel=4,
    )
    self.name = name
    self.folder = None
    self._constructor: Any = registry.get_env_constructor(name)
    self._load_tasks: Any = registry.get_tasks_loader(name)
    self._load_splits: Any = registry.get_task_splits_loader(name)
    self._gold = _PerTask()

  def tasks(self) -> dict[str, Task]:
    return {t.id: t for t in self._load_tasks(None)}

  def task(self, raw: Task) -> Task:
    return raw

  def splits(self) -> dict[str, list[str]]:
    return self._load_splits() if self._load_splits else {}

  def policy(self, solo: bool) -> str:
    return self._constructor(solo_mode=solo).policy

  def toolkits(self) -> tuple[Toolkit, Toolkit | None]:
    environment = self._constructor()
    return environment.tools, environment.user_tools

  def world(self, task: Task, solo: bool, safe: bool = True) -> World:
    environment = self._constructor(solo_mode=solo)
    user_tools = environment.user_tools
    if hasattr(user_tools, "default_vpn_details"):
      user_tools.default_vpn_details = vpn_default(type(user_tools))
    initial = task.initial_state
    if initial is not None:
      environment.set_state(
        initialization_data=initial.initialization_data,
        initialization_actions=initial.initialization_actions,
        message_history=initial.message_history or [],
      )
    return World(environment, safe)

  gold, _play_gold = Store.gold, Store._play_gold


@functools.cache
def store(name: str) -> Store | StockStore:
  return Store(name) if name in FAST else StockStore(name)
