"""The fast path of paper mode gives what the published procedure gives."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from scen.model import reference
from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.prefill import prefill
from scen.records import Edit, EncodedEdit
from scen.training.experts import ExpertPlan, fit_experts
from scen.training.parts import NeuronPlan, fit_neurons

LAYER = 3
PAPER = ExpertPlan("scen", LAYER, steps=10, lr=1e-3)


@pytest.fixture
def exact_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stock norm computes in float32, which would hide float64 differences."""

    def forward(self: Any, x: Tensor) -> Tensor:
        normed = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        out: Tensor = self.weight * normed
        return out

    monkeypatch.setattr(LlamaRMSNorm, "forward", forward)


def hidden(base: Base, edits: list[EncodedEdit]) -> Tensor:
    batch = pad_prompts([e.prompt for e in edits], base.pad_id)
    return prefill(base.model, batch, LAYER, ()).last(LAYER)


@pytest.mark.usefixtures("exact_norm")
def test_experts_equal_the_reference_in_float64(tiny: Base, encoded: list[EncodedEdit]) -> None:
    model = tiny.model.double()
    fast = fit_experts(model, PAPER, encoded, tiny.pad_id)
    for i, edit in enumerate(encoded):
        slow, losses = reference.train_expert(model, LAYER, edit, steps=10, lr=1e-3)
        torch.testing.assert_close(fast.bank.tensors()["weight"][i], slow, rtol=0, atol=1e-6)
        assert fast.losses[i] == pytest.approx(losses, abs=1e-9)


@pytest.mark.usefixtures("exact_norm")
def test_the_comparison_sees_a_tiny_change(tiny: Base, encoded: list[EncodedEdit]) -> None:
    """Negative control: 1e-6 would be exceeded if one weight of the base were off."""
    model = tiny.model.double()
    fast = fit_experts(model, PAPER, encoded[:1], tiny.pad_id).bank.tensors()["weight"][0]
    with torch.no_grad():
        model.model.layers[LAYER + 1].mlp.down_proj.weight[0, 0] += 1e-3
    slow, _ = reference.train_expert(model, LAYER, encoded[0], steps=10, lr=1e-3)
    assert (fast - slow).abs().max() > 1e-6


@pytest.mark.usefixtures("exact_norm")
@pytest.mark.parametrize("template", ["llama2-inst", "raw"])
def test_neurons_equal_the_reference_in_float64(
    tiny_folder: Any, edits: list[Edit], template: Any
) -> None:
    from scen.model.base import load_base

    base = load_base(str(tiny_folder), template=template, dtype="float32", device="cpu")
    model = base.model.double()
    encoded = [base.template.encode_edit(edit) for edit in edits]
    seeds = [e.seed for e in encoded]
    fast = fit_neurons(hidden(base, encoded), seeds, NeuronPlan(steps=20, lr=1e-2))
    for i, edit in enumerate(encoded):
        slow = reference.train_neuron(model, LAYER, edit, encoded[:i], steps=20, lr=1e-2)
        torch.testing.assert_close(fast[i], slow, rtol=0, atol=1e-6)


def test_neurons_of_a_second_wave_see_the_first(tiny: Base, encoded: list[EncodedEdit]) -> None:
    plan = NeuronPlan(steps=20, lr=1e-2)
    h_EF, seeds = hidden(tiny, encoded), [e.seed for e in encoded]
    together = fit_neurons(h_EF, seeds, plan)
    second = fit_neurons(h_EF[3:], seeds[3:], plan, history_HF=h_EF[:3])
    torch.testing.assert_close(second, together[3:], rtol=0, atol=1e-6)


def test_float32_losses_and_first_steps_agree(tiny: Base, encoded: list[EncodedEdit]) -> None:
    """Adam blows float32 noise up in single weights, so losses are compared, not weights."""
    fast = fit_experts(tiny.model, PAPER, encoded, tiny.pad_id)
    for i, edit in enumerate(encoded):
        _, losses = reference.train_expert(tiny.model, LAYER, edit, steps=10, lr=1e-3)
        assert fast.losses[i] == pytest.approx(losses, abs=1e-4)
        assert fast.losses[i][0] == pytest.approx(losses[0], abs=1e-5)


def test_the_reference_leaves_the_base_as_it_was(tiny: Base, encoded: list[EncodedEdit]) -> None:
    before = {name: p.clone() for name, p in tiny.model.named_parameters()}
    expert, _ = reference.train_expert(tiny.model, LAYER, encoded[0])
    tokens = reference.answer(tiny.model, LAYER, encoded[0].prompt, expert, (4, 2))
    assert len(tokens) <= 4
    assert all(torch.equal(p, before[name]) for name, p in tiny.model.named_parameters())
