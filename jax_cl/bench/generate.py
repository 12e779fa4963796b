"""Tokens a second: ours beside transformers (torch), same sizes and machine.

  prefill     8 prompts of 512 tokens into empty slots, float32
  decode      128 tokens more for each, sampled at temperature 1
  multi_turn  conversations behind a prefix of 5,120 tokens that all share, in
              turns of 64 tokens read and 32 sampled: our engine keeps what it
              has read, transformers reads everything again at each turn; the
              tokens sampled a second, reading included

Weights are random: no stop is met, and both sides do all of the work. Each
side runs in a process of its own, after a warm-up that compiles; the best of
`repeats` is taken. `*_mb` is the peak of that process's memory over what it
had before the weights. On a CPU, decoding is bound by the bytes of weights and
caches that each step reads, which are the same for both.
"""

from __future__ import annotations

import functools
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_cl import engine, generate, names, processes
from jax_cl.policies import base, hub, llama, slots, tiny

WHATS = ("prefill", "decode", "multi_turn")
SHAPES: dict[str, Callable[[], base.Policy]] = {
  "tiny": tiny.make,
  "smollm2": functools.partial(llama.make, "smollm2-135m"),
}


class Sizes(NamedTuple):
  rows: int
  prompt: int  # tokens
  new: int
  prefix: int
  turns: int
  read: int  # tokens a turn
  sampled: int
  conversations: int
  repeats: int


def run(
  shapes: Sequence[str] | str = tuple(SHAPES),
  whats: Sequence[str] | str = WHATS,
  rows: int = 8,
  prompt: int = 512,
  new: int = 128,
  prefix: int = 5120,
  turns: int = 4,
  read: int = 64,
  sampled: int = 32,
  conversations: int = 4,
  repeats: int = 3,
) -> Iterator[dict[str, Any]]:
  """Rows {shape, what, ours, peer, ratio, ours_mb, peer_mb}, tokens/s."""
  shapes = names.several("shape", shapes, SHAPES)
  whats = names.several("measurement", whats, WHATS)
  sizes = Sizes(
    rows, prompt, new, prefix, turns, read, sampled, conversations, repeats
  )
  for shape in shapes:
    for sides in _kinds(whats):
      ours, peer = (_apart(f, shape, sizes) for f in sides)
      for what in whats:
        if what in ours:
          yield {
            "shape": shape,
            "what": what,
            "ours": ours[what],
            "peer": peer[what],
            "ratio": ours[what] / peer[what],
            "ours_mb": ours["mb"],
            "peer_mb": peer["mb"],
          }


def _kinds(whats: Sequence[str]):
  if set(whats) & {"prefill", "decode"}:
    yield our_single, peer_single
  if "multi_turn" in whats:
    yield our_turns, peer_turns


def _apart(f, shape: str, sizes: Sizes) -> dict[str, float]:
  """f in a fresh process, so that neither side's threads or memory count."""
  with processes.pool(1) as pool:
    return processes.run(pool, f, [(shape, sizes)])[0]


def _peak_mb() -> float:
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _tokens(policy: base.Policy, *shape: int) -> np.ndarray:
  rng = np.random.default_rng(0)
  return rng.integers(1, policy.config.vocab, shape, dtype=np.int32)


# ------------------------------------------------------------------------ ours

STEPS = 32  # tokens sampled in one call


