"""Answers that are drawn from the masks of tools' schemas: all of them parse,
and what a rewarded demonstration says is among them."""

import dataclasses
import functools
import json
import sys

import numpy as np
import pytest

from jax_cl import chat, guides
from jax_cl.policies import tiny
from jax_cl.problems import _tau2
from jax_cl.tasks import actions, demos, reference, stream, users
from jax_cl.tasks import env as env_lib
from jax_cl.types import ToolCall, ToolSchema, Turn

pytest.importorskip("llguidance")
pytestmark = pytest.mark.xdist_group("guides")

TOKENIZER = tiny.tokenizer()
FORMS = ("hermes", "compact")
PLACES = {"type": "array", "items": {"enum": ["plan", "bill"]}}
TOOLS = (
  ToolSchema(
    "get_line",
    "Looks a line up.",
    {
      "type": "object",
      "properties": {
        "line_id": {"type": "string", "title": "Line"},
        "places": PLACES,
        "day": {"anyOf": [{"$ref": "#/$defs/Day"}, {"type": "object"}]},
      },
      "required": ["line_id"],
      "$defs": {
        "Day": {"type": "object", "properties": {"n": {"type": "integer"}}}
      },
    },
    "read",
  ),
  ToolSchema("get_lines", "All.", {"type": "object", "properties": {}}, "read"),
)


@functools.cache
def grammars(form="compact", thinks=True):
  vocab = tiny.VARIANTS["tiny"].vocab
  return guides.make(TOKENIZER, form, vocab=vocab, thinks=thinks)


def grammar(form="compact", tools=TOOLS, thinks=True):
  return grammars(form, thinks)(tools)


def heard(*turns):
  out = guides.Heard()
  out.hear([Turn("user", t) if isinstance(t, str) else t for t in turns])
  return out


def told(content, **kw):
  return Turn("tool", json.dumps(content), requestor="assistant", **kw)


