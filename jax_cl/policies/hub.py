"""Hub folders: config.json and safetensors, read into shards, and written.

Files are those of transformers: `read(folder)` takes what `save_pretrained`
wrote, and `from_pretrained` takes what `write` wrote, with the same logits.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import safetensors
import tokenizers
from safetensors.numpy import save_file

from jax_cl import policies, tree
from jax_cl.policies import base, lora, rope

PyTree = Any
Path = str | os.PathLike
FAMILIES = ("llama", "qwen2", "qwen3")  # config.json's model_type
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZER_FILES = (
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "vocab.json",
  "merges.txt",
  "chat_template.jinja",
  "generation_config.json",
)

# ------------------------------------------------------------------ config.json


def config_of(folder: Path) -> base.Config:
  """The sizes that a folder declares. Only config.json need be there."""
  path = pathlib.Path(folder) / "config.json"
  return from_json(_json(path), path)


def from_json(c: Mapping[str, Any], path: Path) -> base.Config:
  """Our config of config.json's keys; `path` is named in errors.

  What we do not compute is refused, not ignored. "dynamic" RoPE equals plain
  RoPE up to the context, which is all we promise to serve.
  """
  family = c.get("model_type")
  if family not in FAMILIES:
    raise ValueError(
      f"{path}: model_type {family!r} is not implemented; known:"
      f" {', '.join(FAMILIES)}"
    )
  _refuse(path, c)
  try:
    heads, width = c["num_attention_heads"], c["hidden_size"]
    layers, context = c["num_hidden_layers"], c["max_position_embeddings"]
    theta, scaling = _rope(path, c)
    out = base.Config(
      family=family,
      layers=layers,
      width=width,
      heads=heads,
      kv_heads=c.get("num_key_value_heads") or heads,
      head_width=c.get("head_dim")
      or (128 if family == "qwen3" else width // heads),
      ff_width=c["intermediate_size"],
      vocab=c["vocab_size"],
      context=context,
      rope_theta=theta,
      rope_scaling=scaling,
      norm_eps=c.get("rms_norm_eps", 1e-6),
      tied=c.get("tie_word_embeddings", False),
      qk_norm=family == "qwen3",
      **_biases(family, c),
      **_window(family, c, layers),
    )
  except KeyError as e:
    raise ValueError(f"{path}: no key {e.args[0]!r}") from e
  try:
    base.check(out)
  except ValueError as e:
    raise ValueError(f"{path}: {e}") from e
  return out


def _refuse(path: Path, c: Mapping[str, Any]) -> None:
  act = c.get("hidden_act", "silu")
  if act not in ("silu", "swish"):
    raise ValueError(f"{path}: hidden_act {act!r} is not implemented; silu is")
  if c.get("quantization_config"):
    raise ValueError(
      f"{path}: quantised weights are read from GGUF files only; take the"
      " unquantised folder"
    )


def _rope(
  path: Path, c: Mapping[str, Any]
) -> tuple[float, rope.Scaling | None]:
  """(theta, scaling) from transformers 5's `rope_parameters`, or older keys."""
  r = c.get("rope_scaling") or c.get("rope_parameters") or {}
  theta = float(r.get("rope_theta") or c.get("rope_theta") or 10000.0)
  kind = r.get("rope_type") or r.get("type") or "default"
  partial = r.get("partial_rotary_factor", c.get("partial_rotary_factor", 1.0))
  nested = any(isinstance(x, dict) for x in r.values())
  if partial not in (None, 1) or nested:
    raise ValueError(
      f"{path}: RoPE of a part of the channels, or by kind of layer, is not"
      " implemented"
    )
  if kind in ("default", "dynamic"):
    return theta, None
  if kind not in rope.KINDS:
    raise ValueError(
      f"{path}: RoPE scaling {kind!r} is not implemented; known: default,"
      f" dynamic, {', '.join(rope.KINDS)}"
    )
  original = c.get("original_max_position_embeddings") or r.get(
    "original_max_position_embeddings", c["max_position_embeddings"]
  )
  factor = r.get("factor") or c["max_position_embeddings"] / original
  more: dict[str, Any] = {
    k: float(r[k]) for k in _SCALING_KEYS[kind] if r.get(k) is not None
  }
  if kind == "yarn":
    more |= {"gain": _gain(r, factor), "truncate": r.get("truncate", True)}
  if kind != "linear":
    more["original_context"] = original
  return theta, rope.Scaling(kind, float(factor), **more)


_SCALING_KEYS = {
  "linear": (),
  "llama3": ("low_freq_factor", "high_freq_factor"),
  "yarn": ("beta_fast", "beta_slow"),
}


