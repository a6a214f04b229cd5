"""The gate computes its formula, of any number of pairs at once."""

import math

import pytest
import torch

from scen.routing.gate import Gate


def test_the_plain_gate_is_the_mean() -> None:
    sim_NV = torch.tensor([[0.2, 0.4, 0.9], [-1.0, 1.0, 0.3]])
    torch.testing.assert_close(Gate.mean(3)(sim_NV), torch.tensor([0.5, 0.1]))


def test_the_formula_by_hand() -> None:
    gate = Gate(
        torch.tensor([2.0, -1.0]),
        torch.tensor([[0.5], [0.25]]),
        torch.tensor([0.1]),
        torch.tensor([1.5]),
        torch.tensor(-0.7),
    )
    inner = 3 * (0.8 * 0.5 - 0.4 * 0.25) + 0.1
    gelu = inner * (1 + math.erf(inner / math.sqrt(2))) / 2
    expected = 0.8 * 2 + 0.4 + 1.5 * gelu - 0.7
    assert math.isclose(float(gate(torch.tensor([0.8, -0.4]))), expected, abs_tol=1e-6)


def test_pairs_of_any_shape_are_scored_alike() -> None:
    gate = Gate.initial(4, 5, seed=0)
    sim_BEV = torch.rand(3, 7, 4, generator=torch.Generator().manual_seed(1))
    score_BE = gate(sim_BEV)
    assert score_BE.shape == (3, 7)
    torch.testing.assert_close(score_BE[2, 5], gate(sim_BEV[2, 5]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("is_deep", [False, True])
def test_the_mean_of_gates_is_one_gate(is_deep: bool) -> None:
    gates = [Gate.initial(4, 5, seed, is_deep=is_deep) for seed in range(3)]
    sim_NV = torch.rand(9, 4, generator=torch.Generator().manual_seed(1))
    mean_N = torch.stack([gate(sim_NV) for gate in gates]).mean(0)
    averaged = Gate.averaged(gates)
    torch.testing.assert_close(averaged(sim_NV), mean_N)
    again = Gate.from_tensors(averaged.tensors())
    assert torch.equal(again(sim_NV), averaged(sim_NV))


def test_a_drawn_gate_comes_from_its_seed() -> None:
    sim_NV = torch.rand(9, 4, generator=torch.Generator().manual_seed(1))
    score_N = Gate.initial(4, 5, seed=3)(sim_NV)
    assert torch.equal(score_N, Gate.initial(4, 5, seed=3)(sim_NV))
    assert not torch.equal(score_N, Gate.initial(4, 5, seed=4)(sim_NV))


def test_a_gate_survives_as_tensors() -> None:
    gate = Gate.initial(4, 5, seed=0)
    tensors = {name: tensor + 0.125 for name, tensor in gate.tensors().items()}
    back = Gate.from_tensors(tensors)
    assert back.tensors().keys() == tensors.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in back.tensors().items())
