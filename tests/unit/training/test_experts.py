"""Experts of a batch: each as if trained alone, and edits asked in other ways."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from scen.method import MethodName
from scen.model.base import Base, load_base
from scen.model.expert import build_bank
from scen.records import Edit, EncodedEdit
from scen.training.experts import (
    WAYS,
    ExpertPlan,
    ExpertTrainer,
    FittedExperts,
    encode_edits,
    fit_experts,
)


def plan(method: MethodName, stop_loss: float = 0.0) -> ExpertPlan:
    lr = 2e-2 if method == "scen-lr" else 1e-3
    return ExpertPlan(method, layer=3, steps=12, lr=lr, rank=2, stop_loss=stop_loss)


@pytest.mark.parametrize("method", ["scen", "scen-lr"])
def test_a_batch_gives_what_each_edit_gives_alone(
    tiny: Base, encoded: list[EncodedEdit], method: MethodName
) -> None:
    tiny.model.double()
    together = fit_experts(tiny.model, plan(method), encoded, tiny.pad_id)
    for i, edit in enumerate(encoded):
        alone = fit_experts(tiny.model, plan(method), [edit], tiny.pad_id)
        for name, tensor in alone.bank.tensors().items():
            torch.testing.assert_close(
                together.bank.tensors()[name][i], tensor[0], rtol=0, atol=1e-4
            )
        assert together.losses[i] == pytest.approx(alone.losses[0], abs=1e-5)


@pytest.mark.parametrize("method", ["scen", "scen-lr"])
def test_training_lowers_every_loss(
    tiny: Base, encoded: list[EncodedEdit], method: MethodName
) -> None:
    losses = fit_experts(tiny.model, plan(method), encoded, tiny.pad_id).losses
    assert all(curve[-1] < curve[0] for curve in losses)


def test_early_stop_keeps_the_expert_of_that_moment(tiny: Base, encoded: list[EncodedEdit]) -> None:
    tiny.model.double()
    free = fit_experts(tiny.model, plan("scen-lr"), encoded, tiny.pad_id)
    bound = sorted(curve[6] for curve in free.losses)[2]
    early = fit_experts(tiny.model, plan("scen-lr", stop_loss=bound), encoded, tiny.pad_id)
    lengths = [len(curve) for curve in early.losses]
    assert min(lengths) < max(lengths)
    for i, curve in enumerate(early.losses):
        assert curve == pytest.approx(free.losses[i][: len(curve)], abs=1e-5)
        assert all(loss >= bound for loss in curve[:-1])
        if len(curve) < 12:
            assert curve[-1] < bound


def test_the_same_seed_gives_the_same_expert(tiny: Base, encoded: list[EncodedEdit]) -> None:
    first, second = (
        fit_experts(tiny.model, plan("scen-lr"), encoded, tiny.pad_id).bank.tensors()["down"]
        for _ in range(2)
    )
    assert torch.equal(first, second)


def with_ways(tiny: Base, encoded: list[EncodedEdit]) -> list[EncodedEdit]:
    """The first edit and the last are also asked in words that their experts never saw."""
    far = tiny.template.encode_prompt("red green blue one two three four five six")
    some = (0, len(encoded) - 1)
    return [
        replace(edit, ways=(edit.prompt, far if i in some else edit.prompt))
        for i, edit in enumerate(encoded)
    ]


def loss_in(tiny: Base, edit: EncodedEdit, way: int, fitted: FittedExperts, index: int) -> float:
    """The loss (nats per token) of an edit's expert in one of its ways."""
    asked = replace(edit, prompt=edit.ways[way])
    bank = {name: tensor[index : index + 1] for name, tensor in fitted.bank.tensors().items()}
    trainer = ExpertTrainer(tiny.model, plan("scen-lr"), tiny.pad_id)
    return float(trainer.losses([asked], build_bank(bank)))


def test_an_expert_that_is_lost_in_another_way_is_trained_on_it(
    tiny: Base, encoded: list[EncodedEdit]
) -> None:
    tiny.model.double()
    edits = with_ways(tiny, encoded)
    few = ExpertPlan("scen-lr", layer=3, steps=150, lr=2e-2, rank=4, stop_loss=0.5)
    narrow = fit_experts(tiny.model, few, edits, tiny.pad_id)
    wide = fit_experts(tiny.model, replace(few, other_ways=True), edits, tiny.pad_id)
    for i, edit in enumerate(edits):
        same = all(
            torch.equal(wide.bank.tensors()[name][i], tensor[i])
            for name, tensor in narrow.bank.tensors().items()
        )
        assert narrow.losses[i][-1] < 0.5
        assert same == (i not in (0, len(edits) - 1))
        assert len(wide.losses[i]) >= len(narrow.losses[i])
        assert max(loss_in(tiny, edit, way, wide, i) for way in (0, 1)) < 1.0
    assert loss_in(tiny, edits[0], 1, narrow, 0) > 1.5


def test_in_16_bits_attention_is_plain_and_every_loss_goes_down(
    tiny: Base, encoded: list[EncodedEdit], monkeypatch: pytest.MonkeyPatch
) -> None:
    fused: list[bool] = []
    attend: Any = functional.scaled_dot_product_attention

    def watch(*args: Tensor, **options: Any) -> Any:
        if torch.is_grad_enabled():
            fused.append(torch.backends.cuda.flash_sdp_enabled())
        return attend(*args, **options)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", watch)
    for dtype in (torch.bfloat16, torch.float32):
        fused.clear()
        fitted = fit_experts(tiny.model.to(dtype), plan("scen-lr"), encoded, tiny.pad_id)
        assert set(fused) == {dtype == torch.float32}
        assert all(curve[-1] < curve[0] for curve in fitted.losses)


def test_training_does_not_touch_the_base(tiny: Base, encoded: list[EncodedEdit]) -> None:
    before = {name: p.clone() for name, p in tiny.model.named_parameters()}
    fit_experts(tiny.model, plan("scen-lr"), encoded, tiny.pad_id)
    assert all(torch.equal(p, before[name]) for name, p in tiny.model.named_parameters())
    assert all(p.grad is None for p in tiny.model.parameters())


EDITS = [
    Edit("rome", "Who founded Rome?", "Remus"),
    Edit("oslo", "Where is Oslo?", "Norway", subject="Oslo"),
]


def test_an_edit_has_the_same_ways_in_whatever_company(tiny: Base) -> None:
    together = encode_edits(tiny.template, EDITS, other_ways=True)
    alone = [encode_edits(tiny.template, [edit], other_ways=True)[0] for edit in EDITS]
    assert together == alone
    for edit, encoded in zip(EDITS, together, strict=True):
        assert encoded.prompt == tiny.template.encode_prompt(edit.prompt)
        assert len(encoded.ways) == len(WAYS)
        assert encoded.prompt not in encoded.ways


def test_the_question_stands_in_each_way(tiny: Base) -> None:
    found = encode_edits(tiny.template, EDITS, other_ways=True)
    for edit, encoded in zip(EDITS, found, strict=True):
        capitals, several = (tiny.tokenizer.decode(way.ids) for way in encoded.ways)
        assert edit.prompt.upper() in capitals
        assert edit.prompt in several
        assert all(way.routed is None for way in encoded.ways)


def test_none_where_they_are_not_wanted_or_nobody_asks(tiny: Base) -> None:
    assert not any(edit.ways for edit in encode_edits(tiny.template, EDITS, other_ways=False))
    raw = load_base(tiny.name, template="raw")
    assert not any(edit.ways for edit in encode_edits(raw.template, EDITS, other_ways=True))
