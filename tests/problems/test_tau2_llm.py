"""The LLM on tau2, with a model of one layer: what its rows hold, that trainer
and sampler agree, and whole runs of methods, stopped and gone on with."""

import copy
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import grpo_smoke
from jax_cl import chat, evaluate, rescore, train
from jax_cl.problems import tau2_llm
from jax_cl.tasks import env as env_lib

# One worker makes what these share.
pytestmark = pytest.mark.xdist_group("tau2_llm")

MODEL = {
  "layers": 1, "width": 32, "heads": 2, "kv_heads": 1, "head_width": 16,
  "ff_width": 64,
}  # fmt: skip
SMALL = {
  "domains": ("telecom", "mock"),
  "solo": ("telecom",),  # so that in one domain a user speaks
  "clone_steps": 2,
  "pg_steps": 2,
  "length": 512,
  "max_new_tokens": 16,
  "tasks_per_step": 2,
  "group": 2,
  "slots": 4,
  "max_turns": 60,
  "max_tasks_per_domain": 2,
  "max_eval_tasks": 2,
}
SHORT = {"length": 256, "max_new_tokens": 4, "max_eval_tasks": 1}
MOCK = 1  # the stage in which conversations have many turns


def make(**options):
  agent = {"name": "llm", "args": {"model": "tiny", "model_args": MODEL}}
  given = {"seed": 0, "batch_size": 4, "agent": agent, "references": False}
  return tau2_llm.make(**{**given, **SMALL, **options})


def test_no_more_is_shared_than_a_prompt_has():
  agent = {"args": {"model": "tiny", "model_args": MODEL, "shared": 99}}
  with pytest.raises(ValueError, match="shared is 99, but .* telecom has"):
    make(agent=agent)


@pytest.fixture(scope="module")
def what():
  return make()


@pytest.fixture(scope="module")
def learner(what):
  """(params, frozen) that end an answer after a few random tokens, so that a
  conversation has many: all embeddings share a direction, <|im_end|>'s most."""
  p, frozen = what.agent.init(jax.random.key(0))
  table = p["embed"]["embedding"]
  (stop,) = what._chat.stop_ids
  p["embed"]["embedding"] = (table + 1.0).at[stop].set(1.29)
  return p, frozen


@pytest.fixture(scope="module")
def gradient(what, learner):
  """(rows, params) -> ((loss, aux), g), compiled once."""
  obj = what.agent.objective(learner[1])
  f = jax.jit(jax.value_and_grad(obj.loss, has_aux=True))
  return lambda rows, p=learner[0]: f(p, rows, jax.random.key(0))


@pytest.fixture(scope="module")
def talks(what, learner):
  """Sampled conversations, every other one declared a success."""
  episodes = what.collect(*learner, MOCK, 2, seed=5)
  return [rewarded(e, float(i % 2)) for i, e in enumerate(episodes)]


def rewarded(e, reward):
  verdict = dataclasses.replace(e.verdict, reward=reward)
  return dataclasses.replace(e, verdict=verdict)


# ------------------------------------------------------------------------ rows


@pytest.mark.parametrize("stage", [0, 1])
def test_masked_tokens_of_a_demonstration_are_the_agents_answers(what, stage):
  (stop,) = what._chat.stop_ids
  for spec in what.stages[stage].train:
    episode = what._demonstrate(spec)
    ids, mask = what._demonstration(episode)
    said = ids[mask > 0].tolist()
    assert ids.shape == mask.shape and said[-1] == stop
    ends = [i + 1 for i, x in enumerate(said) if x == stop]
    answers = [said[a:b] for a, b in zip([0, *ends], ends)]
    read = [what._chat.parse(a).turn for a in answers]
    user = None if spec.solo else what._make_user()
    begun = len(env_lib.Env(spec, user).reset())  # greetings, histories
    own = [t for t in episode.turns[begun:] if t.role == "assistant"]
    plain = lambda t: (t.content, [(c.name, c.arguments) for c in t.tool_calls])
    assert [plain(t) for t in read] == [plain(t) for t in own]
    # What the others said is there, and is not learned.
    heard = what._chat.tokenizer.decode(ids[mask == 0].tolist())
    for t in episode.turns:
      if t.role != "assistant" and t.content and "###" not in t.content:
        told = chat.record(t.content) if t.role == "tool" else t.content
        assert told.strip() in heard


def test_rows_are_of_train_tasks_alone(what, talks):
  for rows in (what.demos(0), what.demos(1), what.batch(talks, 0, every=True)):
    specs = [what.tasks[t] for t in rows.task[rows.weight > 0]]
    assert specs and {s.split for s in specs} == {"train"}


