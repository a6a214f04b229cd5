"""The embedded base: fetched and converted once, and a real language model."""

import pytest

from scen.model.base import load_base, resolve_base
from scen.model.batch import pad_prompts
from scen.model.decode import EditedModel, decode
from scen.model.expert import LowRankBank
from scen.model.route import SigmoidNeurons
from scen.model.weights import EMBEDDED_NAME

pytestmark = pytest.mark.e2e


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
