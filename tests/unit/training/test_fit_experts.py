"""Experts of a batch are those of each edit alone; early stop ends an edit and nothing else."""

import pytest
import torch

from scen.base.load import Base
from scen.records import EncodedEdit
from scen.training.fit_experts import ExpertPlan, Method, fit_experts


def plan(method: Method, **more: float) -> ExpertPlan:
    lr = 2e-2 if method == "scen-lr" else 1e-3
    return ExpertPlan(method, layer=3, steps=12, lr=lr, rank=2, **more)


@pytest.mark.parametrize("method", ["scen", "scen-lr"])
def test_a_batch_gives_what_each_edit_gives_alone(
    tiny: Base, encoded: list[EncodedEdit], method: Method
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
def test_training_lowers_every_loss(tiny: Base, encoded: list[EncodedEdit], method: Method) -> None:
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


def test_training_does_not_touch_the_base(tiny: Base, encoded: list[EncodedEdit]) -> None:
    before = {name: p.clone() for name, p in tiny.model.named_parameters()}
    fit_experts(tiny.model, plan("scen-lr"), encoded, tiny.pad_id)
    assert all(torch.equal(p, before[name]) for name, p in tiny.model.named_parameters())
    assert all(p.grad is None for p in tiny.model.parameters())