def test_a_sampled_row_is_what_was_said(what, talks):
  rows = what.batch(talks, seed=0)
  assert (rows.weight == 1).all() and (rows.adv == [-0.5, 0.5] * 2).all()
  for b, e in enumerate(talks):
    (row,) = e.info["rows"]
    n = len(row.ids)
    assert rows.action[b, : n - 1].tolist() == row.ids[1:]
    assert rows.obs["tokens"][b, :n].tolist() == row.ids[: SMALL["length"]]
    assert rows.mask[b].sum() == sum(row.mask) == e.info["tokens_sampled"]


# --------------------------------------------------------- trainer and sampler


def test_trainer_and_sampler_agree(what, learner, gradient, talks):
  """At learning rate 0: the same weights, the same log-probabilities."""
  p, frozen = learner
  rows = what.batch(talks, seed=0)
  assert max(e.info["answers"] for e in talks) > 1  # over turns, too
  logp = jax.jit(what.agent.objective(frozen).logp)(p, rows)
  gap = np.abs(np.asarray(logp) - rows.logp_old)[rows.mask > 0]
  assert gap.size > 20 and gap.max() <= 1e-5
  (_, aux), _ = gradient(rows)
  np.testing.assert_allclose(aux["ratio"], 1, atol=1e-5)


def test_constrained_answers_parse_and_their_log_probabilities_agree(learner):
  """Renormalised over what each token was drawn from, to 1e-5."""
  pytest.importorskip("llguidance")
  args = {"model": "tiny", "model_args": MODEL, "constrained": True}
  what = make(agent={"name": "llm", "args": args}, max_new_tokens=48)
  p, frozen = jax.tree.map(jnp.copy, learner)
  opens = what._chat.tokenizer.token_to_id(chat.OPEN)  # else it rarely calls
  p["embed"]["embedding"] = p["embed"]["embedding"].at[opens].set(1.28)
  talks = what.collect(p, frozen, MOCK, 2, seed=5)
  assert all(e.info["events"].keys() <= {"truncated"} for e in talks)
  assert any(t.tool_calls for e in talks for t in e.turns)
  rows = what.batch([rewarded(e, float(i % 2)) for i, e in enumerate(talks)], 0)
  logp = jax.jit(what.agent.objective(frozen).logp)
  gap = np.abs(np.asarray(logp(p, rows)) - rows.logp_old)[rows.mask > 0]
  assert gap.size > 20 and gap.max() <= 1e-5
  # The model's own softmax says otherwise.
  every = np.full_like(rows.obs["support"], 2**32 - 1)
  wide = rows._replace(obs=rows.obs | {"support": every})
  gap = np.asarray(logp(p, wide)) - rows.logp_old
  assert gap[rows.mask > 0].min() < -1


def test_the_same_seed_is_the_same_conversation(what, learner, talks):
  ids = lambda es: [e.info["rows"][0].ids for e in es]
  again = what.collect(*learner, MOCK, 2, seed=5)
  assert ids(again) == ids(talks)
  assert [e.info["weights"] for e in again] == [
    e.info["weights"] for e in talks
  ]
  assert ids(what.collect(*learner, MOCK, 2, seed=6)) != ids(talks)
  apart = make(env_workers=2).collect(*learner, MOCK, 2, seed=5)
  assert ids(apart) == ids(talks)
  with pytest.raises(ValueError, match="env_workers -1"):
    make(env_workers=-1)


def test_one_update_changes_samples(what, learner, gradient, talks):
  p, frozen = learner
  _, g = gradient(what.batch(talks, seed=0))
  moved = jax.tree.map(lambda x, y: x - 1.0 * y, p, g)
  compiled = what._engine.compiles
  new = what.collect(moved, frozen, MOCK, 3, seed=5)
  old = what.collect(p, frozen, MOCK, 3, seed=5)
  assert what._engine.compiles == compiled  # new weights, same programs
  a, b = new[0].info["weights"], old[0].info["weights"]
  assert a["checksum"] != b["checksum"]
  assert [e.info["rows"][0].ids for e in new] != [
    e.info["rows"][0].ids for e in old
  ]


def test_groups_without_variance_teach_nothing(what, gradient, talks):
  same = [rewarded(e, 1.0) for e in talks]
  rows = what.batch(same, seed=0)
  assert rows.weight.sum() == 0 and (rows.task == -1).all()
  (loss, aux), g = gradient(rows)
  assert loss == 0 and not any(bool(jnp.any(x)) for x in jax.tree.leaves(g))
  assert np.isfinite(list(aux.values())).all()
  # A memory and the Fisher information want them all the same.
  every = what.batch(same, seed=0, every=True)
  assert (every.weight == 1).all() and (every.adv == 0).all()


