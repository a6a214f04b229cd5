"""Neurons by plain gradient descent; those by Adam are compared with the reference elsewhere."""

import torch

from scen.model.expert import neuron_loss
from scen.model.route import initial_neuron
from scen.training.parts import NeuronPlan, fit_neurons

SEEDS = [3, 5, 8]


def hidden() -> torch.Tensor:
    return torch.randn(3, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_a_step_of_sgd_is_the_gradient_times_the_rate() -> None:
    h_EF = hidden()
    fitted_EF = fit_neurons(h_EF, SEEDS, NeuronPlan(1, 0.5, "sgd"))
    for row, seed in enumerate(SEEDS):
        w_F = initial_neuron(16, seed, h_EF.dtype).requires_grad_()
        score_N = torch.sigmoid(h_EF @ w_F)
        mask_1N = (torch.arange(3) < row)[None]
        neuron_loss(score_N[row : row + 1], score_N[None], mask_1N).sum().backward()
        assert w_F.grad is not None
        torch.testing.assert_close(fitted_EF[row], w_F.detach() - 0.5 * w_F.grad)


def test_sgd_and_adam_are_two_ways() -> None:
    adam_EF = fit_neurons(hidden(), SEEDS, NeuronPlan(5, 0.01))
    sgd_EF = fit_neurons(hidden(), SEEDS, NeuronPlan(5, 0.01, "sgd"))
    assert not torch.allclose(adam_EF, sgd_EF)
