"""Small real objects: a tiny random Llama with its own tokenizer, as a folder like any base."""

import os
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("SCEN_PROFILE", "shipped")  # new bases are not calibrated on first use

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from scen.model.base import Base, load_base
from scen.records import Edit, EncodedEdit, Rephrase

WORDS = ["amber", "birch", "cedar", "dune", "ember", "fjord", "grove", "heath", "isle", "jetty"]


def write_tiny_base(folder: Path, seed: int = 0, kind: str = "llama", **more: Any) -> Path:
    """A random model of 6 layers, a Llama or another `model_type`, with a byte-level tokenizer."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<unk>", "<s>", "</s>"]
    vocab = {token: i for i, token in enumerate([*specials, *alphabet])}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=raw, **names).save_pretrained(folder)
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
    }
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    config: Any = AutoConfig.for_model(kind, vocab_size=len(vocab), **ids, **(sizes | more))
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def pytest_configure() -> None:
    """One thread, in child processes too: on tiny tensors more only wait for each other."""
    threads = os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(int(threads))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny base."""
    return write_tiny_base(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def loaded_tiny(tiny_folder: Path) -> Base:
    """The tiny base in float32, loaded once per process. Not for tests, which may change it."""
    return load_base(str(tiny_folder), template="llama2-inst", dtype="float32", device="cpu")


@pytest.fixture
def tiny(loaded_tiny: Base) -> Base:
    """The tiny base in float32; weights, tokenizer and template are the test's own."""
    return deepcopy(loaded_tiny)


@pytest.fixture
def edits() -> list[Edit]:
    """Six edits of unequal length."""
    return [
        Edit(
            id=f"edit-{i}",
            prompt=f"Who founded {' and '.join(WORDS[i : i + 1 + i % 3])}?",
            target=WORDS[-1 - i] * (1 + i % 2),
            subject=WORDS[i],
            rephrases=(Rephrase(f"{WORDS[i]} was founded by whom?", "orig"),),
            near_misses=(f"Where is {WORDS[i]}?",),
        )
        for i in range(6)
    ]


@pytest.fixture
def encoded(tiny: Base, edits: list[Edit]) -> list[EncodedEdit]:
    """The edits as tokens of the tiny base."""
    return [tiny.template.encode_edit(edit) for edit in edits]
