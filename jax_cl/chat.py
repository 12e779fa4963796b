"""Messages to tokens and back, append-only: what was sampled is trained on.

A conversation is one growing `Row` of ids. Sampled ids enter as they were
sampled; everything else (user turns, answers of tools) enters as a suffix,
rendered behind a fixed dummy chat and tokenised alone, so that no id ever
changes once it is in a row. A fresh render of a whole conversation is never
compared with a row, since tokenising decoded text anew drifts.

Forms of calls and schemas, by name (`FORMS`):

  hermes   ChatML; schemas as JSON lines in <tools>, calls as
           <tool_call>\\n{"name": ..., "arguments": {...}}\\n</tool_call>
           (Qwen2.5's and Qwen3's own; SmolLM2 takes it, too)
  compact  for `tiny`, in as few tokens as say the same. No roles: an answer
           stands between <|im_start|> and <|im_end|>, what a tool said behind
           <tool_response>, all else in lines of its own. Schemas are
           signatures, `name(id: string, n?: integer)`; calls are
           <tool_call>name{"id":"A1"}, or the name alone without arguments;
           records that tools return lose quotes, nulls and what is empty:
           `id:A1,lines:[L1,L2],plan:(name:Basic,gb:5.0)`
  llama3   calls as {"name": ..., "parameters": {...}}; needs a hub template

A hub folder's Jinja template takes the place of a form's own rendering
(`with_template`). Its calls are parsed by the form all the same.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tokenizers

from jax_cl import names
from jax_cl.types import ToolCall, ToolSchema, Turn

Message = dict[str, Any]
THINKING = ("keep", "strip", "off")
OPEN, CLOSE = "<tool_call>", "</tool_call>"
THINK, END_THINK = "<think>", "</think>"
# What stands for an answer in dummy chats; no template writes it.
_MARK = "Zq7-mark-of-an-answer"


class Malformed(ValueError):
  """An answer that is neither words nor calls. `event` names the reason."""

  def __init__(self, event: str, detail: str = ""):
    super().__init__(f"{event}: {detail}" if detail else event)
    self.event = event


EVENTS = {
  "truncated": "the answer reached its limit without an end of turn",
  "empty": "nothing was said",
  "control_token": "a control token stands inside the answer",
  "unclosed_think": "<think> without </think>, or the other way round",
  "thinking": "<think> where thinking is off",
  "unclosed_call": "<tool_call> and </tool_call> do not alternate",
  "text_beside_call": "words and calls in one answer; tau2 takes one of them",
  "bad_json": "a call that is not JSON, repeats a key or holds NaN",
  "bad_call": "JSON, but not a call: wrong keys or wrong types",
}


class Answer(NamedTuple):
  """What sampled ids say: a turn, or the event that says why they do not."""

  turn: Turn | None
  event: str = ""  # a key of EVENTS
  detail: str = ""


class Form(NamedTuple):
  """How a family writes conversations and calls."""

  render: Callable[..., str]  # (messages, tools, generate: bool) -> text
  parse: Callable[[str], str | list[tuple[str, dict[str, Any]]]]
  # text of an answer -> words, or [(name, arguments)]; raises Malformed
  stop: str  # the control token that ends every turn


# ------------------------------------------------------------------------ rows


@dataclasses.dataclass
class Row:
  """One append-only sequence and which of its tokens the policy sampled.

  The ids of a shared prefix come first, with mask 0. Lengths agree always.
  """

  ids: list[int] = dataclasses.field(default_factory=list)
  mask: list[int] = dataclasses.field(default_factory=list)  # 1: sampled
  logprobs: list[float] = dataclasses.field(default_factory=list)  # 0: not
  versions: list[int] = dataclasses.field(default_factory=list)
  # versions: of the weights that sampled the token; -1: not sampled
  supports: list[Any] = dataclasses.field(default_factory=list)
  # supports: with constrained decoding, what each sampled token was drawn
  # from, packed (`generate.allowed`); else empty

  def __len__(self) -> int:
    return len(self.ids)

  def say(self, ids: Sequence[int]) -> None:
    """Adds what the policy did not sample."""
    n = len(ids)
    self._add(ids, [0.0] * n, 0, [-1] * n)

  def sample(
    self,
    ids: Sequence[int],
    logprobs: Sequence[float],
    versions: Sequence[int],
    supports: Sequence[Any] = (),
  ) -> None:
    """Adds sampled ids with their log-probabilities, which must be there."""
    if not len(ids) == len(logprobs) == len(versions):
      raise ValueError(
        f"{len(ids)} ids with {len(logprobs)} logprobs and {len(versions)}"
        " versions"
      )
    if supports and len(supports) != len(ids):
      raise ValueError(f"{len(ids)} ids with {len(supports)} supports")
    for i, x in zip(ids, logprobs):
      if not math.isfinite(x) or x > 0:
        raise ValueError(f"log-probability {x} of sampled id {i}")
    self._add(ids, logprobs, 1, versions)
    self.supports += supports

  def _add(self, ids, logprobs, mask: int, versions) -> None:
    self.ids += [int(i) for i in ids]
    self.logprobs += [float(x) for x in logprobs]
    self.mask += [mask] * len(ids)
    self.versions += [int(v) for v in versions]


class Prompt(NamedTuple):
  """What all conversations of a domain begin with."""

  system: str  # its rules
  tools: tuple[ToolSchema, ...]
  ids: tuple[int, ...]  # of both, as the form writes them


# ------------------------------------------------------------------------ chat


class Chat:
  """A tokenizer and a form: prefix, opening, suffix, answer; and parse.

  `thinking`: "keep" leaves it in the row, whatever the template would do;
  "strip" asks the driver to go on in a new row without it (`stripped`); "off"
  gives every answer an empty thought before it begins.
  """

  def __init__(
    self, tokenizer: tokenizers.Tokenizer, form: Form, thinking: str = "keep"
  ):
    names.check("thinking", thinking, THINKING)
    self.tokenizer, self.form, self.thinking = tokenizer, form, thinking
    added = tokenizer.get_added_tokens_decoder()
    self._control = {i: t.content for i, t in added.items()}
    stop = tokenizer.token_to_id(form.stop)
    if stop is None or stop not in self._control:
      raise ValueError(
        f"the tokenizer has no control token {form.stop!r}, which ends a turn"
      )
    self.stop_ids = (stop,)
    self._think = tuple(map(tokenizer.token_to_id, (THINK, END_THINK)))
    if thinking == "strip" and None in self._think:
      raise ValueError(
        f"thinking='strip' needs {THINK} and {END_THINK} as tokens, which this"
        " tokenizer has not; use 'keep' or 'off'"
      )
    check_template(form)

  # The unsampled parts.

  def prompt(self, system: str, tools: Sequence[ToolSchema] = ()) -> Prompt:
    """What all conversations of a domain begin with: rules and tools."""
    ids = self.encode(self._system(system, tools))
    return Prompt(system, tuple(tools), tuple(ids))

  def opening(self, prompt: Prompt, turns: Sequence[Turn]) -> list[int]:
    """All turns before the first answer, up to where the answer begins."""
    system, tools = prompt.system, prompt.tools
    before = self._system(system, tools)
    messages = [_system_message(self._safe(system)), *self._messages(turns)]
    text = self.form.render(messages, functions(tools), True)
    if not text.startswith(before):
      raise ValueError(
        "the template does not begin a conversation with its system message:"
        f" {text[: len(before)]!r} is not {before!r}"
      )
    return self.encode(text[len(before) :] + self._thought())

  def suffix(self, turns: Sequence[Turn]) -> list[int]:
    """User turns and answers of tools behind a sampled answer, up to where
    the next answer begins. Begins after the token that ended the answer."""
    if not turns:
      raise ValueError("suffix of no turns: somebody must have answered")
    messages = [*_DUMMY, *self._messages(turns)]
    text = self.form.render(messages, [], True)
    return self.encode(_behind(text, self.form.stop) + self._thought())

  def answer(self, turn: Turn) -> list[int]:
    """An assistant turn as the policy would sample it: for demonstrations."""
    ahead = self.form.render([_USER], [], True)
    text = self.form.render([_USER, *self._messages([turn])], [], False)
    if not text.startswith(ahead):
      raise ValueError(f"an answer does not begin with {ahead!r}: {text!r}")
    end = text.rindex(self.form.stop) + len(self.form.stop)
    said = text[len(ahead) : end]
    return self.encode(re.sub(_EMPTY_THOUGHT, "", said, count=1))

  def encode(self, text: str) -> list[int]:
    return self.tokenizer.encode(text, add_special_tokens=False).ids

  # The sampled parts.

  def parse(self, ids: Sequence[int], call_id: str = "call") -> Answer:
    """Strictly: every answer is a turn or an event, nothing is repaired."""
    try:
      said = self.form.parse(self._words(list(ids)))
    except Malformed as e:
      return Answer(None, e.event, str(e))
    if isinstance(said, str):
      return Answer(Turn("assistant", said))
    calls = [
      ToolCall(f"{call_id}_{i}", name, arguments)
      for i, (name, arguments) in enumerate(said)
    ]
    return Answer(Turn("assistant", tool_calls=tuple(calls)))

  def stripped(self, ids: Sequence[int]) -> list[int]:
    """`ids` without thoughts: <think> to </think>, and the blanks behind."""
    out: list[int] = []
    inside = blank = False
    for i in ids:
      if i == self._think[0]:
        inside = True
      elif i == self._think[1]:
        inside, blank = False, True
      elif not inside:
        word = self.tokenizer.decode([i], skip_special_tokens=False)
        if not blank or word.strip():
          out.append(i)
          blank = False
    return out

  def thinks(self, ids: Sequence[int]) -> bool:
    """Whether an answer holds a thought that the next row is to leave out."""
    return self.thinking == "strip" and self._think[0] in ids

  def _words(self, ids: list[int]) -> str:
    if not ids or ids[-1] not in self.stop_ids:
      raise Malformed("truncated", f"{len(ids)} tokens")
    body = ids[:-1]
    for i in body:
      token = self._control.get(i, OPEN)
      if token not in (OPEN, CLOSE, THINK, END_THINK):
        raise Malformed("control_token", token)
    text = self.tokenizer.decode(body, skip_special_tokens=False)
    if THINK not in text and END_THINK not in text:
      return text
    if self.thinking == "off":
      raise Malformed("thinking")
    thought, closed, rest = text.partition(END_THINK)
    if not closed or not thought.lstrip().startswith(THINK) or THINK in rest:
      raise Malformed("unclosed_think")
    return rest

  # Inside.

  def _system(self, system: str, tools: Sequence[ToolSchema]) -> str:
    message = _system_message(self._safe(system))
    return self.form.render([message], functions(tools), False)

  def _thought(self) -> str:
    empty = self.thinking == "off" and None not in self._think
    return f"{THINK}\n\n{END_THINK}\n\n" if empty else ""

  def _messages(self, turns: Sequence[Turn]) -> list[Message]:
    return [message(t, self._safe) for t in turns if heard(t)]

  def _safe(self, text: str) -> str:
    """Control tokens spelled out in a text are data: `<|x|>` -> `< |x|>`."""
    for token in self._control.values():
      if token in text:
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def make(
  tokenizer: tokenizers.Tokenizer,
  form: str = "hermes",
  *,
  template: str | None = None,
  thinking: str = "keep",
) -> Chat:
  """A Chat by the form's name; `template` is a hub folder's Jinja."""
  names.check("form", form, FORMS)
  if template is not None:
    return Chat(tokenizer, with_template(FORMS[form], template), thinking)
  if form == "llama3":
    raise ValueError("form 'llama3' needs the hub folder's template")
  return Chat(tokenizer, FORMS[form], thinking)


def heard(turn: Turn) -> bool:
  """What an agent hears: all but the user's own calls and their answers."""
  if turn.role == "user":
    return not turn.tool_calls
  return turn.role != "tool" or turn.requestor != "user"


