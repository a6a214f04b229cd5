"""Stage 2 of method `scen`: indexing neurons, from hidden states that are computed once per edit.

Everything below the edited layer is frozen, so h never changes: what costs T squared whole-model
passes in the published code is a few small matrix products here.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from scen.model.expert import neuron_loss
from scen.model.route import initial_neuron


@dataclass(frozen=True)
class NeuronPlan:
    """How neurons are trained (arXiv 2404.02699: Adam, lr 1e-4, 20 steps on ZsRE, 30 on long text;
    its reproduction in arXiv 2512.14395: SGD)."""

    steps: int
    lr: float
    optimizer: Literal["adam", "sgd"] = "adam"


def fit_neurons(
    h_EF: Tensor, seeds: list[int], plan: NeuronPlan, history_HF: Tensor | None = None
) -> Tensor:
    """weight_EF of the neurons of E edits, in the order in which they arrive.

    Edit e has the H edits of the history and those before it in the wave as negatives. All E
    neurons step together; each has its own state of Adam, and rows do not influence each other.
    """
    weights = [initial_neuron(h_EF.shape[1], seed, h_EF.dtype) for seed in seeds]
    weight_EF = torch.stack(weights).to(h_EF.device).requires_grad_()
    all_NF = h_EF if history_HF is None else torch.cat([history_HF.to(h_EF), h_EF])
    earlier = len(all_NF) - len(h_EF)
    order = torch.arange(len(all_NF), device=h_EF.device)
    mask_EN = order[None] < (order[earlier:, None])
    kind = torch.optim.Adam if plan.optimizer == "adam" else torch.optim.SGD
    optimizer = kind([weight_EF], lr=plan.lr)
    for _ in range(plan.steps):
        score_EN = torch.sigmoid(weight_EF @ all_NF.T)
        pos_E = score_EN[:, earlier:].diagonal()
        neuron_loss(pos_E, score_EN, mask_EN).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return weight_EF.detach()
