"""The embedded base: fetched and converted once, and a real language model. Its conversion, and
that of the GGUF files in $SCEN_TEST_GGUF (separated by colons), equals what transformers reads."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from scen.model.base import load_base, resolve_base
from scen.model.batch import pad_prompts
from scen.model.decode import EditedModel, decode
from scen.model.expert import LowRankBank
from scen.model.gguf import convert_gguf
from scen.model.route import SigmoidNeurons
from scen.model.weights import EMBEDDED_NAME, fetch_embedded

pytestmark = pytest.mark.e2e
_MORE = os.environ.get("SCEN_TEST_GGUF", "").split(":")


def test_it_answers_a_question_and_is_prepared_only_once() -> None:
    said: list[str] = []
    folder = resolve_base(EMBEDDED_NAME)
    assert resolve_base(EMBEDDED_NAME, said.append) == folder
    assert said == []  # nothing is downloaded or converted again
    base = load_base(EMBEDDED_NAME, device="cpu")
    assert base.template.name == "chat"
    empty = LowRankBank(base.model.lm_head.weight.new_zeros(0, 4, 1536),
                        base.model.lm_head.weight.new_zeros(0, 576, 4))  # fmt: skip
    neurons = SigmoidNeurons(20, base.model.lm_head.weight.new_zeros(0, 1536), 0.65)
    edited = EditedModel(base.model, 20, empty, neurons, base.pad_id, base.stop_ids)
    prompt = base.template.encode_prompt("What is the capital of France?")
    told = decode(edited, pad_prompts([prompt], base.pad_id), 32)
    assert "Paris" in base.template.decode(told.tokens[0])
    assert told.stopped == [True]


@pytest.mark.parametrize(
    "path", ["", *filter(None, os.environ.get("SCEN_TEST_GGUF", "").split(":"))]
)
def test_a_conversion_equals_what_transformers_reads(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(path) if path else fetch_embedded()
    monkeypatch.setenv("SCEN_CACHE", str(tmp_path))
    narrow = load_file(convert_gguf(file, torch.bfloat16) / "model.safetensors")
    exact = load_file(convert_gguf(file) / "model.safetensors")
    loader: Any = AutoModelForCausalLM
    model = loader.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    weights = model.state_dict()
    tied = weights.keys() - exact.keys()
    assert tied == (set(model.all_tied_weights_keys) if model.config.tie_word_embeddings else set())
    for name in exact:
        assert torch.equal(exact[name], weights[name])
        assert torch.equal(narrow[name], weights[name].bfloat16())
