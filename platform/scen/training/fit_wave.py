"""Both stages for the edits of a wave: experts, neurons, and the bundle that holds them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scen.editor.batch import pad_prompts
from scen.editor.neurons import KeyPlace, read_keys
from scen.editor.prefill import Prefill, prefill
from scen.records import EncodedEdit
from scen.training.fit_experts import ExpertPlan, fit_experts
from scen.training.fit_neurons import NeuronPlan, fit_neurons


@dataclass(frozen=True)
class WavePlan:
    """How a wave is trained: experts, and neurons by method.

    `scen-lr` reads keys at `places`; `scen` fits sigmoid neurons by `neurons`.
    """

    expert: ExpertPlan
    places: tuple[KeyPlace, ...]
    neurons: NeuronPlan
    batch_size: int


@dataclass(frozen=True)
class FittedWave:
    """`tensors` by name, edits along the first axis and in the order they were given;
    `losses[i]` is edit i's loss (nats per token) before each step."""

    tensors: dict[str, Tensor]
    losses: list[list[float]]


def fit_wave(
    model: Any,
    plan: WavePlan,
    edits: Sequence[EncodedEdit],
    pad_id: int,
    *,
    history_HF: Tensor | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> FittedWave:
    """Train the experts and neurons of a wave.

    Edits of like length share a batch. `history_HF` are the hidden states of all earlier edits
    (method `scen`); `progress` is told how many edits are done with each batch.
    """
    order = sorted(
        range(len(edits)), key=lambda i: (len(edits[i].target), len(edits[i].prompt.ids))
    )
    parts: list[dict[str, Tensor]] = []
    losses: list[list[float]] = [[] for _ in edits]
    for begin in range(0, len(order), plan.batch_size):
        rows = order[begin : begin + plan.batch_size]
        part, curves = _fit_batch(model, plan, [edits[i] for i in rows], pad_id)
        parts.append(part)
        for row, curve in zip(rows, curves, strict=True):
            losses[row] = curve
        progress(len(rows))
    back = torch.tensor(order).argsort()
    tensors = {name: torch.cat([part[name] for part in parts])[back] for name in parts[0]}
    if plan.expert.method == "scen":
        seeds = [edit.seed for edit in edits]
        tensors["neuron"] = fit_neurons(tensors["h"], seeds, plan.neurons, history_HF)
    return FittedWave(tensors, losses)


def _fit_batch(
    model: Any, plan: WavePlan, edits: Sequence[EncodedEdit], pad_id: int
) -> tuple[dict[str, Tensor], list[list[float]]]:
    device = next(model.parameters()).device
    prompts = pad_prompts([e.prompt for e in edits], pad_id, device)
    is_paper = plan.expert.method == "scen"
    key_layers = () if is_paper else (place.layer for place in plan.places)
    filled = prefill(model, prompts, plan.expert.layer, key_layers)
    fitted = fit_experts(model, plan.expert, edits, pad_id, filled)
    tensors = {name: _stored(t, is_paper) for name, t in fitted.bank.tensors().items()}
    return tensors | _read_index(filled, plan, is_paper), fitted.losses


def _stored(tensor: Tensor, is_paper: bool) -> Tensor:
    """Low-rank experts are kept in half precision, the paper's as they were trained."""
    return tensor.detach().cpu() if is_paper else tensor.detach().cpu().half()


def _read_index(filled: Prefill, plan: WavePlan, is_paper: bool) -> dict[str, Tensor]:
    """What a neuron is made from: keys, or the hidden state of the paper."""
    if not is_paper:
        return {"key": read_keys(filled, plan.places).cpu().half()}
    h_BF = filled.last(plan.expert.layer)
    return {"h": h_BF.to(torch.promote_types(h_BF.dtype, torch.float32)).cpu()}
