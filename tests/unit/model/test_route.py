"""Sigmoid neurons choose the right edit, or none."""

import torch

from scen.model.base import Base
from scen.model.batch import pad_prompts
from scen.model.expert import neuron_loss
from scen.model.prefill import prefill
from scen.model.route import SigmoidNeurons, initial_neuron
from scen.records import EncodedEdit


def test_an_empty_bank_routes_to_the_base(tiny: Base, encoded: list[EncodedEdit]) -> None:
    filled = prefill(tiny.model, pad_prompts([encoded[0].prompt], tiny.pad_id), 3, ())
    bank = SigmoidNeurons(3, torch.zeros(0, 64), 0.65)
    assert bank.route(filled).is_base


def test_sigmoid_neurons_speak_above_theta_only(tiny: Base, encoded: list[EncodedEdit]) -> None:
    filled = prefill(tiny.model, pad_prompts([e.prompt for e in encoded], tiny.pad_id), 3, ())
    h_BF = filled.last(3)
    weight_EF = 4 * h_BF[:2] / h_BF[:2].pow(2).sum(1, keepdim=True)  # w.h = 4 for its own prompt
    route = SigmoidNeurons(3, weight_EF, theta=0.9).route(filled)
    assert route.expert_B[:2].tolist() == [0, 1]
    assert SigmoidNeurons(3, weight_EF, theta=0.9999).route(filled).is_base


def test_the_second_best_is_a_rival_where_it_is_above_theta_too(
    tiny: Base, encoded: list[EncodedEdit]
) -> None:
    filled = prefill(tiny.model, pad_prompts([encoded[0].prompt], tiny.pad_id), 3, ())
    h_BF = filled.last(3)
    own_1F = 4 * h_BF / h_BF.pow(2).sum(1, keepdim=True)
    route = SigmoidNeurons(3, torch.cat([own_1F / 8, own_1F / 2, own_1F]), 0.7).route(filled)
    assert (route.expert_B.item(), route.runner_up_B.item()) == (2, 1)  # 0.98, 0.88 and 0.62
    alone = SigmoidNeurons(3, own_1F, 0.7).route(filled)
    assert (alone.expert_B.item(), alone.runner_up_B.item()) == (0, -1)


def test_neuron_loss_is_the_published_formula() -> None:
    pos, neg = torch.tensor(0.6), torch.tensor([0.5, 0.3])
    expected = torch.exp(-pos) + (neg.exp() + 0.7).mean() + (neg.exp() - pos + 0.3).mean()
    assert torch.allclose(neuron_loss(pos, neg), expected)
    masked = neuron_loss(pos[None], torch.cat([neg, pos[None]])[None], torch.tensor([[1, 1, 0]]))
    assert torch.allclose(masked[0], expected)
    nothing = neuron_loss(pos[None], neg[None], torch.zeros(1, 2))
    assert torch.allclose(nothing[0], torch.exp(-pos))


def test_a_neuron_starts_from_its_own_seed() -> None:
    first, again = (initial_neuron(64, 7, torch.float32) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, initial_neuron(64, 8, torch.float32))
    assert first.abs().max() <= 1 / 8
