"""Greedy decoding of a batch in which each row has its own expert, or none."""

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scen.model.batch import PromptBatch, cache_argument, pad_prompts
from scen.model.decoder import NO_SYNC, RankSync, run_head
from scen.model.expert import EditedLinear, ExpertBank, attach_layer
from scen.model.prefill import Prefill, prefill, prefill_prompts
from scen.model.route import NeuronBank, Route
from scen.records import EncodedPrompt


@dataclass(frozen=True)
class EditedModel:
    """A base with a bank of experts at one layer and the neurons that choose among them.

    Unrouted rows run exactly the operations of the base, so their logits equal the base's bit for
    bit (in a batch of the same shape).
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

    def prefill_prompts(self, prompts: Sequence[EncodedPrompt]) -> Prefill:
        """The same from prompts. If experts act at the last prompt token only, what all prompts
        begin with is run once."""
        if self.bank.span == "all":
            device = next(self.model.parameters()).device
            return self.prefill(pad_prompts(prompts, self.pad_id, device))
        layers = self.neurons.layers
        return prefill_prompts(self.model, prompts, self.pad_id, self.layer, layers, self.sync)

    def route(self, filled: Prefill) -> Route:
        """The expert that each row uses."""
        return self.neurons.route(filled)


@dataclass(frozen=True)
class Decoded:
    """`tokens` per row, without the stop token; `stopped` is False for rows cut off by the limit;
    `logits_BSV` are the logits of each step, None unless requested."""

    tokens: list[list[int]]
    stopped: list[bool]
    route: Route
    logits_BSV: Tensor | None


@torch.no_grad()
def decode(
    edited: EditedModel, batch: PromptBatch, max_new_tokens: int, route: Route | None = None
) -> Decoded:
    """Greedy answers to a batch of prompts, up to a stop token; the neurons route unless `route` is
    given."""
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
    """Decode from a prefill, which is not modified and may be decoded again under another route.

    Rows that stop early stay in the batch: its shape, and so every bit of the other rows, does not
    depend on when each row stops.
    """
    cache = copy_cache(filled.cache)
    logits_BV = apply_experts(edited, filled, route, cache)
    mask_BT, length_B = filled.batch.mask_BP.long(), filled.batch.mask_BP.sum(1)
    steps: list[Tensor] = []
    step_logits: list[Tensor] = []
    stop = torch.tensor(sorted(edited.stop_ids), device=logits_BV.device)
    running_B = torch.ones_like(length_B, dtype=torch.bool)
    for step in itertools.count():
        if keep_logits:
            step_logits.append(logits_BV)
        next_B = logits_BV.argmax(-1)
        steps.append(next_B)
        running_B = running_B & ~torch.isin(next_B, stop)
        if not edited.sync.any_rank(bool(running_B.any()) and step + 1 < max_new_tokens):
            break
        mask_BT = torch.cat([mask_BT, torch.ones_like(mask_BT[:, :1])], 1)
        with edited.linear.use(edited.bank, route):
            logits_BV = edited.model(
                input_ids=next_B[:, None],
                attention_mask=mask_BT,
                position_ids=(length_B + step)[:, None],
                use_cache=True,
                **cache_argument(cache),
            ).logits[:, -1]
    token_BS = torch.stack(steps[:max_new_tokens], 1)
    tokens, stopped = _cut_at_stop(token_BS.tolist(), edited.stop_ids)
    logits_BSV = torch.stack(step_logits[:max_new_tokens], 1) if step_logits else None
    return Decoded(tokens, stopped, route, logits_BSV)


@torch.no_grad()
def apply_experts(edited: EditedModel, filled: Prefill, route: Route, cache: Any) -> Tensor:
    """logits_BV after the prompt, with the experts of the routed rows applied.

    Only those rows are rerun, above the edited layer and from the first position where experts act;
    their part of `cache`, a copy of the prefill's, is overwritten. All other rows keep the base's
    logits.
    """
    if not edited.sync.any_rank(not route.is_base):
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
        cached = cache.layers[layer]
        cached.keys, cached.values = cached.keys.clone(), cached.values.clone()
        cached.keys[rows_R, :, start:] = keys
        cached.values[rows_R, :, start:] = values
    logits_BV = filled.logits_BV.clone()
    logits_BV[rows_R] = run_head(edited.model, h_RSD[:, -1])
    return logits_BV


def _run_no_op(edited: EditedModel, filled: Prefill, start: int) -> None:
    """A no-op forward, so that ZeRO-3 ranks stay in lockstep: another rank has a routed row."""
    first = torch.zeros(1, dtype=torch.long, device=filled.logits_BV.device)
    split = filled.split(first, start)
    run_head(edited.model, split.above(edited.model, edited.layer, split.y_BSD)[:, -1])


def copy_cache(cache: Any) -> Any:
    """A shallow copy of a cache: tensors are shared; appending to one leaves the other alone."""
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
