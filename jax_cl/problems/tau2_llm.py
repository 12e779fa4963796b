"""tau2 domains one after another: the policy layer's experience.

The LLM itself learns. A stage clones demonstrations of its own domain's train
tasks (SFT, loss on the agent's tokens alone), then rolls out conversations of
many turns and learns from tau2's rewards by GRPO. One conversation is one row
of tokens, as they were sampled. Val and test tasks are only ever evaluated.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jax_cl import (
  batching,
  chat,
  conversations,
  engine,
  guides,
  names,
  sharding,
  tree,
  types,
)
from jax_cl.agents import llm
from jax_cl.policies import hub, lora, weights
from jax_cl.policies.base import Policy
from jax_cl.problems import _tau2
from jax_cl.tasks import (
  actions,
  demos,
  protocol,
  recorded,
  reference,
  stream,
  users,
  workers,
)
from jax_cl.tasks import env as env_lib

REFERENCES = ("do_nothing", "always_transfer", "oracle")
PROMPTS = ("name", "tools", "policy")


@dataclasses.dataclass(frozen=True)
class Options:
  """What a run does with its domains; `make` tells each."""

  seed: int
  batch_size: int
  curriculum: str
  prompt: str
  length: int  # tokens of a row
  sampler: str
  tasks_per_step: int
  group: int
  baseline: str
  mask_truncated: bool
  greedy: bool
  max_turns: int
  max_new_tokens: int
  references: bool
  protocol: Mapping[str, Any]  # what `protocol.describe` asks for
  max_eval_tasks: int | None
  demonstrations: str | None  # a file of them


class Tau2LLM:
  """See `problems.base.Problem`."""

  def __init__(
    self,
    options: Options,
    domains: Sequence[stream.Domain],
    stages: tuple[types.Stage, ...],
    model: LanguageModel,
    driver: engine.Engine,
    make_user: Callable[[], types.User],
    envs: workers.Environments,
  ):
    self.options, self.stages, self.agent = options, stages, model.agent
    self.domains = tuple(d.name for d in domains)
    self._domains = {d.name: d for d in domains}
    self._place = {name: i for i, name in enumerate(self.domains)}
    self.sizes = _tau2.sizes(domains, stages)
    self.tasks = _tau2.table(domains)
    self._task = {(s.domain, s.task_id): i for i, s in enumerate(self.tasks)}
    self._model, self._chat = model, model.chat
    self._engine, self._envs, self._make_user = driver, envs, make_user
    self._prompts = {
      d.name: model.chat.prompt(*prompt(d, options.prompt)) for d in domains
    }
    for name, given in self._prompts.items():
      if model.shared > len(given.ids):
        raise ValueError(
          f"agent.args.shared is {model.shared}, but the prompt of {name} has "
          f"{len(given.ids)} tokens: set it to that or less"
        )
    self._grammars = None
    if model.grammar is not None:
      self._grammars = {d.name: model.grammar(d.tools) for d in domains}
    self._spaces: dict[str, actions.ActSpace] = {}
    self._imported, self._counts = [], {}
    if options.demonstrations:
      self._imported, self._counts = recorded.demonstrations(
        options.demonstrations, domains
      )
    self._tokens = 0  # sampled by this process
    self._cut = 0  # demonstrations that were too long for a row
    self.fingerprint = _tau2.digest(
      domains,
      model.chat.tokenizer.to_str(),
      f"{model.name} {options.prompt}",
      *(f"{e.task} {e.turns}" for e in self._imported),
    )

  @functools.cached_property
  def about(self) -> dict[str, Any]:
    """The protocol, and what fixed policies score: floors and ceilings."""
    o = self.options
    out: dict[str, Any] = {
      "curriculum": o.curriculum,
      "protocol": protocol.describe(
        self.domains, max_turns=o.max_turns, greedy=o.greedy, **o.protocol
      ),
      "model": self._model.name,
      "prompt": o.prompt,
    }
    if o.max_eval_tasks is not None:
      out["protocol"]["deviations"]["max_eval_tasks"] = {
        "protocol": None, "run": o.max_eval_tasks,
      }  # fmt: skip
    if o.demonstrations:
      out["demonstrations"] = dict(self._counts)
    if o.references:
      out |= _tau2.references(
        REFERENCES,
        list(self._domains.values()),
        lambda name, specs: _tau2.rewards(
          name, specs, self._make_user, o.max_turns
        ),
      )
    return out

  # ---------------------------------------------------------------- learning

  def demos(self, stage: int) -> types.Batch:
    """Conversations that tau2 accepts, of the stage's train tasks."""
    specs = demos.train_only(self.stages[stage].train)
    done = [self._demonstrate(s) for s in specs]
    done += [e for e in self._imported if e.task in specs]
    good = [e for e in done if e.reward == 1]
    if specs and not good:
      raise ValueError(
        f"tau2 accepts none of the {len(specs)} demonstrations of "
        f"{self.stages[stage].name}: raise stream.max_turns "
        f"({self.options.max_turns}), or set stream.clone_steps to 0"
      )
    rows = [self._demonstration(e) for e in good]
    self._cut += sum(len(ids) > self.options.length + 1 for ids, _ in rows)
    most = self.options.length + 1
    talks = [llm.cloned(ids[:most], mask[:most]) for ids, mask in rows]
    return self._rows(good, talks, np.ones(len(good)))

  def _demonstrate(self, spec: types.TaskSpec) -> types.Episode:
    """Telecom's manual where it applies, else gold after look-ups."""
    o = self.options
    if spec.base_domain == "telecom":
      policy = reference.make("telecom_manual")()
      return _tau2.play(spec, policy, self._make_user, o.max_turns)
    user = None if spec.solo else self._make_user()
    env = env_lib.Env(spec, user, seed=0, max_turns=o.max_turns)
    state = self._choices(spec)
    return demos.run(spec, env, state)

  def _choices(self, spec: types.TaskSpec) -> actions.State:
    """What a demonstrator chooses from: the acts of the domain alone."""
    domain = self._domains[spec.domain]
    if domain.name not in self._spaces:
      words = {domain.name: demos.vocabulary(domain)}
      self._spaces[domain.name] = actions.ActSpace([domain], words, True)
    space = self._spaces[domain.name]
    return actions.State(space, frozenset(space.index), spec.solo)

  def _demonstration(self, e: types.Episode) -> tuple[np.ndarray, np.ndarray]:
    """(ids, mask) of an episode as the policy would have sampled it."""
    row = chat.Row()
    opening, rest = _opening(e)
    given = self._prompts[e.task.domain]
    row.say(given.ids)
    row.say(self._chat.opening(given, opening))
    ahead: list[types.Turn] = []
    for turn in rest:
      if turn.role != "assistant":
        ahead += [turn] if chat.heard(turn) else []
        continue
      if ahead:
        row.say(self._chat.suffix(ahead))
        ahead = []
      ids = self._chat.answer(turn)
      row.sample(ids, [0.0] * len(ids), [0] * len(ids))
    return np.array(row.ids, np.int32), np.array(row.mask, np.float32)

  def collect(self, params, frozen, stage, step, seed, mix=None):
    o = self.options
    rng = np.random.default_rng(seed)
    specs = _tau2.draw(
      rng, self.stages, stage, step, mix, self.domains,
      sampler=o.sampler, n=o.tasks_per_step, seed=o.seed,
    )  # fmt: skip
    job = lambda spec, info: conversations.Job(
      spec, int(rng.integers(2**31)), info
    )
    jobs = [
      job(spec, {"group": g, "trial": k})
      for g, spec in enumerate(specs)
      for k in range(o.group)
    ]
    done = self._run(params, frozen, jobs, stage, step, self._model.temperature)
    return [self._told(e) for e in done]

  def _told(self, e: types.Episode) -> types.Episode:
    """With what `train` logs of a step's episodes: `info["figures"]`."""
    e = _tau2.counted(e, self._domains[e.task.domain])
    return dataclasses.replace(e, info={**e.info, "figures": figures(e.info)})

  def batch(self, episodes, seed, every=False):
    adv = batching.advantages(episodes, self.options.baseline)
    if self.options.mask_truncated:
      adv = np.where([cut_short(e) for e in episodes], np.nan, adv)
    if every:
      failed = [bool(e.failure) for e in episodes]
      adv = np.where(failed, np.nan, np.nan_to_num(adv))
    kept = [
      (e, row, a)
      for e, a in zip(episodes, adv, strict=True)
      if not np.isnan(a)
      for row in e.info["rows"]
    ]
    talks = [_read(row, self.options.length + 1) for _, row, _ in kept]
    supports = [row.supports for _, row, _ in kept]
    rows = self._rows(
      [e for e, _, _ in kept], talks, [a for _, _, a in kept], supports
    )
    # One conversation is one vote, in however many rows it was sampled.
    share = [1 / len(e.info["rows"]) for e, _, _ in kept]
    rows = rows._replace(weight=np.array(share, np.float32).reshape(-1))
    return batching.fit(rows, self.options.batch_size, seed)

  def _rows(self, episodes, talks, adv, supports=()) -> types.Batch:
    n = len(episodes)
    tokens = llm.rows(talks, self.options.length)
    if kept := (self.agent.obs_spec or {}).get("support"):
      tokens = llm.with_supports(tokens, supports, kept[0])
    return types.Batch(
      **tokens,
      adv=np.array(adv, np.float32).reshape(n),
      weight=np.ones(n, np.float32),
      domain=np.array([self._place[e.task.domain] for e in episodes], np.int32),
      task=np.array(
        [self._task[e.task.domain, e.task.task_id] for e in episodes], np.int32
      ),
      reward=np.array([e.reward for e in episodes], np.float32),
    )

  def summary(self, params, frozen) -> dict[str, float]:
    return {"trained_parameters": float(tree.size(params))}

  def sampler_bytes(self, params, frozen) -> dict[str, int]:
    """What sampling holds beside the state, on one device; shapes will do."""
    return self._engine.nbytes(tree.join(params, frozen["rest"]))

  def export(self, params, frozen, folder: str, adapter: bool = False) -> None:
    """The LLM as a hub folder; `adapter`: its LoRA alone, as PEFT has it."""
    name, config = self._model.name, self._model.policy.config
    whole = jax.device_get(tree.join(params, frozen["rest"]))
    if adapter:
      hub.write_adapter(folder, config, whole, base_model=name)
      return
    like = None if weights.is_new(name) else weights.find(name)
    if like is not None and like.is_dir():
      hub.write(folder, config, whole, like=like)
    else:  # as it was made, or of a GGUF file
      hub.write(folder, config, whole, tokenizer=self._chat.tokenizer)

  def note(self) -> str:
    """What was sampled, and which demonstrations did not fit a row."""
    out = (
      f"{self._tokens:,} tokens sampled, {self._engine.compiles} compiles of "
      f"the engine; {self._cut} demonstrations cut at {self.options.length} "
      "tokens"
    )
    if self.options.demonstrations:
      found = ", ".join(f"{n} {k}" for k, n in sorted(self._counts.items()))
      out += f"; of {self.options.demonstrations}: {found}"
    return out

  # -------------------------------------------------------------- evaluation

  def evaluate(self, params, frozen, domain, split, seed, trials, stage):
    jobs = [
      conversations.Job(spec, _seed(seed, spec, trial), {"trial": trial})
      for spec in self._domains[domain].splits[split]
      for trial in range(trials)
    ]
    heat = 0.0 if self.options.greedy else self._model.temperature
    done = self._run(params, frozen, jobs, stage + 1, 0, heat)
    return [_tau2.counted(e, self._domains[domain]) for e in done]

  def _run(
    self, params, frozen, jobs, stage: int, step: int, temperature: float
  ) -> list[types.Episode]:
    """Conversations in the order of the jobs, `info["rows"]` their tokens."""
    o = self.options
    version = sum(s.steps for s in self.stages[:stage]) + step
    self._engine.swap(tree.join(params, frozen["rest"]), version)
    run = lambda some: conversations.run(
      self._engine, self._chat, some, self._prompts, self._envs,
      sampling=engine.Sampling(temperature=temperature),
      max_new_tokens=o.max_new_tokens, grammars=self._grammars,
    )  # fmt: skip
    done = sharding.share(run, jobs)
    self._engine.release()
    self._tokens += sum(d.episode.info.get("tokens_sampled", 0) for d in done)
    return [
      dataclasses.replace(d.episode, info={**d.episode.info, "rows": d.rows})
      for d in done
    ]


