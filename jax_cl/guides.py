"""What an answer may be: words, or calls that parse, of ids that were named.

A `Grammar` is made of a domain's tools and of the form in which a model writes
calls (`chat.FORMS`); `guide` gives the masks of one answer (`engine.Guide`) by
llguidance (https://github.com/guidance-ai/llguidance), an optional extra.

  answer  words without calls or calls without words, behind a thought or not
  call    as the form writes it; the tool's own keys, in its schema's order,
          with values of its schema's types
  id      a parameter that is one takes what the agent has heard so far, a
          constraint to copy (`Heard`); any string while nothing was heard

Neither words nor strings hold "<t" or "</", with which marks begin: an answer
that ends always parses. One that reaches its limit of tokens does not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tokenizers

from jax_cl import chat, names
from jax_cl.tasks import actions, entities
from jax_cl.types import ToolSchema, Turn

Schema = Mapping[str, Any]
KEPT = 64  # grammars, of the ids of so many answers
REMEDY = (
  "constrained decoding needs llguidance: make setup EXTRAS=test,constrained, "
  "or set agent.args.constrained to False"
)


class Writing(NamedTuple):
  """How a form writes a call: `before`, name, `between`, arguments, `after`."""

  before: Sequence[str]  # marks and texts
  between: str
  after: Sequence[str]
  separators: tuple[str, str]  # of items, of keys
  joint: str | None  # between two calls; None: one call an answer
  bare: bool = False  # no arguments, no braces
  words: str = r"\s*([^<\s]|<[^<\/t])"  # what words begin with


WRITINGS = {
  "hermes": Writing(
    (chat.OPEN, '\n{"name": "'),
    '", "arguments": ',
    ("}\n", chat.CLOSE),
    (", ", ": "),
    "\n",
  ),
  "compact": Writing((chat.OPEN,), "", (), (",", ":"), "", bare=True),
  "llama3": Writing(
    ('{"name": "',), '", "parameters": ', ("}",), (", ", ": "), None,
    words=r"\s*([^<{\s]|<[^<\/t])",
  ),
}  # fmt: skip
# No mark can be spelled in it: all of them begin with <t or </.
_TEXT = r"([^<]|<[^<\/t])*<?"
# Words of a speech that may be ids: with a letter and a digit, or long numbers.
_WORD = re.compile(r"#?\b(?=\w*[A-Za-z_])(?=\w*\d)\w+\b|\b\d{8,}\b")


# ------------------------------------------------------------------ ids so far


class Heard:
  """What an agent has been told in a conversation: its source of ids."""

  def __init__(self):
    self._seen = entities.Seen()
    self._words: dict[str, None] = {}  # of speech, that no pattern claims

  def hear(self, turns: Sequence[Turn]) -> None:
    """Takes in turns; a tool's error repeats what was asked, and is no news."""
    for turn in turns:
      if not chat.heard(turn) or not turn.content or turn.error:
        continue
      if turn.role == "tool":
        self._seen.read_result(turn.content, 0, "")
      elif turn.role == "user":
        self._seen.read_speech(turn.content, 0)
        words = _WORD.findall(turn.content)
        self._words.update((w, None) for w in words if not _claimed(w))

  def ids(self, type: str) -> list[str]:
    """Ids of a type, and words that may be of any."""
    found = [e.value for e in self._seen.of(type)]
    return list(dict.fromkeys([*map(str, found), *self._words]))


def _claimed(word: str) -> bool:
  return any(re.fullmatch(p, word) for p in entities.PATTERNS.values())


def id_type(parameter: str) -> str | None:
  """The type of entity a parameter names; None: it is no id."""
  if parameter != "id" and not parameter.endswith(("_id", "_ids")):
    return None
  known = actions.PARAMS.get(parameter, entities.KEYS.get(parameter))
  return (known or parameter).rstrip("*")


# --------------------------------------------------------------------- grammar


def make(
  tokenizer: tokenizers.Tokenizer,
  form: str,
  *,
  vocab: int,
  thinks: bool = True,
) -> Callable[[Sequence[ToolSchema]], Grammar]:
  """Tools -> their grammar, for a model's tokenizer and its form of calls.

  `vocab`: logits of the model; `thinks`: an answer may hold a thought.
  """
  names.check("form", form, WRITINGS)
  told = json.loads(tokenizer.to_str())
  # Some tokenizers have <tool_call> among their words; nobody may spell it.
  for token in told["added_tokens"]:
    token["special"] = True
  vocabulary = library().LLTokenizer(
    json.dumps(told),
    n_vocab=vocab,
    eos_token=tokenizer.token_to_id(chat.FORMS[form].stop),
  )
  control = {t["content"]: f"<[{t['id']}]>" for t in told["added_tokens"]}
  return lambda tools: Grammar(
    tools, vocabulary, control, WRITINGS[form], thinks
  )


