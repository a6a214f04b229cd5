"""One pass of the base over a batch of prompts, and what is kept of it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from scen.editor.batch import PromptBatch
from scen.editor.split import PrefixKV, Split, span_after
from scen.editor.taps import tap_inputs, tap_sum


@dataclass(frozen=True)
class Prefill:
    """`logits_BV` at the last prompt token, the KV cache, and the inputs of `down_proj`
    (`inputs[layer]` is x_BPF) at the layers that were asked for. `rest_BPD` and `y_BPD` are the two
    terms of the edited layer's output."""

    batch: PromptBatch
    logits_BV: Tensor
    cache: Any  # transformers DynamicCache
    inputs: dict[int, Tensor]
    rest_BPD: Tensor
    y_BPD: Tensor
    layer: int

    def last(self, layer: int) -> Tensor:
        """x_BF: the input of `down_proj` at the last prompt token."""
        return self.inputs[layer][:, -1]

    def mean(self, layer: int) -> Tensor:
        """x_BF: the input of `down_proj`, averaged (float32) over the user's own words."""
        own_BP1 = self.batch.own_BP[..., None]
        total_BF = (self.inputs[layer].float() * own_BP1).sum(1)
        return total_BF / own_BP1.sum(1)

    def split(self, rows: Tensor, start: int) -> Split:
        """These rows from position `start` on, stopped at the edited layer; nothing is run."""
        prefix = PrefixKV.of(self.cache, start, rows)
        mask_RP = self.batch.mask_BP[rows]
        span = span_after(mask_RP, self.batch.positions_BP[rows], prefix, start)
        parts = (self.inputs[self.layer], self.y_BPD, self.rest_BPD)
        x_RSF, y_RSD, rest_RSD = (part[rows, start:] for part in parts)
        return Split(x_RSF, y_RSD, rest_RSD, span)


@torch.no_grad()
def prefill(model: Any, batch: PromptBatch, layer: int, key_layers: Iterable[int]) -> Prefill:
    """Run the unedited base over the prompts, once, keeping what routing and experts need."""
    cache = DynamicCache()
    with tap_inputs(model, {layer, *key_layers}) as inputs, tap_sum(model, layer) as terms:
        out = model.model(
            input_ids=batch.ids_BP,
            attention_mask=batch.mask_BP.long(),
            position_ids=batch.positions_BP,
            cache=cache,
            use_cache=True,
        )
        # On a strided slice the head would copy its weights once per row.
        logits_BV = model.lm_head(out.last_hidden_state[:, -1].contiguous())
    return Prefill(batch, logits_BV, cache, inputs, terms["rest"], terms["y"], layer)
