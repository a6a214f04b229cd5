"""Bases with reasoning templates (Qwen3's, less its tools): the block of reasoning is closed before
the answer, and edits answer in its place."""

from pathlib import Path

import pytest
import torch

from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.decode import EditedModel, answer
from scen.model.route import Route, SigmoidNeurons
from scen.model.template import Template
from scen.records import Edit
from scen.training.experts import ExpertPlan, fit_experts

LAYER = 3
HYBRID = (Path(__file__).parent / "qwen3.jinja").read_text()
# Qwen3-Thinking and QwQ open the block whatever they are asked for.
ALWAYS = HYBRID.replace("'<think>\\n\\n</think>\\n\\n'", "'<think>\\n'")
BLOCK = "<|im_start|>assistant\n<think>\n\n</think>\n\n"


@pytest.fixture(params=[HYBRID, ALWAYS], ids=["hybrid", "always"])
def template(request: pytest.FixtureRequest, tiny: Base) -> Template:
    tiny.tokenizer.chat_template = request.param
    return Template("auto", tiny.tokenizer)


def test_the_reasoning_of_an_answer_is_empty_and_closed(template: Template) -> None:
    assert ALWAYS != HYBRID
    text = template.render("Who founded amber?")
    assert text == f"<|im_start|>user\nWho founded amber?<|im_end|>\n{BLOCK}"
    encoded = template.encode_prompt("Who founded amber?")
    begin, end = encoded.own
    assert template.tokenizer.decode(list(encoded.ids[begin:end])) == "Who founded amber?"


def test_a_conversation_ends_with_a_closed_block_too(template: Template) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who founded birch?"},
        {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nCedar."},
        {"role": "user", "content": "And amber?"},
    ]
    text = str(template.tokenizer.decode(list(template.encode_chat(messages).ids)))
    assert text.endswith(f"user\nAnd amber?<|im_end|>\n{BLOCK}")
    assert text.count("<think>") == 1  # earlier reasoning is not repeated
    assert "assistant\nCedar.<|im_end|>" in text


def test_words_of_the_user_that_look_like_a_block_stay_his(template: Template) -> None:
    prompt = "What does <think> mean?"
    assert template.render(prompt).count("</think>") == 1
    encoded = template.encode_prompt(prompt)
    begin, end = encoded.own
    assert template.tokenizer.decode(list(encoded.ids[begin:end])) == prompt


def test_an_edit_answers_behind_the_block(template: Template, tiny: Base) -> None:
    edit = template.encode_edit(Edit("a", "Who founded amber?", "dune"))
    plan = ExpertPlan("scen-lr", LAYER, steps=60, lr=5e-2, stop_loss=0.003)
    bank = fit_experts(tiny.model, plan, [edit], tiny.pad_id).bank
    nobody = SigmoidNeurons(LAYER, torch.zeros(0, 64), 1.0)
    edited = EditedModel(tiny.model, LAYER, bank, nobody, tiny.pad_id, tiny.stop_ids)
    filled = edited.prefill(pad_prompts([edit.prompt], tiny.pad_id))
    decoded = answer(edited, filled, Route.fixed([0]), 8)
    assert decoded.stopped == [True]
    assert template.decode(decoded.tokens[0]) == "dune"
    assert answer(edited, filled, Route.base(1), 8).tokens != decoded.tokens