def test_a_failed_conversation_is_in_no_group(what, talks):
  broken = dataclasses.replace(
    talks[0], failure="TimeoutError", info={**talks[0].info, "rows": ()}
  )
  rows = what.batch([broken, *talks[1:]], seed=0)
  # Its partner is left without a group, so one task's two rows remain.
  assert rows.weight.tolist() == [1, 1, 0, 0]


def test_what_finds_no_room_in_a_row_is_not_learned(what, talks):
  (row,) = talks[0].info["rows"]
  long = copy.deepcopy(row)
  long.say([7] * SMALL["length"])  # an answer of a tool
  one = dataclasses.replace(talks[0], info={**talks[0].info, "rows": (long,)})
  full, rows = (what.batch([e, *talks[1:]], seed=0) for e in (one, talks[0]))
  assert (full.mask == rows.mask).all() and full.mask[0].sum() == sum(row.mask)
  n = len(row.ids)
  assert (full.action[0, n - 1 :] == 7).all()
  assert (full.logp_old == rows.logp_old).all()


def test_a_conversation_cut_short_may_be_left_out(what, talks, monkeypatch):
  """It teaches nothing, and is in its group's mean all the same."""
  short = dataclasses.replace(
    talks[0], info={**talks[0].info, "events": {"truncated": 1}}
  )
  said = [dataclasses.replace(
    e, info={**e.info, "events": {"bad_call": 1}}
  ) for e in talks[1:]]  # fmt: skip
  assert what.batch([short, *said], seed=0).weight.sum() == 4
  masked = dataclasses.replace(what.options, mask_truncated=True)
  monkeypatch.setattr(what, "options", masked)
  rows = what.batch([short, *said], seed=0)
  assert rows.weight.tolist() == [1, 1, 1, 0]
  assert rows.adv[:3].tolist() == [0.5, -0.5, 0.5]
  every = what.batch([short, *said], seed=0, every=True)
  assert every.weight.sum() == 4 and every.adv[0] == 0


# ------------------------------------------------------------------ whole runs


def config(**changes):
  out = grpo_smoke.get_config()
  out.agent.args.model_args = MODEL
  for key, value in {**SMALL, **SHORT}.items():
    out.stream[key] = value
  out.stream.references = False
  out.train.save_interval = 2
  out.log_interval = 1
  out.use_progress_bar = False
  out.update_from_flattened_dict(changes)
  return out.lock()


