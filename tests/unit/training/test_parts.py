"""A wave that is trained in parts holds what its method says, in the order of its edits."""

import pytest
import torch

from scen.method import METHODS, MethodName
from scen.model.base import Base
from scen.model.keys import KeyPlace
from scen.records import EncodedEdit
from scen.training.experts import ExpertPlan
from scen.training.parts import NeuronPlan, WavePlan, add_neurons, cut_parts, fit_part, join_parts


def plan_of(method: MethodName) -> WavePlan:
    expert = ExpertPlan(method, layer=3, steps=2, lr=1e-2, rank=2)
    return WavePlan(expert, (KeyPlace(1, "mean"), KeyPlace(4, "last")), NeuronPlan(2, 1e-2))


@pytest.mark.parametrize("method", ["scen-lr", "scen"])
def test_a_bundle_holds_the_tensors_of_its_method(
    tiny: Base, encoded: list[EncodedEdit], method: MethodName
) -> None:
    plan, kind = plan_of(method), METHODS[method]
    fitted = add_neurons(
        fit_part(tiny.model, plan, encoded, tiny.pad_id), plan, [e.seed for e in encoded], None
    )
    hidden = () if kind.has_router else ("h",)
    assert set(fitted.tensors) == {*kind.expert_tensors, *kind.neuron_tensors, *hidden}
    assert all(len(tensor) == len(encoded) for tensor in fitted.tensors.values())
    stored = torch.float16 if kind.is_low_rank else torch.float32
    assert {fitted.tensors[name].dtype for name in kind.expert_tensors} == {stored}


def test_parts_are_joined_in_the_order_of_the_edits(tiny: Base, encoded: list[EncodedEdit]) -> None:
    plan = plan_of("scen-lr")
    parts = cut_parts(encoded, 2)
    assert sorted(i for part in parts for i in part) == list(range(len(encoded)))
    sizes = [len(encoded[i].target) for part in parts for i in part]
    assert sizes == sorted(sizes)
    some = [fit_part(tiny.model, plan, [encoded[i] for i in p], tiny.pad_id) for p in parts]
    joined = join_parts(parts, some)
    for part, fitted in zip(parts, some, strict=True):
        for name, tensor in fitted.tensors.items():
            assert torch.equal(joined.tensors[name][part], tensor)
        assert [joined.losses[i] for i in part] == fitted.losses
