"""Train a wave in parts, join them, and add the neurons."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from scen.method import METHODS, Method
from scen.model.decoder import NO_SYNC, RankSync
from scen.model.expert import neuron_loss
from scen.model.keys import KeyPlace, read_span_keys
from scen.model.prefill import Prefill, prefill_prompts
from scen.model.route import initial_neuron
from scen.records import EncodedEdit
from scen.routing.keys import pack_texts
from scen.training.experts import ExpertPlan, fit_experts


@dataclass(frozen=True)
class NeuronPlan:
    """How neurons are trained. Published settings: Adam, lr 1e-4, 20 steps on ZsRE, 30 on long text
    (arXiv 2404.02699); SGD in the reproduction (arXiv 2512.14395)."""

    steps: int
    lr: float
    optimizer: Literal["adam", "sgd"] = "adam"


def fit_neurons(
    h_EF: Tensor, seeds: list[int], plan: NeuronPlan, history_HF: Tensor | None = None
) -> Tensor:
    """weight_EF: the neurons of E edits, in the order of the wave.

    The negatives of an edit are the H edits of the history and those before it in the wave. All E
    neurons are trained together; optimiser state is per neuron, and rows do not influence each
    other.
    """
    weights = [initial_neuron(h_EF.shape[1], seed, h_EF.dtype) for seed in seeds]
    weight_EF = torch.stack(weights).to(h_EF.device).requires_grad_()
    all_NF = h_EF if history_HF is None else torch.cat([history_HF.to(h_EF), h_EF])
    earlier = len(all_NF) - len(h_EF)
    order = torch.arange(len(all_NF), device=h_EF.device)
    mask_EN = order[None] < (order[earlier:, None])
    optimizer_class = torch.optim.Adam if plan.optimizer == "adam" else torch.optim.SGD
    optimizer = optimizer_class([weight_EF], lr=plan.lr)
    for _ in range(plan.steps):
        score_EN = torch.sigmoid(weight_EF @ all_NF.T)
        pos_E = score_EN[:, earlier:].diagonal()
        neuron_loss(pos_E, score_EN, mask_EN).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return weight_EF.detach()


@dataclass(frozen=True)
class WavePlan:
    """How the experts and neurons of a wave are trained.

    `scen-lr` reads keys at `places`; `scen` trains sigmoid neurons according to `neurons`.
    """

    expert: ExpertPlan
    places: tuple[KeyPlace, ...]
    neurons: NeuronPlan


@dataclass(frozen=True)
class Fitted:
    """`tensors` by name, edits along the first axis, in input order; `losses[i]` is the loss of
    edit i (nats per token) before each step."""

    tensors: dict[str, Tensor]
    losses: list[list[float]]


def cut_parts(edits: Sequence[EncodedEdit], size: int) -> list[list[int]]:
    """Indices of the edits of a wave, in parts of similar length that are trained together.

    Batching is deterministic, so finished parts can be reused.
    """
    order = sorted(
        range(len(edits)), key=lambda i: (len(edits[i].target), len(edits[i].prompt.ids))
    )
    return [order[begin : begin + size] for begin in range(0, len(order), size)]


def join_parts(parts: Sequence[list[int]], fitted: Sequence[Fitted]) -> Fitted:
    """A wave joined from its parts, in the order of the edits."""
    order = torch.tensor([i for part in parts for i in part]).argsort()
    names = fitted[0].tensors
    tensors = {name: torch.cat([part.tensors[name] for part in fitted])[order] for name in names}
    losses = [curve for part in fitted for curve in part.losses]
    return Fitted(tensors, [losses[i] for i in order.tolist()])


def fit_part(
    model: Any, plan: WavePlan, edits: Sequence[EncodedEdit], pad_id: int, sync: RankSync = NO_SYNC
) -> Fitted:
    """Train the experts of one part, and read the keys or hidden states for its neurons."""
    prompts = [edit.prompt for edit in edits]
    method = METHODS[plan.expert.method]
    key_layers = (place.layer for place in plan.places) if method.has_router else ()
    filled = prefill_prompts(model, prompts, pad_id, plan.expert.layer, key_layers, sync)
    fitted = fit_experts(model, plan.expert, edits, pad_id, filled, sync)
    tensors = {name: _stored(t, method) for name, t in fitted.bank.tensors().items()}
    return Fitted(tensors | _read_index(filled, plan, method), fitted.losses)


def add_neurons(
    fitted: Fitted, plan: WavePlan, seeds: list[int], history_HF: Tensor | None
) -> Fitted:
    """Stage 2 of method `scen`: train the neurons of a wave, with earlier edits as negatives.

    `history_HF` are the hidden states of the edits of earlier waves. Methods with a router need no
    second stage.
    """
    if METHODS[plan.expert.method].has_router:
        return fitted
    neuron_EF = fit_neurons(fitted.tensors["h"], seeds, plan.neurons, history_HF)
    return Fitted(fitted.tensors | {"neuron": neuron_EF}, fitted.losses)


def _stored(tensor: Tensor, method: Method) -> Tensor:
    """Low-rank experts are stored in float16, full matrices in their training dtype."""
    stored = tensor.detach().cpu()
    return stored.half() if method.is_low_rank else stored


def _read_index(filled: Prefill, plan: WavePlan, method: Method) -> dict[str, Tensor]:
    """The input of the neurons: keys and texts for a router, else hidden states."""
    if method.has_router:
        keys = read_span_keys(filled, plan.places, max_spans=1)
        return {"key": keys.key_MKF.cpu().half(), "text": pack_texts(keys.texts)}
    h_BF = filled.last(plan.expert.layer)
    return {"h": h_BF.to(torch.promote_types(h_BF.dtype, torch.float32)).cpu()}
