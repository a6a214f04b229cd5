"""The tiny base as a GGUF file, written the way llama.cpp writes Llama, and a cache of its own."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter
from numpy.typing import NDArray
from safetensors.numpy import load_file

from scen.errors import BaseError
from scen.model.weights import require_gguf_reader

_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_PARTS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    if name in _NAMES:
        return _NAMES[name]
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{_PARTS[part]}.weight"


def interleaved(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of a query or key weight in the order of GGUF, where rotary pairs are neighbours."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def write_gguf(base: Path, path: Path, architecture: str = "llama", without: str = "-") -> Path:
    """A base of tests/conftest.py as one GGUF file in float32, less the weights named `without`."""
    config: dict[str, Any] = json.loads((base / "config.json").read_text())
    tokenizer: dict[str, Any] = json.loads((base / "tokenizer.json").read_text())
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config["vocab_size"])
    vocab = tokenizer["model"]["vocab"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(sorted(vocab, key=vocab.__getitem__))
    writer.add_token_types([3, 3, 3] + [1] * (len(vocab) - 3))
    writer.add_token_scores([0.0] * len(vocab))  # without merges there must be scores
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, weight in load_file(base / "model.safetensors").items():
        part = name.split(".")[-2]
        if without not in name:
            tensor = interleaved(weight, heads[part]) if part in heads else weight
            writer.add_tensor(gguf_name(name), tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of this test alone."""
    monkeypatch.setenv("SCEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def copied(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny base that a test may change."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "base"))


@pytest.fixture
def as_gguf(tiny_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes the tiny base as Tiny.gguf. Skips where transformers cannot read it."""
    try:
        require_gguf_reader()
    except BaseError as error:
        pytest.skip(str(error))
    return lambda **options: write_gguf(tiny_folder, tmp_path / "Tiny.gguf", **options)