def check_template(form: Form) -> None:
  """Refuses a template that rewrites earlier turns when later ones come.

  Thoughts excepted: Qwen3's template drops those of earlier answers. Rows keep
  what was sampled, so the template's opinion of old thoughts is not asked.
  """
  tool = {"role": "tool", "content": "4", "tool_call_id": "a", "name": "f"}
  chat = [_USER, _said("One."), _USER, _said("Two."), tool, _said("Three.")]
  plain = lambda n: re.sub(_THOUGHT, "", form.render(chat[:n], [], False))
  whole = plain(len(chat))
  for n in (2, 3, 4, 5):
    part = plain(n)
    # Closing a group of tool answers is part of the turn that follows it.
    at = part.rindex(form.stop)
    if not whole.startswith(part[:at]):
      raise ValueError(
        f"the chat template rewrites turn {n - 1} of a conversation when more"
        f" is said: {part[:at]!r} is no prefix of {whole!r}; token-in token-out"
        " needs a template that only appends"
      )
  for generate in (False, True):
    _behind(form.render([*_DUMMY, _USER], [], generate), form.stop)


# ----------------------------------------------------------------- the messages


def _said(text: str) -> Message:
  return {"role": "assistant", "content": text}


_USER: Message = {"role": "user", "content": "Hello."}
_DUMMY = (_USER, _said(_MARK))
_THOUGHT = re.compile(f"{THINK}.*?{END_THINK}\\s*", re.DOTALL)
_EMPTY_THOUGHT = re.compile(f"{THINK}\\s*{END_THINK}\\s*")


