"""What runs on the same domains share: act space, features, agent, a cache.

A comparison runs the same stream under many methods and seeds. Its acts, its
features, its demonstrations and its floors and ceilings are equal every time,
and cost more than a stage of training; so a process makes them once.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jax_cl import rollouts
from jax_cl.agents import embed, features, scorer
from jax_cl.problems import _tau2
from jax_cl.tasks import actions, demos, stream
from jax_cl.types import Agent

KEPT = 4  # kits: the orders of a Latin square over three domains, and joint


@dataclasses.dataclass
class Kit:
  """Nothing in it depends on the seed, the method or what was learned."""

  space: actions.ActSpace
  rules_space: actions.ActSpace  # with the hand-written rules, always
  embedder: Any
  featurizer: features.Featurizer
  agent: Agent
  act: Callable[..., Any]  # jitted
  fingerprint: str
  tree: rollouts.Tree | None = None  # of evaluations, where users repeat
  cache: dict[Any, Any] = dataclasses.field(default_factory=dict)


_kits: dict[str, Kit] = {}


def get(
  domains: Sequence[stream.Domain],
  *,
  reading: bool,
  embedder: Mapping[str, Any],
  feature_args: Mapping[str, Any],
  agent_args: Mapping[str, Any],
  user: Mapping[str, Any],
  max_turns: int,
) -> Kit:
  """The kit of these settings, the one made before if there is one.

  Only with the scripted user, which is a pure function of its task and seed:
  an LLM or a function of the user's own may say something else each time.
  """
  make = lambda: _make(domains, reading, embedder, feature_args, agent_args)
  if user["name"] != "scripted":
    return make()
  names = [(d.name, d.solo) for d in domains]
  key = json.dumps(
    [
      _tau2.digest(domains), names, reading, dict(embedder),
      dict(feature_args), dict(agent_args), dict(user), max_turns,
    ],
    sort_keys=True,
    default=str,
  )  # fmt: skip
  if key not in _kits:
    while len(_kits) >= KEPT:
      del _kits[next(iter(_kits))]
    _kits[key] = make()
    _kits[key].tree = rollouts.Tree()
  return _kits[key]


def _make(domains, reading, embedder, feature_args, agent_args) -> Kit:
  vocabularies = {d.name: demos.vocabulary(d) for d in domains}
  space = actions.ActSpace(domains, vocabularies, reading)
  encoder = embed.make(**embedder)
  reference = [text for d in domains for text in actions.sentences(d.policy)]
  featurizer = features.Featurizer(encoder, space, reference, **feature_args)
  agent = scorer.make(
    obs_spec=featurizer.spec,
    act_vectors=featurizer.act_vectors,
    slot_vectors=featurizer.vectors(
      [f"{a.replace('_', ' ')}: {s}" for a, s in space.slots]
    ),
    slot_types=space.slot_types,
    start_act=space.index.get("say:done"),
    **agent_args,
  )
  return Kit(
    space=space,
    rules_space=actions.ActSpace(domains, vocabularies, True),
    embedder=encoder,
    featurizer=featurizer,
    agent=agent,
    act=rollouts.jit_act(agent),
    fingerprint=_tau2.digest(
      domains, f"{encoder.name} {featurizer.spec}", ",".join(space.index)
    ),
  )