class Grammar:
  """What one domain's agent may answer; `make` makes it."""

  def __init__(
    self,
    tools: Sequence[ToolSchema],
    vocabulary: Any,  # llguidance.LLTokenizer
    control: Mapping[str, str],  # control tokens, as its grammars name them
    writing: Writing,
    thinks: bool,
  ):
    self._tools, self._vocabulary, self._control = tools, vocabulary, control
    self._writing, self._thinks = writing, thinks
    self._begun: dict[str, Any] = {}  # text -> a matcher, before any token

  def guide(self, heard: Heard) -> Guide:
    """Of the next answer, with the ids that were heard up to here."""
    text = self.lark(heard)
    if text not in self._begun:
      if len(self._begun) >= KEPT:
        self._begun.clear()
      matcher = library().LLMatcher(
        self._vocabulary, library().LLMatcher.grammar_from_lark(text)
      )
      if matcher.is_error():
        raise RuntimeError(f"llguidance refuses: {matcher.get_error()}\n{text}")
      self._begun[text] = matcher
    return Guide(self._begun[text].deep_copy(), self._vocabulary.vocab_size)

  def lark(self, heard: Heard) -> str:
    """The grammar, in llguidance's dialect of Lark."""
    w, mark = self._writing, self._mark
    answers = ["words"]
    lines = [f"words: /{w.words}{_TEXT}/"]
    if self._tools:
      more = "" if w.joint is None else f" ({_quoted(w.joint)} call)*"
      answers.append("call" + more)
      tools = " | ".join(f"tool_{i}" for i in range(len(self._tools)))
      parts = [*map(mark, w.before), "tool", *map(mark, w.after)]
      lines += [f"call: {' '.join(parts)}", f"tool: {tools}"]
      for i, tool in enumerate(self._tools):
        lines.append(f"tool_{i}: {self._tool(tool, heard)}")
    start = " | ".join(answers)
    if self._thinks:
      lines.append(
        f"thought: {mark(chat.THINK)} /{_TEXT}/ {mark(chat.END_THINK)} /\\s*/"
      )
      start = f"thought? ({start})"
    return "\n".join([f"start: {start}", *lines]) + "\n"

  def _tool(self, tool: ToolSchema, heard: Heard) -> str:
    """A tool's name and arguments."""
    w = self._writing
    schema = narrowed(tool.parameters, heard)
    item, key = w.separators
    options = {
      "whitespace_flexible": False,
      "item_separator": item,
      "key_separator": key,
      "json_allowed_escapes": 'nrbtf\\"',  # \u could write half a character
    }
    arguments = f"%json {json.dumps({'x-guidance': options, **schema})}"
    name = _quoted(tool.name + w.between)
    if w.bare and not schema["properties"]:
      return name
    optional = w.bare and not schema.get("required")
    return f"{name} ({arguments})?" if optional else f"{name} {arguments}"

  def _mark(self, text: str) -> str:
    return self._control.get(text, _quoted(text))


class Guide:
  """The masks of one answer; see `engine.Guide`."""

  def __init__(self, matcher: Any, vocab: int):
    self._matcher, self._words = matcher, -(-vocab // 32)

  def support(self) -> np.ndarray:
    """uint32[ceil(V / 32)]; never empty."""
    # Its mask may end in a word more than are needed.
    mask = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)
    return mask[: self._words]

  def take(self, token: int) -> None:
    if not self._matcher.consume_token(token):
      raise RuntimeError(
        f"token {token} cannot come here: {self._matcher.get_error()}"
      )


def library() -> Any:
  """llguidance, or an error that says how to get it."""
  try:
    import llguidance
  except ImportError as e:
    raise ValueError(REMEDY) from e
  return llguidance


def narrowed(schema: Schema, heard: Heard) -> dict[str, Any]:
  """A tool's schema with its own keys alone, and ids that were heard."""

  def narrow(s: Schema, parameter: str = "") -> dict[str, Any]:
    if "anyOf" in s:
      # A branch for any object stands beside the one that says what is in it.
      some = [b for b in s["anyOf"] if b.get("properties") or not _open(b)]
      return {"anyOf": [narrow(b, parameter) for b in some or s["anyOf"]]}
    out = {k: v for k, v in s.items() if k in _FACTS}
    for group in ("properties", "$defs"):
      if group in s:
        out[group] = {k: narrow(v, k) for k, v in s[group].items()}
    if "properties" in s:
      out["additionalProperties"] = False
    if "items" in s:
      out["items"] = narrow(s["items"], parameter)
    if s.get("type") == "string" and not {"enum", "const"} & s.keys():
      type = id_type(parameter)
      ids = heard.ids(type) if type else []
      out |= {"enum": ids} if ids else {"pattern": f"^{_TEXT}$"}
    return out

  return {"type": "object", "properties": {}, **narrow(schema)}


# What is kept of a schema as it stands; words about it are not.
_FACTS = ("type", "enum", "const", "required", "$ref", "minimum", "maximum")


def _open(schema: Schema) -> bool:
  return schema.get("type") == "object" and "$ref" not in schema


def _quoted(text: str) -> str:
  return json.dumps(text)
