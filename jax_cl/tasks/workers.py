"""Many episodes' environments, here or in worker processes.

  envs = Here(make_user, max_turns)     # or Workers(4, ...)
  envs.begin("a", spec, seed=0)
  for key, seen in envs.ready():
    envs.act(key, policy(seen.turns))

`Workers` is for environments that take long: a user that is an LLM, judged or
heavy tools, many slots on a fast device. An episode stays with one process. It
is the same episode wherever it runs, so results do not depend on the number of
workers, nor on which answers first.
"""

from __future__ import annotations

import concurrent.futures
import signal
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple, Protocol

from jax_cl import processes
from jax_cl.tasks import env as env_lib
from jax_cl.tasks import stream, users
from jax_cl.types import Episode, TaskSpec, Turn, User

GRACE_S = 0.01  # waited for the others, once one has answered


class Seen(NamedTuple):
  """What an episode answered."""

  turns: tuple[Turn, ...]  # for the agent to hear; its own words left out
  episode: Episode | None  # where it has ended, with an empty `info`


class Environments(Protocol):
  """Episodes under way, by the caller's keys."""

  def begin(self, key: Hashable, spec: TaskSpec, seed: int) -> None: ...

  def act(self, key: Hashable, turn: Turn) -> None: ...

  def ready(self, wait: bool = True) -> list[tuple[Any, Seen]]:
    """What was answered since; with `wait`, not before something was."""
    ...

  def clear(self) -> None:
    """Drops every episode under way, and what it still may answer."""
    ...


class Here:
  """Environments of this process: a call returns when they have answered."""

  def __init__(self, make_user: Callable[[], User], max_turns: int):
    self._make_user, self._max_turns = make_user, max_turns
    self._envs: dict[Hashable, env_lib.Env] = {}
    self._ready: list[tuple[Any, Seen]] = []

  def begin(self, key: Hashable, spec: TaskSpec, seed: int) -> None:
    def first() -> tuple[Turn, ...]:
      user = None if spec.solo else self._make_user()
      env = env_lib.Env(spec, user, seed=seed, max_turns=self._max_turns)
      self._envs[key] = env
      turns = env.reset()
      if env.ticket is not None:
        turns = (Turn("user", env.ticket), *turns)
      return turns

    self._envs.pop(key, None)
    self._note(key, spec, first)

  def act(self, key: Hashable, turn: Turn) -> None:
    env = self._envs[key]
    # Its own words come first: the agent knows them.
    self._note(key, env.spec, lambda: env.step(turn)[1:])

  def ready(self, wait: bool = True) -> list[tuple[Any, Seen]]:
    out, self._ready = self._ready, []
    return out

  def clear(self) -> None:
    self._envs.clear()
    self._ready.clear()

  def _note(
    self,
    key: Hashable,
    spec: TaskSpec,
    move: Callable[[], tuple[Turn, ...]],
  ) -> None:
    """A broken user or environment is data: it ends one episode, not a run."""
    turns, episode = (), None
    try:
      turns = move()
      env = self._envs[key]
      if env.done:
        episode = env.episode()
    except Exception as e:
      env = self._envs.get(key)
      said = env.turns if env is not None else ()
      episode = env_lib.failed(spec, said, f"{type(e).__name__}: {e}")
    if episode is not None:
      self._envs.pop(key, None)
    self._ready.append((key, Seen(turns, episode)))


class Workers:
  """Environments of `n` processes, stepped while the caller does other things.

  Args:
    domains, where: what the episodes are of, as `tasks.stream.load` takes it.
    user, user_args: see `tasks.users.make`.

  A process that dies takes its episodes along as failed ones.
  """

  def __init__(
    self,
    n: int,
    domains: Sequence[str],
    where: Mapping[str, Any],
    user: str,
    user_args: Mapping[str, Any],
    max_turns: int,
  ):
    if n < 1:
      raise ValueError(f"{n} workers: there must be 1 or more")
    self._n = n
    self._setup = (
      tuple(domains), dict(where), user, dict(user_args), max_turns
    )  # fmt: skip
    self._pools: list[concurrent.futures.ProcessPoolExecutor] = []
    self._home: dict[Hashable, int] = {}  # place of its process
    self._specs: dict[Hashable, TaskSpec] = {}
    self._asked: dict[concurrent.futures.Future, Hashable] = {}
    self._begun = 0

  def begin(self, key: Hashable, spec: TaskSpec, seed: int) -> None:
    self._start()
    self._home[key], self._specs[key] = self._begun % self._n, spec
    self._begun += 1
    self._ask(key, _begin, spec, seed)

  def act(self, key: Hashable, turn: Turn) -> None:
    self._ask(key, _act, turn)

  def ready(self, wait: bool = True) -> list[tuple[Any, Seen]]:
    if not self._asked:
      return []
    if wait:
      concurrent.futures.wait(self._asked, return_when="FIRST_COMPLETED")
    done, _ = concurrent.futures.wait(self._asked, timeout=GRACE_S)
    out = []
    for future in [f for f in self._asked if f in done]:
      key = self._asked.pop(future)
      seen = self._seen(key, future)
      if seen.episode is not None:
        del self._home[key], self._specs[key]
      out.append((key, seen))
    return out

  def clear(self) -> None:
    self._asked.clear()
    self._home.clear()
    self._specs.clear()
    for at in range(len(self._pools)):
      self._submit(at, _clear)

  def _start(self) -> None:
    """All processes, at the first episode: it takes a few seconds."""
    if self._pools:
      return
    self._pools = [self._pool() for _ in range(self._n)]
    begun = [self._submit(at, _set_up, *self._setup) for at in range(self._n)]
    for future in begun:
      try:
        future.result()
      except Exception as e:
        raise ValueError(
          f"a worker process cannot make these environments ({e}): name what "
          "it can import by itself, or set stream.env_workers to 0"
        ) from None

  def _pool(self) -> concurrent.futures.ProcessPoolExecutor:
    # Ctrl-C is for this process to answer.
    return processes.pool(1, signal.signal, signal.SIGINT, signal.SIG_IGN)

  def _submit(self, at: int, f: Callable[..., Any], *args: Any):
    try:
      return self._pools[at].submit(f, *args)
    except BrokenProcessPool:  # since it was last asked
      self._pools[at] = self._pool()
      self._pools[at].submit(_set_up, *self._setup)
      return self._pools[at].submit(f, *args)

  def _ask(self, key: Hashable, what: Callable[..., Any], *args: Any) -> None:
    self._asked[self._submit(self._home[key], what, key, *args)] = key

  def _seen(self, key: Hashable, future: concurrent.futures.Future) -> Seen:
    try:
      return future.result()
    except Exception as e:  # the process, or what came back: never a mistake
      why = f"{type(e).__name__} in a worker process: {e}"
      return Seen((), env_lib.failed(self._specs[key], (), why))


# ------------------------------------------------------- in a worker's process

_envs: Here  # of this process


def _set_up(
  domains: Sequence[str],
  where: Mapping[str, Any],
  user: str,
  user_args: Mapping[str, Any],
  max_turns: int,
) -> None:
  global _envs
  for name in domains:
    stream.load(name, **where)
  _envs = Here(users.make(user, **user_args), max_turns)


def _begin(key: Hashable, spec: TaskSpec, seed: int) -> Seen:
  _envs.begin(key, spec, seed)
  return _envs.ready()[0][1]


def _act(key: Hashable, turn: Turn) -> Seen:
  _envs.act(key, turn)
  return _envs.ready()[0][1]


def _clear() -> None:
  _envs.clear()