def _gain(r: Mapping[str, Any], factor: float) -> float:
  if r.get("attention_factor") is not None:
    return float(r["attention_factor"])
  m, all_ = r.get("mscale"), r.get("mscale_all_dim")
  if m and all_:
    return rope.yarn_gain(factor, m) / rope.yarn_gain(factor, all_)
  return rope.yarn_gain(factor)


def _biases(family: str, c: Mapping[str, Any]) -> dict[str, bool]:
  if family == "qwen2":
    return {"qkv_bias": True}
  every = bool(c.get("attention_bias", False))
  mlp = family == "llama" and bool(c.get("mlp_bias", False))
  return {"qkv_bias": every, "o_bias": every, "mlp_bias": mlp}


def _window(family: str, c: Mapping[str, Any], layers: int) -> dict[str, Any]:
  window = c.get("sliding_window")
  if family == "llama" or not c.get("use_sliding_window") or not window:
    return {}
  first = c.get("max_window_layers", 28)
  kinds = c.get("layer_types") or [
    "sliding_attention" if i >= first else "full_attention"
    for i in range(layers)
  ]
  slide = tuple(i for i, k in enumerate(kinds) if k == "sliding_attention")
  return {"window": window, "window_layers": slide}


def to_json(config: base.Config) -> dict[str, Any]:
  """What config.json says of our config, in keys that old readers know."""
  c = config
  out = {
    "architectures": [f"{c.family.capitalize()}ForCausalLM"],
    "model_type": c.family,
    "hidden_act": "silu",
    "hidden_size": c.width,
    "intermediate_size": c.ff_width,
    "num_hidden_layers": c.layers,
    "num_attention_heads": c.heads,
    "num_key_value_heads": c.kv_heads,
    "head_dim": c.head_width,
    "vocab_size": c.vocab,
    "max_position_embeddings": c.context,
    "rms_norm_eps": c.norm_eps,
    "rope_theta": c.rope_theta,
    "rope_scaling": _scaling_json(c.rope_scaling),
    "tie_word_embeddings": c.tied,
  }
  if c.family == "llama":
    out |= {"attention_bias": c.qkv_bias, "mlp_bias": c.mlp_bias}
  else:
    out |= {
      "attention_bias": c.qkv_bias and c.o_bias,
      "use_sliding_window": bool(c.window_layers),
      "sliding_window": c.window or None,
      "max_window_layers": min(c.window_layers, default=c.layers),
      "layer_types": [
        f"{'sliding' if i in c.window_layers else 'full'}_attention"
        for i in range(c.layers)
      ],
    }
  return out


def _scaling_json(s: rope.Scaling | None) -> dict[str, Any] | None:
  if s is None:
    return None
  out: dict[str, Any] = {"rope_type": s.kind, "factor": s.factor}
  out |= {k: getattr(s, k) for k in _SCALING_KEYS[s.kind]}
  if s.kind == "yarn":
    out |= {"truncate": s.truncate, "attention_factor": s.gain}
  if s.kind != "linear":
    out["original_max_position_embeddings"] = s.original_context
  return out


# ---------------------------------------------------------------------- reading


def read(
  folder: Path,
  layers: int | None = None,
  *,
  dtype: str = "float32",
  shardings: PyTree | None = None,
) -> tuple[base.Config, PyTree]:
  """(Config, params) of a folder; the first `layers` only.

  `dtype` is that of the parameters ("bfloat16" for a base that stays frozen).
  Leaves are numpy arrays; with `shardings`, a tree of them like the params,
  each device's shard is read from the file by itself, and the whole tensor is
  never in memory.
  """
  folder = pathlib.Path(folder)
  config = config_of(folder)
  family = policies.family(config.family)
  n = config.layers if layers is None else layers
  if not 0 < n <= config.layers:
    raise ValueError(f"layers={n}: {folder} holds 1 to {config.layers}")
  files = _Tensors(folder)
  want = jax.eval_shape(family.make(config).init, jax.random.key(0))
  want = dict(zip(tree.paths(want), jax.tree.leaves(want)))
  targets = (
    dict.fromkeys(want)
    if shardings is None
    else dict(zip(tree.paths(shardings), jax.tree.leaves(shardings)))
  )
  flat = {}
  for path, leaf in want.items():
    shape = leaf.shape
    if "{}" in (name := family.WEIGHT_MAP[path]):
      shape = (n, *shape[1:])
    part = _reader(files, name, path, shape, np.dtype(dtype))
    flat[path] = _place(part, shape, targets[path])
  return config, tree.nest(flat)


