"""Hub folders: what transformers saved is read, what we wrote it loads."""

import json
import pathlib
import re

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from peers import random, relative
from safetensors.numpy import load_file

from jax_cl import policies, tree
from jax_cl.bench import logits as bench
from jax_cl.policies import hub, lora, rope, tiny, weights

SIZES = {
  "layers": 2,
  "width": 32,
  "heads": 4,
  "kv_heads": 2,
  "head_width": 16,
  "ff_width": 48,
  "vocab": 99,
  "context": 64,
}
FORMS = {
  "llama": {
    "tied": False,
    "qkv_bias": True,
    "o_bias": True,
    "mlp_bias": True,
    "rope_scaling": rope.Scaling("llama3", 8.0, 32, 1.5, 5.0),
  },
  "qwen2": {
    "window": 6,
    "window_layers": (1,),
    "rope_scaling": rope.Scaling("yarn", 4.0, 16, gain=1.25, truncate=False),
  },
  "qwen3": {"tied": False, "rope_scaling": rope.Scaling("linear", 2.0)},
}


def made(name, **changes):
  """(config, params) of a small model of a family, in numbers all its own."""
  family = policies.family(name)
  first = next(iter(family.VARIANTS))
  policy = family.make(first, **{**SIZES, **FORMS[name], **changes})
  shapes = jax.eval_shape(policy.init, jax.random.key(0))
  return policy.config, random(shapes)


def equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("name", FORMS)
def test_what_is_written_is_read(name, tmp_path):
  config, params = made(name)
  hub.write(tmp_path, config, params)
  got_config, got = hub.read(tmp_path)
  assert got_config == config
  equal(got, params)
  first = hub.read(tmp_path, layers=1)[1]
  equal(first["layers"], jax.tree.map(lambda a: a[:1], params["layers"]))


