"""Both training stages for the edits of a wave, part by part."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scen.method import METHODS, Method
from scen.model.batch import pad_prompts
from scen.model.decoder import NO_SYNC, RankSync
from scen.model.keys import KeyPlace, read_span_keys
from scen.model.prefill import Prefill, prefill
from scen.records import EncodedEdit
from scen.routing.keys import pack_texts
from scen.training.experts import ExpertPlan, fit_experts
from scen.training.neurons import NeuronPlan, fit_neurons


@dataclass(frozen=True)
class WavePlan:
    """How a wave is trained: experts, and neurons by method.

    `scen-lr` reads keys at `places`; `scen` fits sigmoid neurons by `neurons`.
    """

    expert: ExpertPlan
    places: tuple[KeyPlace, ...]
    neurons: NeuronPlan


@dataclass(frozen=True)
class Fitted:
    """`tensors` by name, edits along the first axis and in the order they were given;
    `losses[i]` is edit i's loss (nats per token) before each step."""

    tensors: dict[str, Tensor]
    losses: list[list[float]]


def cut_parts(edits: Sequence[EncodedEdit], size: int) -> list[list[int]]:
    """Indices of the edits of a wave in parts that are trained together, grouped by length.

    Batching is deterministic, so finished parts are reused whoever trains the rest.
    """
    order = sorted(
        range(len(edits)), key=lambda i: (len(edits[i].target), len(edits[i].prompt.ids))
    )
    return [order[begin : begin + size] for begin in range(0, len(order), size)]


def join_parts(parts: Sequence[list[int]], fitted: Sequence[Fitted]) -> Fitted:
    """The wave from its parts, in the order of the edits."""
    back = torch.tensor([i for part in parts for i in part]).argsort()
    names = fitted[0].tensors
    tensors = {name: torch.cat([part.tensors[name] for part in fitted])[back] for name in names}
    losses = [curve for part in fitted for curve in part.losses]
    return Fitted(tensors, [losses[i] for i in back.tolist()])


def fit_part(
    model: Any, plan: WavePlan, edits: Sequence[EncodedEdit], pad_id: int, sync: RankSync = NO_SYNC
) -> Fitted:
    """Experts of one part, and what its neurons are made from."""
    device = next(model.parameters()).device
    prompts = pad_prompts([e.prompt for e in edits], pad_id, device)
    method = METHODS[plan.expert.method]
    key_layers = (place.layer for place in plan.places) if method.has_router else ()
    filled = prefill(model, prompts, plan.expert.layer, key_layers, sync=sync)
    fitted = fit_experts(model, plan.expert, edits, pad_id, filled, sync)
    tensors = {name: _stored(t, method) for name, t in fitted.bank.tensors().items()}
    return Fitted(tensors | _read_index(filled, plan, method), fitted.losses)


def add_neurons(
    fitted: Fitted, plan: WavePlan, seeds: list[int], history_HF: Tensor | None
) -> Fitted:
    """Stage 2 of method `scen`: neurons of the wave's edits, which know those before them.

    `history_HF` are the hidden states of all earlier edits. Keys need no second stage.
    """
    if METHODS[plan.expert.method].has_router:
        return fitted
    neuron_EF = fit_neurons(fitted.tensors["h"], seeds, plan.neurons, history_HF)
    return Fitted(fitted.tensors | {"neuron": neuron_EF}, fitted.losses)


def _stored(tensor: Tensor, method: Method) -> Tensor:
    """Low-rank experts are kept in half precision, whole matrices as they were trained."""
    kept = tensor.detach().cpu()
    return kept.half() if method.is_low_rank else kept


def _read_index(filled: Prefill, plan: WavePlan, method: Method) -> dict[str, Tensor]:
    """What a neuron is made from: keys and words for a router, or the hidden state."""
    if method.has_router:
        keys = read_span_keys(filled, plan.places, most=1)
        return {"key": keys.key_MKF.cpu().half(), "text": pack_texts(keys.texts)}
    h_BF = filled.last(plan.expert.layer)
    return {"h": h_BF.to(torch.promote_types(h_BF.dtype, torch.float32)).cpu()}