def figures(info: Mapping[str, Any]) -> dict[str, float]:
  """Numbers of one sampled conversation.

  valid_calls:     share of its answers that parse.
  tool_accuracy:   share of its calls that gold has (`metrics.tool_counts`).
  truncated, overflow, malformed: whether it was ended by an answer that
                   reached its limit, a full context, or any other event.
  """
  events = dict(info["events"])
  out = {
    "truncated": float(events.pop("truncated", 0)),
    "overflow": float(events.pop("context", 0)),
    "malformed": float(sum(events.values())),
    "answers": float(info["answers"]),
    "tokens": float(info["tokens"]),
    "tokens_sampled": float(info["tokens_sampled"]),
  }
  wrong = out["truncated"] + out["overflow"] + out["malformed"]
  if info["answers"]:
    out["valid_calls"] = 1 - wrong / info["answers"]
  if info["tool_calls"]:
    out["tool_accuracy"] = info["tool_hits"] / info["tool_calls"]
  return out


def cut_short(e: types.Episode) -> bool:
  """Whether a limit of tokens ended it, not what it said."""
  return any(e.info["events"].get(k) for k in ("truncated", "context"))


def _read(
  row: chat.Row, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(ids, mask, logprobs) of a row. What was said to the agent last may find
  no room: it ends the conversation, and nothing was sampled behind it."""
  assert not any(row.mask[most:])
  ids, mask, logprobs = row.ids[:most], row.mask[:most], row.logprobs[:most]
  return np.array(ids), np.array(mask), np.array(logprobs)


def _seed(seed: int, spec: types.TaskSpec, trial: int) -> int:
  """Of one evaluated episode: its own, whatever else is evaluated."""
  name = f"{spec.domain}/{spec.task_id}/{trial}".encode()
  entropy = (seed, *np.frombuffer(name, np.uint8).tolist())
  return int(np.random.SeedSequence(entropy).generate_state(1)[0] // 2)


def prompt(
  domain: stream.Domain, kind: str
) -> tuple[str, Sequence[types.ToolSchema]]:
  """(system message, tools) of a domain.

  "name" says which domain it is and nothing else: for models trained from
  nothing, which cannot read rules anyway. "tools" adds the tools' schemas,
  "policy" the policy's text before them.
  """
  names.check("prompt", kind, PROMPTS)
  name = types.base_domain(domain.name)  # a family is for nobody to know
  if kind == "name":
    return name, ()
  text = domain.policy if kind == "policy" else f"You serve {name}."
  return text, domain.tools


def _opening(e: types.Episode) -> tuple[list[types.Turn], list[types.Turn]]:
  """The turns before the agent's first, and those from it on.

  A greeting and a task's own history are said for the agent, not by it.
  """
  turns = list(e.turns)
  given = stream.begun(e.task) or int(not e.task.solo)
  own = (i for i, t in enumerate(turns) if t.role == "assistant")
  first = next((i for i in own if i >= given), len(turns))
  ticket = [types.Turn("user", stream.ticket(e.task))] if e.task.solo else []
  return ticket + turns[:first], turns[first:]


def make(
  *,
  seed: int,
  batch_size: int,
  agent: Mapping[str, Any],
  domains: Sequence[str] = ("telecom", "airline", "retail"),
  curriculum: str = "sequential",
  rounds: int = 5,
  solo: bool | Sequence[str] = ("telecom", "mock"),
  clone_steps: int = 100,
  pg_steps: int | Sequence[int] = 20,
  prompt: str = "name",
  length: int = 2048,
  max_new_tokens: int = 256,
  sampler: str = "without_replacement",
  tasks_per_step: int = 4,
  group: int = 4,
  baseline: str = "group",
  mask_truncated: bool = False,
  greedy: bool = True,
  slots: int = 16,
  decode_steps: int = 16,
  env_workers: int = 0,
  max_turns: int = 200,
  user: str = "scripted",
  user_args: Mapping[str, Any] | None = None,
  pool: str = "official",
  train_split: float = 0.8,
  data_dir: str | None = None,
  max_tasks_per_domain: int | None = None,
  max_eval_tasks: int | None = None,
  references: bool = True,
  demonstrations: str | None = None,
) -> Tau2LLM:
  """The stream of tau2 domains for the policy layer.

  Args:
    domains, curriculum, rounds, solo, pool, train_split, data_dir,
      max_tasks_per_domain: see `tasks.stream.make`.
    clone_steps, pg_steps: updates a domain on its demonstrations, then on its
      own conversations; of `pg_steps` also one number for each domain.
    prompt: what a conversation begins with, see `prompt`.
    length: tokens of a row and of a slot of the engine; a conversation that
      reaches it ends, with reward 0.
    max_new_tokens: of one answer.
    sampler: order of task batches, see `tasks.stream.batches`.
    tasks_per_step, group: tasks rolled out for one update, and conversations
      of each; their product must fit into `batch_size` rows.
    baseline: see `batching.advantages`.
    mask_truncated: nothing is learned from a conversation that a limit of
      tokens ended; it counts in its group's mean (DAPO's overlong filtering,
      https://arxiv.org/abs/2503.14476, sec. 3.4).
    greedy: evaluation takes the most probable token; else it samples.
    slots: conversations that are sampled at a time.
    decode_steps: tokens sampled at a time, about what an answer has: a slot
      that is done earlier waits for the rest.
    env_workers: processes that step the environments while the device decodes,
      see `tasks.workers`; 0: this one does, in turn. Not part of the result.
    max_turns: tau2's limit of steps.
    user, user_args: see `tasks.users.make`.
    max_eval_tasks: keeps that many val and test tasks a domain, for quick
      tests; the run's protocol then names the deviation.
    references: measure floors and ceilings for run.json.
    demonstrations: a file that `tasks.recorded` reads (tau2's results, a run's
      trajectories.jsonl); its rewarded conversations of train tasks are cloned
      beside our own, each in its domain's stage.
  """
  names.check("prompt", prompt, PROMPTS)
  names.check("sampler", sampler, stream.SAMPLERS)
  batching.check_baseline(baseline)
  if tasks_per_step * group > batch_size:
    raise ValueError(
      f"stream.tasks_per_step {tasks_per_step} x stream.group {group} "
      f"conversations do not fit train.batch_size {batch_size}: raise it"
    )
  where = {
    "solo": solo, "data_dir": data_dir, "pool": pool,
    "train_split": train_split, "seed": seed,
  }  # fmt: skip
  stages = stream.make(
    domains,
    curriculum,
    steps=_tau2.steps(domains, clone_steps, pg_steps),
    clone_steps=clone_steps,
    rounds=rounds,
    max_tasks_per_domain=max_tasks_per_domain,
    **where,
  )
  found = [_tau2.cut(stream.load(d, **where), max_eval_tasks) for d in domains]
  llm_ = language_model(length=length, **agent.get("args", {}))
  user_args = dict(user_args or {})
  make_user = users.make(user, **user_args)
  if env_workers < 0:
    raise ValueError(f"stream.env_workers {env_workers}: it must be 0 or more")
  envs: workers.Environments = workers.Here(make_user, max_turns)
  if env_workers:
    envs = workers.Workers(
      env_workers, domains, where, user, user_args, max_turns
    )
  return Tau2LLM(
    Options(
      seed=seed,
      batch_size=batch_size,
      curriculum=curriculum,
      prompt=prompt,
      length=length,
      sampler=sampler,
      tasks_per_step=tasks_per_step,
      group=group,
      baseline=baseline,
      mask_truncated=mask_truncated,
      greedy=greedy,
      max_turns=max_turns,
      max_new_tokens=max_new_tokens,
      references=references,
      protocol={**where, "user": user},
      max_eval_tasks=max_eval_tasks,
      demonstrations=demonstrations,
    ),
    found,
    stages,
    llm_,
    engine.make(
      llm_.policy,
      stops=llm_.chat.stop_ids,
      slots=slots,
      context=length + 1,
      steps=decode_steps,
    ),
    make_user,
    envs,
  )


class LanguageModel(NamedTuple):
  """A model as a learner, and how it talks."""

  name: str
  policy: Policy
  agent: types.Agent
  chat: chat.Chat
  temperature: float
  grammar: Callable[[Sequence[types.ToolSchema]], guides.Grammar] | None = None
  # of a domain's tools, where decoding is constrained
  shared: int = 0  # tokens that its rows begin with in common


def language_model(
  *,
  length: int,
  model: str = "tiny",
  model_args: Mapping[str, Any] | None = None,
  form: str = "",
  thinking: str = "keep",
  dtype: str = "float32",
  remat: str = "",
  attention_block: int = 0,
  lora_rank: int = 0,
  lora_alpha: float = 16.0,
  lora_targets: str = "layers/.*",
  temperature: float = 1.0,
  constrained: bool = False,
  supports: int = 0,
  **options: Any,
) -> LanguageModel:
  """The section `config.agent.args`.

  Args:
    length: tokens of a row.
    model: "tiny" or "new:NAME" (new weights, from the run's seed), a model of
      `policies.weights` by name, or a hub folder.
    model_args: changes to the fields of `policies.base.Config`: sizes of a new
      model, never of one whose weights are read.
    form: how it writes calls, a name of `chat.FORMS`; "" is the model's own.
    thinking: see `chat.Chat`.
    dtype, remat, attention_block: of its computation, see
      `policies.base.Config`.
    lora_rank, lora_alpha, lora_targets: adapters, which alone are trained; 0:
      the whole tree is.
    temperature: of sampling and of the log-probabilities that are trained.
    constrained: answers are words or calls by the tools' schemas, see `guides`;
      one step of decoding at a time, so it takes longer.
    supports: sampled tokens of a row that can be learned from when constrained,
      each of which keeps a bit a logit; 0: all.
    options: see `agents.llm.make`.
  """
  changes = {
    "dtype": dtype, "remat": remat, "attention_block": attention_block,
    **(model_args or {}),
  }  # fmt: skip
  if lora_rank:
    changes |= {
      "lora_rank": lora_rank,
      "lora_alpha": lora_alpha,
      "lora_targets": lora_targets,
    }
    options.setdefault("trains", lora.LEAVES)
  made = weights.policy(model, **changes)
  # What does not learn need not be float32, not even while it is read.
  held = options.get("frozen_dtype", "float32") if lora_rank else "float32"

  def load(key, layout):
    where = None
    if layout.replicated is not None:
      shapes = jax.eval_shape(weights.policy(model).init, key)
      where = sharding.shardings(layout, shapes)
    _, params = weights.load(model, param_dtype=held, shardings=where)
    if not lora_rank:
      return params
    return lora.add(params, key, rank=lora_rank, targets=lora_targets)

  form = form or ("compact" if model == "tiny" else "hermes")
  agent = llm.make(
    model=made,
    load=None if weights.is_new(model) else load,
    length=length,
    temperature=temperature,
    supports=(supports or length) if constrained else 0,
    **options,
  )
  talk = chat.make(weights.tokenizer(model), form, thinking=thinking)
  grammar = None
  if constrained:
    grammar = guides.make(
      talk.tokenizer, form, vocab=made.config.vocab, thinks=thinking != "off"
    )
  shared = options.get("shared", 0)
  return LanguageModel(model, made, agent, talk, temperature, grammar, shared)
