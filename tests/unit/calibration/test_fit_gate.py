"""A fitted gate tells own edits from others, evenly over classes, and comes from its seed."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from scen.calibration.fit_gate import GatePairs, fit_gate, join_pairs

STEPS = 250


def toy(rows: int = 240, seed: int = 0) -> GatePairs:
    """Four candidates each; own edits are alike in both views, near misses (class 1) in the first
    view only, unrelated prompts (class 3) in none. A third view says nothing."""
    draw = torch.Generator().manual_seed(seed)
    class_N = torch.tensor([0, 1, 3]).repeat(rows // 3)
    sim_NEV = 0.1 * torch.randn(rows, 4, 3, generator=draw)
    sim_NEV[..., 2] = torch.rand(rows, 4, generator=draw)
    sim_NEV[class_N == 0, 0, :2] += 0.8
    sim_NEV[class_N == 1, 0, 0] += 0.8
    own_NE = torch.zeros(rows, 4, dtype=torch.bool)
    own_NE[class_N == 0, 0] = True
    return GatePairs(sim_NEV, own_NE, class_N)


def errors(pairs: GatePairs, score_NE: Tensor) -> dict[int, float]:
    """By class, the share of prompts whose own edit scores below 0, or another one above."""
    wrong_NE = (score_NE > 0) != pairs.own_NE
    return {int(c): float(wrong_NE[pairs.class_N == c].any(1).float().mean())
            for c in pairs.class_N.unique()}  # fmt: skip


def test_what_can_be_told_apart_is_told_apart() -> None:
    gate = fit_gate(toy(), STEPS, seed=0, hidden=8)
    fresh = toy(seed=1)
    assert max(errors(fresh, gate(fresh.sim_NEV)).values()) <= 0.05


def test_one_view_would_not_do() -> None:
    first = toy().views(torch.tensor([0]))
    assert first.sim_NEV.shape == (240, 4, 1)
    assert torch.equal(first.sim_NEV[..., 0], toy().sim_NEV[..., 0])
    wrong = errors(first, fit_gate(first, STEPS, seed=0, hidden=8)(first.sim_NEV))
    assert wrong[0] + wrong[1] > 0.5


def test_an_input_that_is_drowned_in_noise_is_not_relied_on() -> None:
    """Near misses differ from own edits by the second view only."""
    pairs, noise_V = toy(), torch.tensor([0.0, 20.0, 0.0])
    wrong = errors(pairs, fit_gate(pairs, STEPS, seed=0, hidden=8, noise_V=noise_V)(pairs.sim_NEV))
    assert wrong[0] + wrong[1] > 0.5
    assert wrong[3] <= 0.05


def test_a_class_of_no_weight_is_not_learned() -> None:
    gate = fit_gate(toy(), STEPS, seed=0, hidden=8, weights={1: 0.0})
    assert errors(toy(), gate(toy().sim_NEV))[1] > 0.5


def test_the_same_seed_gives_the_same_gate() -> None:
    gates = [fit_gate(toy(), 20, seed, hidden=8).tensors() for seed in (3, 3, 4)]
    assert all(torch.equal(gates[0][name], gates[1][name]) for name in gates[0])
    assert not torch.equal(gates[0]["direct"], gates[2]["direct"])
    assert not any(tensor.requires_grad for tensor in gates[0].values())


def test_a_small_class_weighs_as_much_as_a_large_one() -> None:
    """Near misses that look like own edits have a third of their weight: log-odds of log 3."""
    pairs = toy(rows=600)
    alike = pairs.class_N == 1
    sim_NEV = pairs.sim_NEV.clone()
    sim_NEV[alike, 0, 1] += 0.8
    few_N = (~alike).nonzero().squeeze(1)
    every = replace(pairs, sim_NEV=sim_NEV)
    scarce = join_pairs([every.take(few_N), every.take(alike.nonzero().squeeze(1)[:5])])
    for sample in (every, scarce):
        gate = fit_gate(sample, STEPS, seed=0, hidden=8)
        score_N = gate(sim_NEV)[alike, 0]
        assert score_N.mean() == pytest.approx(math.log(3), abs=0.6)
    outvoted = replace(scarce, class_N=torch.where(scarce.class_N == 1, 3, scarce.class_N))
    score_N = fit_gate(outvoted, STEPS, seed=0, hidden=8)(sim_NEV)[alike, 0]
    assert score_N.mean() > 3


def test_pairs_are_taken_and_joined_in_order() -> None:
    pairs = toy(rows=30)
    joined = join_pairs([pairs.take(torch.arange(20, 30)), pairs.take(torch.arange(20))])
    order = torch.tensor([*range(20, 30), *range(20)])
    assert torch.equal(joined.sim_NEV, pairs.sim_NEV[order])
    assert torch.equal(joined.own_NE, pairs.own_NE[order])
    assert torch.equal(joined.class_N, pairs.class_N[order])