def tokens(support):
  assert support.shape == (tiny.VARIANTS["tiny"].vocab // 32,)
  bits = np.unpackbits(support.view(np.uint8), bitorder="little")
  return np.flatnonzero(bits)


def accepts(guide, ids):
  """How many of the ids may come, one after another."""
  for n, i in enumerate(ids):
    if i not in tokens(guide.support()):
      return n
    guide.take(i)
  return len(ids)


def call(**arguments):
  return Turn("assistant", tool_calls=(ToolCall("", "get_line", arguments),))


def says(form, turn, guide):
  ids = chat.make(TOKENIZER, form).answer(turn)
  return accepts(guide, ids) == len(ids)


@pytest.mark.parametrize("form", FORMS)
def test_answers_in_the_forms_own_writing_are_allowed(form):
  guide = lambda: grammar(form).guide(heard("Line L1001, please."))
  both = Turn("assistant", tool_calls=(
    ToolCall("", "get_lines", {}),
    *call(line_id="L1001", places=["plan", "bill"], day={"n": 3}).tool_calls,
  ))  # fmt: skip
  for turn in (both, call(line_id="L1001"), Turn("assistant", "Is 1 < 2? é")):
    assert says(form, turn, guide())
  for turn in (
    call(line_id="L1002"),
    call(places=["plan"]),
    call(line_id="L1001", more=1),
    call(line_id="L1001", places=["all"]),
    call(line_id="L1001", day={"m": 1}),
    Turn("assistant", tool_calls=(ToolCall("", "get", {}),)),
  ):
    assert not says(form, turn, guide())


def test_every_form_has_its_writing():
  assert guides.WRITINGS.keys() == chat.FORMS.keys()


def test_a_llama_call_is_bare_and_words_begin_with_no_brace(monkeypatch):
  # With a stop that tiny's tokenizer has.
  form = chat.FORMS["llama3"]._replace(stop="<|im_end|>")
  monkeypatch.setitem(chat.FORMS, "llama3", form)
  grammars.cache_clear()
  guide = lambda: grammar("llama3").guide(heard("Line L1001."))
  plain = lambda s: TOKENIZER.encode(s, add_special_tokens=False).ids
  bare = '{"name": "get_line", "parameters": {"line_id": "L1001"}}'
  for said in (f"{bare}<|im_end|>", " Yes {1}.<|im_end|>"):
    assert accepts(guide(), plain(said)) == len(plain(said))
  for said in ("{1}", bare.replace("L1001", "L1002"), f"{bare}{bare}"):
    assert accepts(guide(), plain(said)) < len(plain(said))
  grammars.cache_clear()


def draw(guide, rng, stop, most=400):
  """A model that knows nothing: any allowed token, long ones sometimes."""
  ids = []
  while len(ids) < most:
    some = tokens(guide.support())
    i = int(stop if stop in some and rng.random() < 0.3 else rng.choice(some))
    ids.append(i)
    if i == stop:
      break
    guide.take(i)
  return ids


@pytest.mark.parametrize("form", FORMS)
def test_whatever_is_drawn_parses(form):
  talk = chat.make(TOKENIZER, form)
  (stop,) = talk.stop_ids
  rng = np.random.default_rng(0)
  open_ = TOKENIZER.token_to_id(chat.OPEN)
  calls = words = 0
  for i in range(60):
    guide = grammar(form).guide(heard("Lines L1001 and L1002."))
    ahead = [open_] * (i % 2)  # a call for every other one, else mostly words
    for token in ahead:
      guide.take(token)
    ids = [*ahead, *draw(guide, rng, stop)]
    if ids[-1] != stop:
      continue  # reached its limit
    found = talk.parse(ids)
    assert found.turn is not None, (found, TOKENIZER.decode(ids))
    for c in found.turn.tool_calls:
      assert c.name in ("get_line", "get_lines")
      assert c.arguments.get("line_id", "L1001") in ("L1001", "L1002")
    calls += bool(found.turn.tool_calls)
    words += bool(found.turn.content)
  assert calls > 15 and words > 15


def test_ids_are_those_the_agent_has_heard():
  user = Turn("user", "I am mia_li_3668, item 1008292230, task_7, HAT001.")
  h = heard(user, told({"order_id": "#W1234567", "items": [{"item_id": "77"}]}))
  assert h.ids("user") == ["mia_li_3668", "1008292230", "task_7"]
  assert h.ids("order") == ["#W1234567", "1008292230", "task_7"]
  assert h.ids("item") == ["77", "1008292230", "task_7"]
  assert [guides.id_type(p) for p in ("item_ids", "new_item_ids", "email")] == [
    "item", "variant", None,
  ]  # fmt: skip
  # An error repeats what was made up; a user's phone is not the agent's.
  h = heard(
    told({"line_id": "L9999"}, error=True),
    Turn("tool", '{"line_id": "L8888"}', requestor="user"),
  )
  assert h.ids("line") == []
  # Nothing heard: any string, since none could be copied.
  assert says("compact", call(line_id="L5"), grammar().guide(h))


def test_no_mark_is_spelled_and_thoughts_come_first():
  plain = lambda s: TOKENIZER.encode(s, add_special_tokens=False).ids
  spelled = TOKENIZER.encode("a<", add_special_tokens=False).ids
  spelled += plain("tool_call>")
  assert accepts(grammar().guide(heard()), spelled) < len(spelled)
  thought = plain("<think>why</think> Yes.<|im_end|>")
  assert accepts(grammar().guide(heard()), thought) == len(thought)
  assert accepts(grammar(thinks=False).guide(heard()), thought) == 0
  late = plain("Yes. <think>why</think><|im_end|>")
  at = late.index(TOKENIZER.token_to_id(chat.THINK))
  assert accepts(grammar().guide(heard()), late) == at


def demonstration(spec, domain):
  make_user = users.make("scripted")
  if domain.name == "telecom":
    manual = reference.make("telecom_manual")()
    return _tau2.play(spec, manual, make_user, 200)
  words = {domain.name: demos.vocabulary(domain)}
  space = actions.ActSpace([domain], words, True)
  state = actions.State(space, frozenset(space.index), spec.solo)
  env = env_lib.Env(spec, None if spec.solo else make_user(), seed=0)
  return demos.run(spec, env, state)


def in_order(turn, tools):
  """The turn, its arguments in the order of the tools' schemas."""
  order = {t.name: list(t.parameters["properties"]) for t in tools}
  sort = lambda c: sorted(
    c.arguments.items(), key=lambda kv: order[c.name].index(kv[0])
  )
  calls = [
    dataclasses.replace(c, arguments=dict(sort(c))) for c in turn.tool_calls
  ]
  return dataclasses.replace(turn, tool_calls=tuple(calls))


@pytest.mark.parametrize("name", ["telecom", "airline", "retail"])
def test_demonstrations_say_what_is_allowed(name):
  """Of train tasks, as tau2 accepts them, but for the order of arguments."""
  domain = stream.load(name, solo=name == "telecom")
  own = grammar("compact", domain.tools)
  talk = chat.make(TOKENIZER, "compact")
  calls = 0
  for spec in domain.splits["train"][:3]:
    h = guides.Heard()
    if spec.solo:
      h.hear([Turn("user", stream.ticket(spec))])
    for turn in demonstration(spec, domain).turns:
      if turn.role != "assistant":
        h.hear([turn])
        continue
      turn = in_order(turn, domain.tools)
      ids = talk.answer(turn)
      n = accepts(own.guide(h), ids)
      assert n == len(ids), (TOKENIZER.decode(ids), n)
      calls += len(turn.tool_calls)
  assert calls > 4


def test_without_the_library_there_is_a_remedy(monkeypatch):
  monkeypatch.setitem(sys.modules, "llguidance", None)
  with pytest.raises(ValueError, match="needs llguidance: make setup EXTRAS="):
    guides.make(TOKENIZER, "compact", vocab=4096)