def _behind(text: str, stop: str) -> str:
  """What a render says behind the dummy answer and its end of turn."""
  _, found, rest = text.rpartition(_MARK)
  if not found or not rest.startswith(stop):
    raise ValueError(
      f"the chat template does not end an answer by {stop!r}: {text!r}"
    )
  return rest[len(stop) :]


def _system_message(text: str) -> Message:
  return {"role": "system", "content": text}


def message(
  turn: Turn, safe: Callable[[str], str] = lambda text: text
) -> Message:
  """A turn as templates expect it; `safe` rewrites what others said."""
  content = safe(turn.content or "")
  if turn.role == "tool":
    return {"role": "tool", "content": content, "tool_call_id": turn.call_id}
  calls = [
    {
      "id": c.id,
      "type": "function",
      "function": {"name": c.name, "arguments": dict(c.arguments)},
    }
    for c in turn.tool_calls
  ]
  out = {"role": turn.role, "content": content}
  return {**out, "tool_calls": calls} if calls else out


def functions(tools: Sequence[ToolSchema]) -> list[dict[str, Any]]:
  """Schemas as OpenAI writes them, which all templates expect."""
  return [
    {
      "type": "function",
      "function": {
        "name": t.name,
        "description": t.description,
        "parameters": dict(t.parameters),
      },
    }
    for t in tools
  ]