def _reader(
  files: _Tensors, name: str, path: str, shape: tuple[int, ...], dtype
) -> Callable[[tuple[slice, ...]], np.ndarray]:
  """index -> that part of our leaf. Shapes are checked here, not later."""
  flip = path.endswith("/kernel")
  stacked = "{}" in name
  tensor = shape[1:] if stacked else shape
  hub_names = [name.format(i) for i in range(shape[0])] if stacked else [name]
  for hub_name in hub_names:
    files.check(hub_name, tensor[::-1] if flip else tensor)

  def one(hub_name: str, index: tuple[slice, ...]) -> np.ndarray:
    got = files.part(hub_name, index[::-1] if flip else index)
    return (got.T if flip else got).astype(dtype)

  def part(index: tuple[slice, ...]) -> np.ndarray:
    if not stacked:
      return np.ascontiguousarray(one(name, index))
    return np.stack([one(h, index[1:]) for h in hub_names[index[0]]])

  return part


def _place(
  part, shape: tuple[int, ...], sharding: jax.sharding.Sharding | None
):
  if sharding is None:
    return part(tuple(slice(0, n) for n in shape))
  seen: dict[Any, np.ndarray] = {}  # replicas ask for the same part again

  def shard(index):
    index = tuple(slice(*i.indices(n)[:2]) for i, n in zip(index, shape))
    key = tuple((i.start, i.stop) for i in index)
    if key not in seen:
      seen[key] = part(index)
    return seen[key]

  return jax.make_array_from_callback(shape, sharding, shard)


class _Tensors:
  """The tensors of a folder by name, whatever file they lie in."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    self._files: dict[str, Any] = {}
    if (folder / SINGLE).exists():  # where both are, transformers takes it too
      self._where = dict.fromkeys(self._open(SINGLE).keys(), SINGLE)
    elif (folder / INDEX).exists():
      self._where = dict(_json(folder / INDEX)["weight_map"])
    else:
      raise ValueError(
        f"{folder}: neither {SINGLE} nor {INDEX}; other formats are not read"
        " (save_pretrained writes safetensors)"
      )

  def check(self, name: str, shape: tuple[int, ...]) -> None:
    got = tuple(self._slice(name).get_shape())
    if got != shape:
      raise ValueError(
        f"{self._folder / self._where[name]}: {name} has shape {got}, but"
        f" config.json asks for {shape}"
      )

  def part(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
    return np.asarray(self._slice(name)[index])

  def _slice(self, name: str):
    if name not in self._where:
      raise ValueError(
        f"{self._folder}: no tensor {name!r}, which config.json asks for"
      )
    file = self._open(self._where[name])
    try:
      return file.get_slice(name)
    except safetensors.SafetensorError as e:
      where = self._folder / self._where[name]
      raise ValueError(
        f"{where}: no tensor {name!r}, though {INDEX} says so"
      ) from e

  def _open(self, file: str):
    if file not in self._files:
      path = self._folder / file
      if not path.exists():
        raise ValueError(
          f"{path} is missing, though {INDEX} names it; fetch it"
        )
      try:
        self._files[file] = safetensors.safe_open(path, "numpy")
      except (safetensors.SafetensorError, OSError) as e:
        raise ValueError(
          f"damaged or truncated file {path} ({e}); delete it and fetch it"
          " again"
        ) from e
    return self._files[file]


def _json(path: pathlib.Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text())
  except FileNotFoundError as e:
    raise ValueError(
      f"{path} is missing: a model folder holds config.json and safetensors"
    ) from e
  except (json.JSONDecodeError, UnicodeDecodeError) as e:
    raise ValueError(f"damaged {path} ({e}); fetch it again") from e


# ---------------------------------------------------------------------- writing


def write(
  folder: Path,
  config: base.Config,
  params: PyTree,
  *,
  tokenizer: tokenizers.Tokenizer | None = None,
  like: Path | None = None,
  dtype: str = "float32",
  shard_bytes: int = 5 << 30,
) -> None:
  """A folder that transformers loads, with adapters merged into the kernels.

  `like`: the folder that the model came from, whose tokenizer files and
  further keys of config.json (token ids, say) are taken over. bfloat16 rounds
  merged kernels, float32 does not.
  """
  out = pathlib.Path(folder)
  keys = to_json(config)
  if from_json(keys, out) != _published(config):
    raise ValueError(
      f"a {config.family} folder cannot say all of {config}; its family's"
      " config.json has no key for some of these switches"
    )
  out.mkdir(parents=True, exist_ok=True)
  if like is not None:
    keys = _json(pathlib.Path(like) / "config.json") | keys
    keys.pop("rope_parameters", None)  # says the same as rope_scaling
    _copy_tokenizer(pathlib.Path(like), out)
  if tokenizer is not None:
    _write_tokenizer(tokenizer, out)
  keys["dtype"] = keys["torch_dtype"] = dtype
  (out / "config.json").write_text(json.dumps(keys, indent=2) + "\n")
  merged = lora.merge(params, config.lora_scale)
  state = to_hub(merged, policies.family(config.family).WEIGHT_MAP)
  _write_shards(out, state, np.dtype(dtype), shard_bytes)


def _published(config: base.Config) -> base.Config:
  """What a folder can say of a config: not how we compute and train it."""
  return dataclasses.replace(
    config,
    **{k: base.Config.__dataclass_fields__[k].default for k in _OURS},
  )


_OURS = (
  "dtype", "remat", "attention_block", "lora_rank", "lora_alpha",
  "lora_targets",
)  # fmt: skip


def to_hub(
  params: PyTree, weight_map: Mapping[str, str]
) -> dict[str, np.ndarray]:
  """Our tree under the hub's names and orientation (tied heads stay out)."""
  return dict(_hub_tensors(params, weight_map))