def read(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("llm") / "whole"
  return workdir, train.run(config(), workdir)


def test_a_run_stopped_between_rollouts_ends_the_same_with_workers(
  whole, tmp_path, monkeypatch
):
  class Stop(Exception):
    pass

  learn = train._Run.learn

  def stopping(self, k, n, *args):
    learn(self, k, n, *args)
    if (k, n) == (MOCK, 2):  # its first step of GRPO; saved before it
      raise Stop

  with monkeypatch.context() as m:
    m.setattr(train._Run, "learn", stopping)
    with pytest.raises(Stop):
      train.run(config(), tmp_path / "run")
  # Where environments are stepped is nobody's business.
  train.run(config(**{"stream.env_workers": 2}), tmp_path / "run")
  files = "metrics.jsonl", "episodes.jsonl", "trajectories.jsonl", "run.json"
  for name in files:
    a, b = (w / name for w in (whole[0], tmp_path / "run"))
    assert len(a.read_bytes()) > 100 and a.read_bytes() == b.read_bytes()


def test_each_training_conversation_is_recorded_whole(whole):
  lines = read(whole[0] / "trajectories.jsonl")
  logged = read(whole[0] / "episodes.jsonl")
  episodes = [r for r in logged if r["phase"] == "train"]
  assert len(lines) == len(episodes) == 2 * 2 * 4  # stages, steps, rows
  for line, e in zip(lines, episodes, strict=True):
    assert {k: line[k] for k in e} == e
    (row,) = line["rows"]
    n = len(row["ids"])
    assert n == len(row["mask"]) == len(row["logprobs"]) == e["tokens"]
    assert sum(row["mask"]) == e["tokens_sampled"] > 0
  # GRPO's steps are the third and fourth of each stage; versions name them.
  versions = sorted({line["weights"]["version"] for line in lines})
  assert versions == [2, 3, 6, 7]
  sums = {line["weights"]["checksum"] for line in lines}
  assert 2 <= len(sums) <= 4  # groups without variance move nothing
  assert rescore.rescore(str(whole[0] / "trajectories.jsonl")) == 0


def test_the_warm_start_is_measured_between_sft_and_grpo(whole):
  workdir, results = whole
  looks = [
    (r["stage"], r["step"], r["domain"])
    for r in read(workdir / "metrics.jsonl")
    if r["phase"] == "eval" and r["split"] == "val"
  ]
  # Two steps of SFT and two of GRPO a stage: once on the stage's own domain.
  assert (0, 2, "telecom") in looks and (1, 6, "mock") in looks
  assert (0, 2, "mock") not in looks and (1, 6, "telecom") not in looks
  found = [(w["stage"], w["domain"]) for w in results["warm_starts"]]
  assert found == [(0, "telecom"), (1, "mock")]
  assert "What the policy gradient added" in (workdir / "report.md").read_text()


def test_what_is_logged_of_a_step(whole):
  rows = [
    json.loads(x) for x in (whole[0] / "metrics.jsonl").read_text().splitlines()
  ]
  steps = [r for r in rows if r["phase"] == "train" and "reward" in r]
  names = {
    "reward", "reward_max", "reward_sd", "pass", "groups", "groups_all_fail",
    "groups_all_pass", "valid_calls", "truncated", "overflow", "malformed",
    "tokens", "tokens_sampled", "loss", "entropy", "clip_fraction", "ess",
    "grad_norm", "weights_cut",
  }  # fmt: skip
  assert len(steps) == 4 and all(names <= r.keys() for r in steps)
  for r in steps:
    assert r["groups"] == 2 >= r["groups_all_fail"] + r["groups_all_pass"]


def test_evaluate_reproduces_a_stage(whole):
  rows, wrong = evaluate.again(whole[0], stage=1)
  assert not wrong and all(rows.values())


def test_an_exported_stage_scores_the_same(whole, tmp_path, capsys):
  folder = tmp_path / "hub"
  of = [f"--workdir={whole[0]}", "--stage=0"]
  assert evaluate.main([*of, f"--export={folder}"]) == 0
  assert (folder / "model.safetensors").exists()
  settings = config(**{"agent.args.form": "compact"})
  found = evaluate.pretrained(
    settings.copy_and_resolve_references(), str(folder), False
  )
  theirs, ours = (
    found.rows("val", 1),
    evaluate.restore(whole[0], 0).rows("val", 1),
  )
  bare = lambda rows: [
    (r["task_id"], r["reward"], r["n_turns"], r["termination"])
    for some in rows.values()
    for r in some
  ]
  assert bare(theirs) == bare(ours) and len(bare(ours)) > 1
  assert evaluate.main([*of, f"--export={folder}"]) == 2
  assert evaluate.main([*of, "--adapter"]) == 2
  assert evaluate.main([*of, f"--export={tmp_path / 'a'}", "--adapter"]) == 2
  exists, alone, none = capsys.readouterr().err.splitlines()
  assert "exists: name a folder that does not" in exists
  assert "give --export=FOLDER" in alone and "hold no adapters" in none


@pytest.mark.slow
@pytest.mark.parametrize(
  "method, changes",
  [
    ("replay+online_ewc", {
      "agent.args.constrained": True,
      "agent.args.lora_rank": 2,
      "eval.kl_rows": 2,
      "cl.args.online_ewc.samples": 8,
      "cl.args.replay.ratio": 0.5,
      "cl.args.replay.capacity": 8,
      "cl.args.replay.min_buffer_size": 1,
    }),
    pytest.param(
      "adaptive_replay", {
        "cl.args.adaptive_replay.capacity": 8,
        "cl.args.adaptive_replay.min_buffer_size": 1,
        "cl.args.adaptive_replay.min_ratio": 0.25,
        "cl.args.adaptive_replay.initial_ratio": 0.5,
      },
      marks=pytest.mark.slow,
    ),
  ],
)  # fmt: skip
def test_methods_run_a_whole_stream(whole, tmp_path, method, changes):
  results = train.run(config(**{"cl.name": method, **changes}), tmp_path / "x")
  assert results.keys() == whole[1].keys()
  rows = read(tmp_path / "x" / "metrics.jsonl")
  report = [r for r in rows if r["phase"] == "stage"][-1]
  assert report["total_replay_samples"] > 0
  if changes.get("eval.kl_rows"):
    later = [r for r in rows if r["phase"] == "train" and r["stage"] == MOCK]
    assert later and all(r["kl_telecom"] == r["kl_earlier"] > 0 for r in later)
