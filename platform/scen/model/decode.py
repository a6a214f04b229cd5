"""Greedy decoding of a batch in which each row has its own expert, or none."""

import copy
import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scen.model.batch import PromptBatch
from scen.model.decoder import NO_SYNC, RankSync, run_head
from scen.model.expert import EditedLinear, ExpertBank, attach_layer
from scen.model.prefill import Prefill, prefill
from scen.model.route import NeuronBank, Route


@dataclass(frozen=True)
class EditedModel:
    """A base with a bank of experts at one layer and the neurons that choose among them.

    Unrouted rows go through exactly the operations of the base, so that their logits are its
    logits bit for bit (in a batch of the same shape).
    """

    model: Any
    layer: int
    bank: ExpertBank
    neurons: NeuronBank
    pad_id: int
    stop_ids: frozenset[int]
    sync: RankSync = NO_SYNC

    @property
    def linear(self) -> EditedLinear:
        """The edited linear, attached to the base on first use."""
        return attach_layer(self.model, self.layer)

    def prefill(self, batch: PromptBatch) -> Prefill:
        """One pass of the base over the prompts."""
        return prefill(self.model, batch, self.layer, self.neurons.layers, sync=self.sync)

    def route(self, filled: Prefill) -> Route:
        """Which expert each row uses."""
        return self.neurons.route(filled)


@dataclass(frozen=True)
class Decoded:
    """`tokens` per row, without the stop token; `stopped` is False where the limit ended a row;
    `logits_BSV` are those of each step, None unless requested."""

    tokens: list[list[int]]
    stopped: list[bool]
    route: Route
    logits_BSV: Tensor | None


@torch.no_grad()
def decode(
    edited: EditedModel, batch: PromptBatch, max_new_tokens: int, route: Route | None = None
) -> Decoded:
    """Answer a batch of prompts greedily until a stop token; without a route the neurons choose."""
    filled = edited.prefill(batch)
    return answer(edited, filled, route or edited.route(filled), max_new_tokens)


@torch.no_grad()
def answer(
    edited: EditedModel,
    filled: Prefill,
    route: Route,
    max_new_tokens: int,
    *,
    keep_logits: bool = False,
) -> Decoded:
    """Go on from a prefill, which stays as it is and may be answered again under another route.

    Rows that stop early stay in the batch, so that its shape, and with it every bit of the other
    rows, does not depend on who stops when.
    """
    cache = copy_cache(filled.cache)
    logits_BV = apply_experts(edited, filled, route, cache)
    mask_BT, length_B = filled.batch.mask_BP.long(), filled.batch.mask_BP.sum(1)
    steps: list[Tensor] = []
    kept: list[Tensor] = []
    stop = torch.tensor(sorted(edited.stop_ids), device=logits_BV.device)
    open_B = torch.ones_like(length_B, dtype=torch.bool)
    for step in itertools.count():
        if keep_logits:
            kept.append(logits_BV)
        next_B = logits_BV.argmax(-1)
        steps.append(next_B)
        open_B = open_B & ~torch.isin(next_B, stop)
        if not edited.sync.anyone(bool(open_B.any()) and step + 1 < max_new_tokens):
            break
        mask_BT = torch.cat([mask_BT, torch.ones_like(mask_BT[:, :1])], 1)
        with edited.linear.use(edited.bank, route):
            logits_BV = edited.model(
                input_ids=next_B[:, None],
                attention_mask=mask_BT,
                position_ids=(length_B + step)[:, None],
                cache=cache,
                use_cache=True,
            ).logits[:, -1]
    token_BS = torch.stack(steps[:max_new_tokens], 1)
    tokens, stopped = _cut_at_stop(token_BS.tolist(), edited.stop_ids)
    logits_BSV = torch.stack(kept[:max_new_tokens], 1) if kept else None
    return Decoded(tokens, stopped, route, logits_BSV)


@torch.no_grad()
def apply_experts(edited: EditedModel, filled: Prefill, route: Route, cache: Any) -> Tensor:
    """logits_BV after the prompt, with the routed rows' experts applied.

    Only those rows are run again, above the edited layer, from where their experts act; their part
    of `cache`, a copy of the prefill's, is replaced. All other rows keep the base's own logits.
    """
    if not edited.sync.anyone(not route.is_base):
        return filled.logits_BV
    start = filled.batch.ids_BP.shape[1] - 1 if edited.bank.span == "last" else 0
    if route.is_base:
        _run_no_op(edited, filled, start)
        return filled.logits_BV
    rows_R = route.rows_R
    split = filled.split(rows_R, start)
    edited_RSD = edited.bank.apply(split.x_BSF, split.y_BSD, route.expert_B[rows_R])
    h_RSD = split.above(edited.model, edited.layer, edited_RSD)
    for layer, (keys, values) in split.span.prefix.fresh.items():
        kept = cache.layers[layer]
        kept.keys, kept.values = kept.keys.clone(), kept.values.clone()
        kept.keys[rows_R, :, start:] = keys
        kept.values[rows_R, :, start:] = values
    logits_BV = filled.logits_BV.clone()
    logits_BV[rows_R] = run_head(edited.model, h_RSD[:, -1])
    return logits_BV


def _run_no_op(edited: EditedModel, filled: Prefill, start: int) -> None:
    """A no-op forward, so that ZeRO-3 ranks stay in lockstep: another rank has a routed row."""
    first = torch.zeros(1, dtype=torch.long, device=filled.logits_BV.device)
    split = filled.split(first, start)
    run_head(edited.model, split.above(edited.model, edited.layer, split.y_BSD)[:, -1])


def copy_cache(cache: Any) -> Any:
    """A shallow copy of a cache: tensors are shared, and growing one leaves the other as it is."""
    other = copy.copy(cache)
    other.layers = [copy.copy(layer) for layer in cache.layers]
    return other


def _cut_at_stop(
    rows: list[list[int]], stop_ids: frozenset[int]
) -> tuple[list[list[int]], list[bool]]:
    tokens, stopped = [], []
    for row in rows:
        end = next((i for i, token in enumerate(row) if token in stop_ids), None)
        tokens.append(row[:end])
        stopped.append(end is not None)
    return tokens, stopped