# ------------------------------------------------------------------- the forms


def _chatml(
  messages: Sequence[Message],
  tools: Sequence[Mapping[str, Any]],
  generate: bool,
  schemas: Callable[[Sequence[Mapping[str, Any]]], str],
  call: Callable[[str, Mapping[str, Any]], str],
) -> str:
  """<|im_start|>role\\n...<|im_end|>\\n; answers of tools are user turns, those
  to one answer share a turn (Qwen2.5's layout)."""
  out = []
  for i, m in enumerate(messages):
    role, content = m["role"], m["content"]
    if role == "tool":
      first = i == 0 or messages[i - 1]["role"] != "tool"
      last = i + 1 == len(messages) or messages[i + 1]["role"] != "tool"
      text = f"\n<tool_response>\n{content}\n</tool_response>"
      out.append("<|im_start|>user" * first + text + "<|im_end|>\n" * last)
      continue
    if role == "system" and tools:
      content += schemas(tools)
    for c in m.get("tool_calls", ()):
      f = c["function"]
      content += "\n" * bool(content) + call(f["name"], f["arguments"])
    out.append(f"<|im_start|>{role}\n{content}<|im_end|>\n")
  return "".join(out) + "<|im_start|>assistant\n" * generate


def _dump(x: Any, tight: bool = False) -> str:
  marks = (",", ":") if tight else (", ", ": ")
  return json.dumps(x, ensure_ascii=False, separators=marks)


