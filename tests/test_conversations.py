"""Episodes of an engine that says what it is told to."""

import collections

import pytest

from jax_cl import chat, conversations, engine
from jax_cl.policies import tiny
from jax_cl.tasks import stream, workers
from jax_cl.types import ToolCall, Turn

TOKENIZER = tiny.tokenizer()
SPECS = {
  s.task_id: s
  for specs in stream.load("mock", solo=True).splits.values()
  for s in specs
}
SPEC = SPECS["update_task_1"]
RULES = stream.load("mock", solo=True)
STOP = Turn("assistant", "###STOP###")


def call(name, **arguments):
  return Turn("assistant", tool_calls=(ToolCall("", name, arguments),))


FIXED = call("update_task_status", task_id="task_1", status="completed")


class Told:
  """An engine without a model: answers of given ids, a log-probability of
  minus one hundredth of its place, and the interface of `engine.Engine`."""

  version, checksum = 3, "c0ffee"

  def __init__(self, answers, slots=2):
    self.answers = [collections.deque(a) for a in answers]  # by key
    self.slots, self.live, self.heard = slots, {}, []

  @property
  def busy(self):
    return any(self.live.values())

  def submit(self, key, prefix, ids, *, seed, sampling, max_tokens, guide):
    assert guide is None
    assert key not in self.live and len(self.live) < self.slots
    self.heard.append((key, list(prefix), list(ids)))
    self.live[key] = True

  def reply(self, key, ids, max_tokens, guide):
    self.heard.append((key, None, list(ids)))
    self.live[key] = True

  def close(self, key):
    del self.live[key]

  def step(self):
    out = []
    for key in [k for k, waits in self.live.items() if waits]:
      said = self.answers[key].popleft()
      reason = said if isinstance(said, str) else "stop"
      ids = [] if isinstance(said, str) else said
      logprobs = [-i / 100 for i in range(len(ids))]
      out.append(engine.Answer(key, ids, logprobs, [3] * len(ids), reason))
      self.live[key] = False
    return out


def run(answers, specs=(SPEC,), thinking="keep", make_user=None, envs=None):
  talk = chat.make(TOKENIZER, "compact", thinking=thinking)
  write = lambda a: (
    talk.answer(a)
    if isinstance(a, Turn)
    else a
    if a == "context"
    else talk.encode(a)
  )
  told = Told([[write(a) for a in one] for one in answers])
  prompts = {"mock": talk.prompt("Be kind.", RULES.tools)}
  jobs = [
    conversations.Job(s, seed=i, info={"trial": i}) for i, s in enumerate(specs)
  ]
  envs = envs or workers.Here(make_user or (lambda: 0), 200)
  done = conversations.run(told, talk, jobs, prompts, envs)
  assert not told.live  # every slot was given back
  return done, told, talk


def text(row, sampled=None):
  some = [i for i, m in zip(row.ids, row.mask) if sampled in (None, m)]
  return TOKENIZER.decode(some, skip_special_tokens=False)


def test_an_episode_and_its_row():
  (done,), told, talk = run([[FIXED, STOP]])
  e, (row,) = done.episode, done.rows
  assert e.reward == 1.0 and e.termination == "agent_stop"
  assert [t.role for t in e.turns] == ["assistant", "tool", "assistant"]
  assert e.info["answers"] == 2 and e.info["events"] == {}
  assert e.info["weights"] == {"version": 3, "checksum": "c0ffee"}
  assert e.info["trial"] == 0 and e.info["seed"] == 0
  # What was sampled has mask 1, keeps its log-probabilities, and is all that
  # the policy said; the rest is the prompt, the ticket and the tool's answer.
  said = [talk.answer(FIXED), talk.answer(STOP)]
  assert [i for i, m in zip(row.ids, row.mask) if m] == sum(said, [])
  assert [x for x, m in zip(row.logprobs, row.mask) if m] == [
    -i / 100 for a in said for i in range(len(a))
  ]
  assert set(row.versions) == {-1, 3}
  assert e.info["tokens_sampled"] == sum(row.mask) == sum(map(len, said))
  ticket = stream.ticket(SPEC)
  assert f"\n{ticket}\n<|im_start|>" in text(row)
  assert f"<tool_response>{chat.record(e.turns[1].content)}<" in text(row, 0)
  # The engine was given the prompt once, then only what is new.
  assert [prefix is None for _, prefix, _ in told.heard] == [False, True]
  assert (
    sum((ids for _, _, ids in told.heard), [])
    == [i for i, m in zip(row.ids, row.mask) if not m][len(told.heard[0][1]) :]
  )


@pytest.mark.parametrize(
  "said,event",
  [
    ("<tool_call>f{x}<|im_end|>", "bad_json"),
    ("no end", "truncated"),
    ("context", "context"),
  ],
)
def test_what_is_no_answer_ends_the_episode_by_name(said, event):
  (done,), _, _ = run([[FIXED, said]])
  e = done.episode
  assert e.termination == "agent_error" and e.reward == 0
  assert e.info["events"] == {event: 1} and e.info["ended_by"] == event
  assert not e.failure and sum(done.rows[0].mask) > 0


def test_jobs_outnumber_slots_and_keep_their_order():
  answers = [[STOP], [FIXED, STOP], [FIXED, FIXED, STOP], [STOP], [FIXED, STOP]]
  done, _, _ = run(answers, specs=[SPEC] * 5)
  assert [d.episode.info["trial"] for d in done] == [0, 1, 2, 3, 4]
  assert [d.episode.info["answers"] for d in done] == [1, 2, 3, 1, 2]
  assert [d.episode.reward for d in done] == [0, 1, 1, 0, 1]


def test_a_stripped_thought_begins_a_new_row():
  thought = "<think>Which one? The first.</think>\n\n"
  written = "<tool_call>get_users<|im_end|>"
  (done,), told, talk = run(
    [[thought + written, FIXED, STOP]], thinking="strip"
  )
  assert done.episode.reward == 1.0
  first, second = done.rows
  # The first row is learned from with its thought; the second goes on without.
  assert text(first, 1) == thought + written
  assert "<think>" not in text(second) and written in text(second, 0)
  assert text(second, 1) == text_of(talk, FIXED) + text_of(talk, STOP)
  assert [prefix is None for _, prefix, _ in told.heard] == [False, False, True]


def text_of(talk, turn):
  return TOKENIZER.decode(talk.answer(turn), skip_special_tokens=False)


def test_a_user_that_breaks_is_no_reward_of_zero():
  class Breaks:
    def start(self, scenario, tools, seed):
      raise RuntimeError("no line")

  dialogue = next(iter(stream.load("mock").splits["train"]))
  done, _, _ = run([[], [FIXED, STOP]], [dialogue, SPEC], make_user=Breaks)
  assert done[0].episode.failure == "RuntimeError: no line"
  assert done[0].rows == ()
  assert done[1].episode.reward == 1.0


def test_a_domain_without_a_prompt_is_refused():
  job = conversations.Job(SPEC, 0)
  with pytest.raises(ValueError, match="no prompt for domain 'mock'"):
    conversations.run(Told([]), None, [job], {}, workers.Here(lambda: 0, 200))