def _hub_tensors(
  params: PyTree, weight_map: Mapping[str, str]
) -> Iterator[tuple[str, np.ndarray]]:
  for ours, leaf in zip(tree.paths(params), jax.tree.leaves(params)):
    leaf, theirs = np.asarray(leaf), weight_map[ours]
    if ours.endswith("/kernel"):
      leaf = leaf.swapaxes(-1, -2)
    if "{}" in theirs:
      yield from ((theirs.format(i), a) for i, a in enumerate(leaf))
    else:
      yield theirs, leaf


def _write_shards(
  out: pathlib.Path, state: Mapping[str, np.ndarray], dtype, limit: int
) -> None:
  groups: list[list[str]] = [[]]
  held = 0
  for name, x in state.items():
    size = x.size * dtype.itemsize
    if groups[-1] and held + size > limit:
      groups.append([])
      held = 0
    groups[-1].append(name)
    held += size
  where = {}
  for i, group in enumerate(groups, 1):
    many = f"model-{i:05d}-of-{len(groups):05d}.safetensors"
    file = SINGLE if len(groups) == 1 else many
    tensors = {k: np.ascontiguousarray(state[k].astype(dtype)) for k in group}
    save_file(tensors, out / file, metadata={"format": "pt"})
    where |= dict.fromkeys(group, file)
  if len(groups) > 1:
    total = sum(x.size for x in state.values()) * dtype.itemsize
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (out / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _copy_tokenizer(source: pathlib.Path, out: pathlib.Path) -> None:
  for name in TOKENIZER_FILES:
    if (source / name).exists():
      shutil.copyfile(source / name, out / name)


def _write_tokenizer(t: tokenizers.Tokenizer, out: pathlib.Path) -> None:
  t.save(str(out / "tokenizer.json"))
  keys = {"tokenizer_class": "PreTrainedTokenizerFast"}
  known = t.get_vocab()
  for role, token in (("eos", "<|im_end|>"), ("pad", "<|endoftext|>")):
    if token in known:
      keys[f"{role}_token"] = token
  (out / "tokenizer_config.json").write_text(json.dumps(keys, indent=2) + "\n")


# -------------------------------------------------------------- PEFT's adapters


def write_adapter(
  folder: Path, config: base.Config, params: PyTree, *, base_model: str = ""
) -> None:
  """The adapters alone, as a folder that PEFT lays over `base_model`."""
  out = pathlib.Path(folder)
  weight_map = policies.family(config.family).WEIGHT_MAP
  state, targets = {}, set()
  for path, leaf in zip(tree.paths(params), jax.tree.leaves(params)):
    module, _, name = path.rpartition("/")
    if name not in _PEFT:
      continue
    theirs = weight_map[f"{module}/kernel"].removesuffix(".weight")
    targets.add(theirs.split("{}.")[-1])
    for i, x in enumerate(np.asarray(leaf, np.float32)):
      key = _peft_key(theirs.format(i), name)
      state[key] = np.ascontiguousarray(x.T)
  if not state:
    raise ValueError(
      "these parameters hold no adapters (lora_a, lora_b): a whole model is "
      "exported without --adapter"
    )
  keys = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": base_model,
    "r": config.lora_rank,
    "lora_alpha": config.lora_alpha,
    "lora_dropout": 0.0,
    "target_modules": sorted(targets),
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
  }
  out.mkdir(parents=True, exist_ok=True)
  (out / "adapter_config.json").write_text(json.dumps(keys, indent=2) + "\n")
  save_file(state, out / "adapter_model.safetensors", metadata={"format": "pt"})


_PEFT = {"lora_a": "lora_A", "lora_b": "lora_B"}


def _peft_key(module: str, name: str) -> str:
  return f"base_model.model.{module}.{_PEFT[name]}.weight"