def _hermes_schemas(tools: Sequence[Mapping[str, Any]]) -> str:
  """The words that Qwen2.5 and Qwen3 were trained with."""
  lines = "\n".join(_dump(t) for t in tools)
  return (
    "\n\n# Tools\n\nYou may call one or more functions to assist with the user"
    " query.\n\nYou are provided with function signatures within"
    f" <tools></tools> XML tags:\n<tools>\n{lines}\n</tools>\n\nFor each"
    " function call, return a json object with function name and arguments"
    f" within {OPEN}{CLOSE} XML tags:\n{OPEN}\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n' + CLOSE
  )


def _hermes_call(name: str, arguments: Mapping[str, Any]) -> str:
  return f"{OPEN}\n{_dump({'name': name, 'arguments': arguments})}\n{CLOSE}"


def signature(function: Mapping[str, Any]) -> str:
  """`name(id: string, n?: integer, way: a|b)`: a schema in one line."""
  p = function["parameters"]
  return f"{function['name']}({_fields(p, p.get('$defs', {}))})"


def _fields(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> str:
  required = schema.get("required", ())
  return ", ".join(
    f"{k}{'' if k in required else '?'}: {_type(v, defs)}"
    for k, v in schema.get("properties", {}).items()
  )


def _type(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> str:
  if "$ref" in schema:
    schema = defs[schema["$ref"].rsplit("/", 1)[-1]]
  if "anyOf" in schema:
    kinds = [_type(s, defs) for s in schema["anyOf"]]
    return "|".join(k for k in dict.fromkeys(kinds) if k != "object")
  if "enum" in schema:
    return "|".join(map(str, schema["enum"]))
  if schema.get("type") == "array":
    return f"[{_type(schema.get('items', {}), defs)}]"
  if schema.get("properties"):
    return f"{{{_fields(schema, defs)}}}"
  return str(schema.get("type", "any"))


def plain(x: Any) -> str:
  """A JSON value without quotes, nulls and what is empty; no brackets around
  the whole."""
  if isinstance(x, dict):
    return ",".join(f"{k}:{_bracketed(v)}" for k, v in x.items() if _says(v))
  if isinstance(x, list):
    return ",".join(_bracketed(v) for v in x if _says(v))
  return x if isinstance(x, str) else _dump(x)


def _bracketed(x: Any) -> str:
  if isinstance(x, dict):
    return f"({plain(x)})"
  return f"[{plain(x)}]" if isinstance(x, list) else plain(x)


def _says(x: Any) -> bool:
  return x not in (None, "", [], {})


def record(text: str) -> str:
  """`plain` of a text that holds a JSON record or list, else the text."""
  try:
    value = json.loads(text)
  except (json.JSONDecodeError, RecursionError):
    return text
  return plain(value) if isinstance(value, dict | list) else text


def _words_or_calls(text: str) -> str | list[str]:
  """Words without calls, or the insides of calls without words."""
  if OPEN not in text and CLOSE not in text:
    if not text.strip():
      raise Malformed("empty")
    return text.strip()
  marks = re.findall(f"{OPEN}|{CLOSE}", text)
  if marks != [OPEN, CLOSE] * (len(marks) // 2):
    raise Malformed("unclosed_call", " ".join(marks))
  pieces = re.split(f"{OPEN}|{CLOSE}", text)
  if words := "".join(pieces[::2]).strip():
    raise Malformed("text_beside_call", words[:80])
  return pieces[1::2]


def _json(text: str) -> Any:
  def unique(pairs):
    if len(dict(pairs)) != len(pairs):
      raise Malformed("bad_json", f"a key twice in {text[:80]!r}")
    return dict(pairs)

  def refuse(constant):
    raise Malformed("bad_json", f"{constant} in {text[:80]!r}")

  try:
    return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
  except (json.JSONDecodeError, RecursionError) as e:
    raise Malformed("bad_json", f"{e} in {text[:80]!r}") from None


def _call(
  value: Any, arguments: str = "arguments"
) -> tuple[str, dict[str, Any]]:
  """A call from JSON with exactly the keys "name" and `arguments`."""
  if not isinstance(value, dict) or set(value) != {"name", arguments}:
    raise Malformed("bad_call", f"keys must be name and {arguments}: {value}")
  name, given = value["name"], value[arguments]
  if not isinstance(name, str) or not name or not isinstance(given, dict):
    raise Malformed("bad_call", f"name: text, {arguments}: object; {value}")
  return name, given


def parse_hermes(text: str) -> str | list[tuple[str, dict[str, Any]]]:
  said = _words_or_calls(text)
  return said if isinstance(said, str) else [_call(_json(s)) for s in said]


def parse_compact(text: str) -> str | list[tuple[str, dict[str, Any]]]:
  words, *said = text.split(OPEN)
  if CLOSE in text:
    raise Malformed("unclosed_call", f"{CLOSE} does not belong to this form")
  if not said:
    if not words.strip():
      raise Malformed("empty")
    return words.strip()
  if words.strip():
    raise Malformed("text_beside_call", words[:80])
  calls = []
  for s in said:
    found = re.fullmatch(r"(\w+)(\{.*\})?", s, re.DOTALL)
    if found is None:
      raise Malformed("bad_call", f"name{{...}} expected: {s[:80]!r}")
    arguments = _json(found[2]) if found[2] else {}
    calls.append(_call({"name": found[1], "arguments": arguments}))
  return calls


def parse_llama3(text: str) -> str | list[tuple[str, dict[str, Any]]]:
  """One call as bare JSON; text that does not begin with { is words."""
  text = text.strip()
  if not text:
    raise Malformed("empty")
  if not text.startswith("{"):
    return text
  return [_call(_json(text), "parameters")]


def _hermes(messages, tools, generate: bool) -> str:
  return _chatml(messages, tools, generate, _hermes_schemas, _hermes_call)


def _compact(messages, tools, generate: bool) -> str:
  out = []
  for m in messages:
    role, text = m["role"], m["content"]
    if role == "tool":
      out.append("<tool_response>" + record(text))
    elif role == "assistant":
      calls = (c["function"] for c in m.get("tool_calls", ()))
      text += "".join(_compact_call(f["name"], f["arguments"]) for f in calls)
      out.append(f"<|im_start|>{text}<|im_end|>")
    else:
      schemas = [signature(t["function"]) for t in tools]
      lines = [text, *schemas] if role == "system" else [text]
      out.append("".join(f"{line}\n" for line in lines))
  return "".join(out) + "<|im_start|>" * generate


def _compact_call(name: str, arguments: Mapping[str, Any]) -> str:
  return OPEN + name + (_dump(arguments, tight=True) if arguments else "")


FORMS = {
  "hermes": Form(_hermes, parse_hermes, "<|im_end|>"),
  "compact": Form(_compact, parse_compact, "<|im_end|>"),
  "llama3": Form(_hermes, parse_llama3, "<|eot_id|>"),
}


def with_template(form: Form, template: str) -> Form:
  """The form with a hub folder's Jinja template in place of its rendering."""
  from jinja2 import sandbox

  def fail(message):
    raise ValueError(f"the chat template refuses: {message}")

  # The settings under which hub templates are written (transformers').
  environment = sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=["jinja2.ext.loopcontrols"],
  )
  environment.filters["tojson"] = lambda x, indent=None: json.dumps(
    x, ensure_ascii=False, indent=indent
  )
  environment.globals["raise_exception"] = fail
  compiled = environment.from_string(template)

  def render(messages, tools, generate: bool) -> str:
    return compiled.render(
      messages=list(messages),
      tools=list(tools) or None,
      add_generation_prompt=generate,
    )

  return form._replace(render=render)
