"""A batch stopped at the edited layer: what lies below is run once, what lies above many times."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scen.model.batch import TrainBatch
from scen.model.decoder import (
    LayerInput,
    PrefixKV,
    Span,
    capture_inputs,
    capture_layer,
    run_above,
    run_below,
    span_after,
)


@dataclass(frozen=True)
class Split:
    """A batch stopped at the edited layer: nothing here depends on any expert.

    `x_BSF` is the input of its `down_proj`, `y_BSD` the base's output of it, and `given` what lies
    before its MLP.
    """

    x_BSF: Tensor
    y_BSD: Tensor
    given: LayerInput
    span: Span

    def take(self, rows: Tensor) -> "Split":
        """The split of these rows."""
        x_RSF, y_RSD = self.x_BSF[rows], self.y_BSD[rows]
        return Split(x_RSF, y_RSD, self.given.take(rows), self.span.take(rows))

    def above(self, model: Any, layer: int, y_BSD: Tensor) -> Tensor:
        """h_BSD after the last layer, with another output of the edited `down_proj`."""
        return run_above(model, layer, self.given, y_BSD, self.span)


@torch.no_grad()
def split_at(model: Any, layer: int, ids_BS: Tensor, span: Span) -> Split:
    """Run the base up to the edited layer, without experts."""
    with capture_inputs(model, [layer]) as inputs, capture_layer(model, layer) as captured:
        run_below(model, layer + 1, ids_BS, span)
    return Split(inputs[layer], captured.y_BSD, captured.given, span)


def split_edits(model: Any, layer: int, batch: TrainBatch, cache: Any | None) -> Split:
    """The split of a training batch.

    With the cache of its prompts, it covers the last prompt token and the targets only; without,
    every position.
    """
    length = 0 if cache is None else batch.prompt_length - 1
    prefix = PrefixKV.of(cache, length)
    span = span_after(batch.mask_BT, batch.positions_BT, prefix, length)
    return split_at(model, layer, batch.ids_BT[:, length:], span)