def test_transformers_computes_the_same_from_both_sides(tmp_path):
  """A folder of ours with merged adapters; then what it saves of that."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  config, params = made("qwen3", lora_rank=2, lora_alpha=3.0)
  hub.write(tmp_path / "ours", config, params, shard_bytes=20_000)
  assert len(list((tmp_path / "ours").glob("model-*.safetensors"))) > 2
  tokens = np.random.default_rng(0).integers(99, size=(1, 12), dtype=np.int32)
  theirs = bench.transformers_logits(tmp_path / "ours", tokens)
  policy = policies.family("qwen3").make(config)
  assert relative(bench.our_logits(policy, params, tokens), theirs) < 1e-4

  model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
  model.to(torch.bfloat16).save_pretrained(tmp_path / "theirs")
  config, params = hub.read(tmp_path / "ours")
  again, half = hub.read(tmp_path / "theirs", dtype="bfloat16")
  assert again == config
  equal(half, jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16), params))


def test_the_bench_reads_a_folder_that_transformers_wrote(tmp_path):
  pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  transformers.set_seed(0)
  config = transformers.Qwen2Config(
    vocab_size=60,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=48,
    initializer_range=0.3,
    use_sliding_window=True,
    sliding_window=8,
    max_window_layers=1,
    tie_word_embeddings=True,
    rope_parameters={
      "rope_type": "yarn", "rope_theta": 5000.0, "factor": 3.0,
      "original_max_position_embeddings": 16,
    },
  )  # fmt: skip
  transformers.Qwen2ForCausalLM(config).save_pretrained(tmp_path)
  (row,) = bench.run(model=str(tmp_path))
  assert row["model"] == str(tmp_path) and row["tokens"] == 2 * 48
  assert 0 < row["max_rel_diff"] < 1e-4


def test_each_device_reads_its_own_part(tmp_path):
  config, params = made("llama")
  hub.write(tmp_path, config, params)
  mesh = jax.make_mesh((2, 4), ("fsdp", "tensor"), (AxisType.Auto,) * 2)
  rules = {"width": "fsdp", "heads": "tensor", "kv_heads": "tensor"}
  rules |= {"ff": "tensor", "layers": None, "vocab": None}
  place = lambda axes: NamedSharding(mesh, PartitionSpec(*map(rules.get, axes)))
  axes = policies.family("llama").make(config).axes()
  shardings = jax.tree.map(place, axes, is_leaf=lambda x: isinstance(x, tuple))
  policy, got = weights.load(tmp_path, shardings=shardings)
  equal(got, params)
  q = got["layers"]["attn"]["q"]["kernel"]
  assert q.sharding == shardings["layers"]["attn"]["q"]["kernel"]
  assert {s.data.shape for s in q.addressable_shards} == {(2, 16, 16)}


def test_further_keys_and_the_tokenizer_travel(tmp_path):
  config, params = made("qwen2")
  source, out = tmp_path / "source", tmp_path / "out"
  hub.write(source, config, params, tokenizer=tiny.tokenizer())
  keys = json.loads((source / "config.json").read_text())
  (source / "config.json").write_text(json.dumps(keys | {"eos_token_id": 7}))
  hub.write(out, config, params, like=source, dtype="bfloat16")
  keys = json.loads((out / "config.json").read_text())
  assert keys["eos_token_id"] == 7 and keys["dtype"] == "bfloat16"
  text = "Order #W2378156"
  assert weights.tokenizer(out).encode(text).ids == (
    tiny.tokenizer().encode(text).ids
  )
  transformers = pytest.importorskip("transformers")
  # AutoTokenizer takes the class of the model's type, with its own pieces.
  theirs = transformers.PreTrainedTokenizerFast.from_pretrained(out)
  assert theirs.encode(text) == tiny.tokenizer().encode(text).ids
  assert (theirs.eos_token, theirs.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_adapters_as_peft_writes_them(tmp_path):
  config, params = made(
    "qwen2", lora_rank=2, lora_alpha=6.0, lora_targets="layers/(attn/q|mlp/up)"
  )
  hub.write_adapter(tmp_path, config, params, base_model="org/base")
  keys = json.loads((tmp_path / "adapter_config.json").read_text())
  assert keys["target_modules"] == ["mlp.up_proj", "self_attn.q_proj"]
  assert (keys["r"], keys["lora_alpha"]) == (2, 6.0)
  state = load_file(tmp_path / "adapter_model.safetensors")
  assert len(state) == 2 * 2 * 2
  # PEFT: W + alpha / r * B A, in the hub's orientation.
  module = "model.layers.1.self_attn.q_proj"
  a, b = (state[f"base_model.model.{module}.lora_{x}.weight"] for x in "AB")
  kept, _ = tree.split(params, tree.select(params, r"(?!.*lora_).*"))
  theirs = policies.family("qwen2").WEIGHT_MAP
  base = hub.to_hub(kept, theirs)[f"{module}.weight"]
  merged = hub.to_hub(lora.merge(params, 3.0), theirs)[f"{module}.weight"]
  np.testing.assert_allclose(base + 6.0 / 2 * b @ a, merged, atol=1e-5)
  with pytest.raises(ValueError, match="hold no adapters"):
    hub.write_adapter(tmp_path, config, kept)


def test_peft_computes_the_same(tmp_path):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  peft = pytest.importorskip("peft")
  config, params = made("llama", lora_rank=2, lora_alpha=6.0)
  kept, _ = tree.split(params, tree.select(params, r"(?!.*lora_).*"))
  hub.write(tmp_path / "base", config, kept)
  hub.write_adapter(tmp_path / "adapter", config, params)
  model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
  model = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
  tokens = np.random.default_rng(0).integers(99, size=(1, 12), dtype=np.int32)
  theirs = model(torch.tensor(tokens, dtype=torch.long)).logits
  policy = policies.family("llama").make(config)
  ours = bench.our_logits(policy, params, tokens)
  assert relative(ours, theirs.detach().numpy()) < 1e-4


def test_a_config_that_its_family_cannot_say_is_refused(tmp_path):
  config, params = made("qwen2", qk_norm=True)
  with pytest.raises(ValueError, match="qwen2 folder cannot say all of"):
    hub.write(tmp_path / "out", config, params)
  assert not (tmp_path / "out").exists()


# ----------------------------------------------------------------------- errors


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("hub")
  hub.write(path, *made("llama"), shard_bytes=20_000)
  return path


def broken(folder, tmp_path, **keys) -> pathlib.Path:
  """A copy whose config.json has other keys (None: is left out)."""
  for file in folder.iterdir():
    (tmp_path / file.name).write_bytes(file.read_bytes())
  c = json.loads((folder / "config.json").read_text()) | keys
  c = {k: v for k, v in c.items() if v is not None}
  (tmp_path / "config.json").write_text(json.dumps(c))
  return tmp_path


@pytest.mark.parametrize(
  "keys, message",
  [
    ({"model_type": "gemma3"}, "'gemma3' is not implemented; known: llama,"),
    ({"hidden_size": None}, "no key 'hidden_size'"),
    ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not implemented"),
    ({"quantization_config": {"bits": 4}}, "quantised weights"),
    ({"rope_scaling": {"rope_type": "longrope"}}, "'longrope' is not impl"),
    ({"partial_rotary_factor": 0.5}, "a part of the channels"),
    ({"intermediate_size": 40}, r"mlp.down_proj.weight has shape \(32, 48\),"
     r" but config.json asks for \(32, 40\)"),
    ({"num_hidden_layers": 3}, "no tensor 'model.layers.2.*asks for"),
    ({"head_dim": 7}, "head_width=7 must be even"),
  ],
)  # fmt: skip
def test_folders_that_cannot_be_read_say_why(folder, tmp_path, keys, message):
  path = broken(folder, tmp_path, **keys)
  with pytest.raises(ValueError, match=message) as e:
    weights.load(path)
  assert str(tmp_path) in str(e.value)


@pytest.mark.parametrize("part", [0, 5, 100, -1])
def test_a_truncated_file_is_named(folder, tmp_path, part):
  path = broken(folder, tmp_path)
  file = sorted(path.glob("model-*.safetensors"))[1]
  file.write_bytes(file.read_bytes()[:part])
  with pytest.raises(ValueError, match=f"truncated file {file}.*fetch it"):
    weights.load(path)


def test_missing_files_are_named(folder, tmp_path):
  path = broken(folder, tmp_path)
  file = sorted(path.glob("model-*.safetensors"))[-1]
  file.unlink()
  with pytest.raises(ValueError, match=f"{file} is missing, though"):
    weights.load(path)
  (path / hub.INDEX).write_text('{"weight_map": ')
  with pytest.raises(ValueError, match=f"damaged .*{hub.INDEX}"):
    weights.load(path)
  (path / hub.INDEX).unlink()
  with pytest.raises(ValueError, match="neither model.safetensors nor"):
    weights.load(path)
  with pytest.raises(ValueError, match="tokenizer.json is missing"):
    weights.tokenizer(path)
  (path / "config.json").unlink()
  with pytest.raises(ValueError, match="config.json is missing"):
    weights.load(path)


def test_a_tensor_that_an_index_promises_is_looked_for(folder, tmp_path):
  path = broken(folder, tmp_path)
  index = json.loads((path / hub.INDEX).read_text())
  files = sorted(set(index["weight_map"].values()))
  index["weight_map"]["model.norm.weight"] = files[0]
  (path / hub.INDEX).write_text(json.dumps(index))
  with pytest.raises(ValueError, match="no tensor 'model.norm.weight', though"):
    weights.load(path)


def test_without_a_hub_the_remedy_is_named(monkeypatch):
  import huggingface_hub

  def refuse(*args, **kwargs):
    raise OSError("no route to host\nand more")

  monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
  with pytest.raises(weights.NotFetched) as e:
    weights.load("Qwen/Qwen2.5-0.5B-Instruct")
  assert re.search(
    "no route to host\n.*hf download Qwen/Qwen2.5-0.5B-Instruct", str(e.value)
  )


def test_an_unknown_name_lists_what_is_taken():
  with pytest.raises(ValueError, match="did you mean 'smollm2-135m'.*folder"):
    weights.load("smolm2-135m")
