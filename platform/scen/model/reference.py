"""Reference implementation of the published procedure: test oracle and benchmark baseline.

SCEN (arXiv 2404.02699) as released in TAL-auroraX/SCEN: one edit at a time, full forward passes, no
caching. Not for production use. Where the released code and the paper differ, it follows the code.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from scen.model.batch import pad_edits
from scen.model.decoder import capture_inputs
from scen.model.expert import neuron_loss
from scen.model.route import initial_neuron
from scen.records import EncodedEdit, EncodedPrompt


def train_expert(
    model: Any, layer: int, edit: EncodedEdit, *, steps: int = 10, lr: float = 1e-4
) -> tuple[Tensor, list[float]]:
    """Stage 1: a tuned copy of `layers[layer].mlp.down_proj`. Returns weight_DF and the losses."""
    mlp = model.model.layers[layer].mlp
    linear = mlp.down_proj
    expert: nn.Linear = copy.deepcopy(linear).requires_grad_()
    device = expert.weight.device
    ids = torch.tensor([[*edit.prompt.ids, *edit.target]], device=device)
    labels = torch.tensor([[-100] * len(edit.prompt.ids) + list(edit.target)], device=device)
    adam = torch.optim.Adam(expert.parameters(), lr=lr)
    losses: list[float] = []
    mlp.down_proj = expert
    try:
        for _ in range(steps):
            logits_1TV = model(input_ids=ids).logits
            loss = functional.cross_entropy(logits_1TV[0, :-1], labels[0, 1:])
            loss.backward()
            adam.step()
            adam.zero_grad()
            losses.append(loss.item())
    finally:
        mlp.down_proj = linear
    return expert.weight.detach(), losses


def train_neuron(
    model: Any,
    layer: int,
    edit: EncodedEdit,
    history: Sequence[EncodedEdit],
    *,
    steps: int = 20,
    lr: float = 1e-4,
) -> Tensor:
    """Stage 2: one indexing neuron w_F, with all earlier edits as negatives.

    Every step runs the whole model over the edit and its entire history.
    """
    linear = model.model.layers[layer].mlp.down_proj
    weight = linear.weight
    neuron_F = initial_neuron(weight.shape[1], edit.seed, weight.dtype).to(weight.device)
    neuron_F.requires_grad_()
    adam = torch.optim.Adam([neuron_F], lr=lr)
    batch = pad_edits([edit, *history], 0, weight.device)
    for _ in range(steps):
        with torch.no_grad(), capture_inputs(model, [layer]) as inputs:
            model(
                input_ids=batch.ids_BT,
                attention_mask=batch.mask_BT.long(),
                position_ids=batch.positions_BT,
            )
        h_BF = inputs[layer][:, batch.prompt_length - 1]
        score_B = torch.sigmoid(h_BF @ neuron_F)
        loss = neuron_loss(score_B[0], score_B[1:]) if history else torch.exp(-score_B[0])
        loss.backward()
        adam.step()
        adam.zero_grad()
    return neuron_F.detach()


@torch.no_grad()
def choose_expert(
    model: Any, layer: int, prompt: EncodedPrompt, neuron_EF: Tensor, theta: float
) -> int:
    """The expert for a prompt: the one with the largest sigmoid score above theta, or -1."""
    ids = torch.tensor([list(prompt.ids)], device=neuron_EF.device)
    with capture_inputs(model, [layer]) as inputs:
        model(input_ids=ids)
    score_E = torch.sigmoid(neuron_EF @ inputs[layer][0, -1])
    return int(score_E.argmax()) if float(score_E.max()) > theta else -1


@torch.no_grad()
def answer(
    model: Any, layer: int, prompt: EncodedPrompt, expert_DF: Tensor | None, limits: tuple[int, int]
) -> list[int]:
    """Greedy tokens, with an expert in place of the linear unless None. `limits` are the maximum
    number of new tokens and the id of the end token."""
    mlp = model.model.layers[layer].mlp
    linear = mlp.down_proj
    if expert_DF is not None:
        mlp.down_proj = copy.deepcopy(linear)
        mlp.down_proj.weight.data = expert_DF.to(linear.weight.dtype)
    tokens: list[int] = []
    try:
        for _ in range(limits[0]):
            ids = torch.tensor([[*prompt.ids, *tokens]], device=linear.weight.device)
            token = int(model(input_ids=ids).logits[0, -1].argmax())
            if token == limits[1]:
                break
            tokens.append(token)
    finally:
        mlp.down_proj = linear
    return tokens