def our_single(shape: str, z: Sizes) -> dict[str, float]:
  """{prefill, decode, mb} of the pure functions that the engine calls."""
  policy, before = SHAPES[shape](), _peak_mb()
  params = jax.jit(lambda key: base.unstack(policy.init(key)))(
    jax.random.key(0)
  )
  tokens = jnp.asarray(_tokens(policy, z.rows, z.prompt))
  count = jnp.full(z.rows, z.prompt, jnp.int32)
  total = -(-(z.prompt + z.new) // slots.BLOCK) * slots.BLOCK

  @jax.jit
  def fill(params):
    return slots.grow(generate.fill(policy, params, tokens, count), total)

  decode = jax.jit(
    functools.partial(
      generate.decode, policy, steps=min(STEPS, z.new), truncate=False
    ),
    donate_argnames="cache",
  )
  none = jnp.zeros((0,), jnp.int32)
  best = {"prefill": 0.0, "decode": 0.0}
  for _ in range(z.repeats + 1):  # the first compiles
    start = time.perf_counter()
    cache = jax.block_until_ready(fill(params))
    middle = time.perf_counter()
    state = _state(np.asarray(tokens[:, -1]), z.new)
    while int(state.left[0]):
      cache, state, _ = decode(params, cache=cache, state=state, stops=none)
    end = time.perf_counter()
    best = {
      "prefill": max(best["prefill"], tokens.size / (middle - start)),
      "decode": max(best["decode"], z.rows * z.new / (end - middle)),
    }
  return {**best, "mb": _peak_mb() - before}


def _state(last: np.ndarray, new: int) -> generate.SamplingState:
  B = last.size
  full = lambda x, dtype: jnp.full(B, x, dtype)
  return generate.SamplingState(
    token=jnp.asarray(last, jnp.int32),
    left=full(new, jnp.int32),
    seed=jnp.arange(B, dtype=jnp.uint32),
    temperature=full(1, jnp.float32),
    top_p=full(1, jnp.float32),
    top_k=full(0, jnp.int32),
  )


def our_turns(shape: str, z: Sizes) -> dict[str, float]:
  """{multi_turn, mb} of an engine: weights swapped in, to the last answer."""
  policy, before = SHAPES[shape](), _peak_mb()
  params = jax.jit(policy.init)(jax.random.key(0))
  room = z.prefix + z.turns * (z.read + z.sampled)
  eng = engine.make(
    policy,
    stops=(),
    slots=z.conversations,
    context=room,
    chunk=z.read,
    steps=z.sampled,
  )
  prefix = _tokens(policy, z.prefix).tolist()
  said = _tokens(policy, z.turns, z.conversations, z.read).tolist()
  best = 0.0
  for version in range(z.repeats + 1):  # the first compiles
    start = time.perf_counter()
    eng.swap(params, version)
    for i in range(z.conversations):
      eng.submit(
        i,
        prefix,
        said[0][i],
        seed=i,
        sampling=engine.Sampling(),
        max_tokens=z.sampled,
      )
    for turn in range(1, z.turns + 1):
      for answer in eng.step():
        if turn < z.turns:
          eng.reply(answer.key, said[turn][answer.key], z.sampled)
        else:
          eng.close(answer.key)
    seconds = time.perf_counter() - start
    best = max(best, z.turns * z.conversations * z.sampled / seconds)
  return {"multi_turn": best, "mb": _peak_mb() - before}


# ------------------------------------------------------------------------ peer


def _peer(shape: str):
  """(torch, a model of the same sizes, its device, memory before it)."""
  try:
    import torch
    import transformers
  except ImportError as e:
    raise ValueError("torch is not installed: make setup EXTRAS=test") from e
  before = _peak_mb()
  fields = hub.to_json(SHAPES[shape]().config)
  config = transformers.AutoConfig.for_model(**fields)
  config.bos_token_id = config.eos_token_id = config.pad_token_id = None
  model = transformers.AutoModelForCausalLM.from_config(
    config, dtype=torch.float32
  )
  device = "cuda" if torch.cuda.is_available() else "cpu"
  return torch, model.eval().to(device), device, before


def _continue(torch, model, ids, new: int):
  """`new` more tokens by `generate`: sampled, with its own cache."""
  with torch.no_grad():
    return model.generate(
      ids,
      attention_mask=torch.ones_like(ids),
      do_sample=True,
      temperature=1.0,
      top_k=0,
      max_new_tokens=new,
    )


def peer_single(shape: str, z: Sizes) -> dict[str, float]:
  """{prefill, decode, mb}: prefill is `generate` of one token, and decode
  what the others take."""
  policy = SHAPES[shape]()
  torch, model, device, before = _peer(shape)
  tokens = _tokens(policy, z.rows, z.prompt).astype(np.int64)
  ids = torch.tensor(tokens, device=device)
  _continue(torch, model, ids[:, :64], 2)  # warm
  one = whole = float("inf")
  for _ in range(z.repeats):
    start = time.perf_counter()
    _continue(torch, model, ids, 1)
    middle = time.perf_counter()
    _continue(torch, model, ids, z.new + 1)
    one = min(one, middle - start)
    whole = min(whole, time.perf_counter() - middle)
  return {
    "prefill": tokens.size / one,
    "decode": z.rows * z.new / (whole - one),
    "mb": _peak_mb() - before,
  }


def peer_turns(shape: str, z: Sizes) -> dict[str, float]:
  """{multi_turn, mb}: each turn is a `generate` over all that was said."""
  policy = SHAPES[shape]()
  torch, model, device, before = _peer(shape)
  tensor = lambda x: torch.tensor(x.astype(np.int64), device=device)
  prefix = _tokens(policy, z.prefix)
  said = _tokens(policy, z.turns, z.conversations, z.read)
  _continue(torch, model, tensor(said[0]), 2)  # warm
  start = time.perf_counter()  # once: minutes, nearly all of them prefill
  ids = tensor(np.tile(prefix, (z.conversations, 1)))
  for turn in said:
    ids = torch.cat([ids, tensor(turn)], dim=1)
    ids = _continue(torch, model, ids, z.sampled)
  seconds = time.perf_counter() - start
  sampled = z.turns * z.conversations * z.sampled
  return {"multi_turn": sampled / seconds, "mb": _peak_mb() - before}
