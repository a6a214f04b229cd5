"""The base cut at the edited layer: what lies below is run once, what lies above many times."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scen.model.batch import TrainBatch
from scen.model.decoder import capture_inputs, tap_sum

Pair = tuple[Tensor, Tensor]


class PrefixKV:
    """The keys and values of tokens before the ones that are run, per layer; never changed.

    Quacks like a transformers cache. `fresh` keeps what the run added.
    """

    def __init__(self, prefix: dict[int, Pair]) -> None:
        self.prefix = prefix
        self.fresh: dict[int, Pair] = {}

    @classmethod
    def of(cls, cache: Any | None, length: int, rows: Tensor | None = None) -> "PrefixKV":
        """The first `length` positions of a cache, of some rows or of all."""
        if cache is None or length == 0:
            return cls({})
        pick = slice(None) if rows is None else rows
        layers = enumerate(cache.layers)
        return cls(
            {i: (kv.keys[pick, :, :length], kv.values[pick, :, :length]) for i, kv in layers}
        )

    def update(self, keys: Tensor, values: Tensor, layer: int, **_: object) -> Pair:
        """Called by attention: all keys and values that this layer may look at."""
        self.fresh[layer] = (keys, values)
        if layer not in self.prefix:
            return keys, values
        before_keys, before_values = self.prefix[layer]
        return torch.cat([before_keys, keys], 2), torch.cat([before_values, values], 2)


@dataclass(frozen=True)
class Span:
    """The tokens of one run, S per row, behind a prefix of known keys and values."""

    positions_BS: Tensor
    allowed_B1ST: Tensor  # bool: which of the prefix + S positions each of the S may look at
    prefix: PrefixKV


def span_after(mask_BT: Tensor, positions_BT: Tensor, prefix: PrefixKV, length: int) -> Span:
    """The span of all positions from `length` on."""
    total = mask_BT.shape[1]
    order = torch.arange(total, device=mask_BT.device)
    causal_ST = order[None] <= order[length:, None]
    itself_ST = order[None] == order[length:, None]  # so that no padding row looks at nothing
    allowed_BST = (causal_ST & mask_BT[:, None]) | itself_ST
    return Span(positions_BT[:, length:], allowed_BST[:, None], prefix)


def run_layers(model: Any, first: int, stop: int, h_BSD: Tensor, span: Span) -> Tensor:
    """Hidden states through layers first .. stop-1."""
    core = model.model
    rotary = core.rotary_emb(h_BSD, span.positions_BS)
    for layer in core.layers[first:stop]:
        h_BSD = layer(
            h_BSD,
            attention_mask=span.allowed_B1ST,
            position_ids=span.positions_BS,
            cache=span.prefix,
            use_cache=True,
            position_embeddings=rotary,
        )
    return h_BSD


def run_head(model: Any, h_ND: Tensor) -> Tensor:
    """logits_NV from the last layer's output at N positions."""
    logits_NV: Tensor = model.lm_head(model.model.norm(h_ND.contiguous()))
    return logits_NV


@dataclass(frozen=True)
class Split:
    """A batch stopped at the edited layer: nothing here depends on any expert.

    `x_BSF` is the input of its `down_proj` and `y_BSD` the base's output of it; the layer's output
    is `rest_BSD` plus that of `down_proj`.
    """

    x_BSF: Tensor
    y_BSD: Tensor
    rest_BSD: Tensor
    span: Span

    def take(self, rows: Tensor) -> "Split":
        """The split of these rows."""
        prefix = {i: (k[rows], v[rows]) for i, (k, v) in self.span.prefix.prefix.items()}
        span = Span(self.span.positions_BS[rows], self.span.allowed_B1ST[rows], PrefixKV(prefix))
        return Split(self.x_BSF[rows], self.y_BSD[rows], self.rest_BSD[rows], span)

    def above(self, model: Any, layer: int, y_BSD: Tensor) -> Tensor:
        """Hidden states after the last layer, with another output of the edited `down_proj`."""
        count = len(model.model.layers)
        return run_layers(model, layer + 1, count, self.rest_BSD + y_BSD, self.span)


@torch.no_grad()
def split_at(model: Any, layer: int, ids_BS: Tensor, span: Span) -> Split:
    """Run the base up to the edited layer, without experts."""
    with capture_inputs(model, [layer]) as inputs, tap_sum(model, layer) as terms:
        run_layers(model, 0, layer + 1, model.model.embed_tokens(ids_BS), span)
    return Split(inputs[layer], terms["y"], terms["rest"], span)


def split_edits(model: Any, layer: int, batch: TrainBatch, cache: Any | None) -> Split:
    """The split of a training batch.

    With the cache of its prompts, it covers the last prompt token and the targets only; without,
    every position.
    """
    length = 0 if cache is None else batch.prompt_length - 1
    prefix = PrefixKV.of(cache, length)
    span = span_after(batch.mask_BT, batch.positions_BT, prefix, length)
    return split_at(model, layer, batch.ids_BT[:, length:], span)
