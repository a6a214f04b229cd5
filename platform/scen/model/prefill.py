"""One pass of the base over a batch of prompts, and a batch split at the edited layer.

The layers below a split are run once, those above it many times.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from scen.model.batch import (
    PromptBatch,
    TrainBatch,
    cache_argument,
    pad_prompts,
    shared_beginning,
)
from scen.model.decoder import (
    NO_SYNC,
    LayerInput,
    Pair,
    PrefixKV,
    RankSync,
    Span,
    capture_inputs,
    capture_layer,
    run_above,
    run_below,
    run_lm_head,
    span_after,
    window_of,
)
from scen.records import EncodedPrompt


@dataclass(frozen=True)
class Split:
    """A batch run up to the edited layer; independent of any expert.

    `x_BSF` is the input of its `down_proj`, `y_BSD` the base's output of it, and `given` the input
    and attention output of the layer.
    """

    x_BSF: Tensor
    y_BSD: Tensor
    given: LayerInput
    span: Span

    def take(self, rows: Tensor) -> "Split":
        """The split of these rows."""
        x_RSF, y_RSD = self.x_BSF[rows], self.y_BSD[rows]
        return Split(x_RSF, y_RSD, self.given.take(rows), self.span.take(rows))

    @classmethod
    def join(cls, parts: Sequence["Split"]) -> "Split":
        """All rows of the parts, one part after the other. They must cover equally many positions,
        and have the same distances between them, as splits of one batch in other wordings do."""
        return cls(
            torch.cat([part.x_BSF for part in parts]),
            torch.cat([part.y_BSD for part in parts]),
            LayerInput(
                torch.cat([part.given.h_BSD for part in parts]),
                torch.cat([part.given.attention_BSD for part in parts]),
            ),
            _join_spans([part.span for part in parts]),
        )

    def above(self, model: Any, layer: int, y_BSD: Tensor) -> Tensor:
        """h_BSD after the last layer, with `y_BSD` as the output of the edited `down_proj`."""
        return run_above(model, layer, self.given, y_BSD, self.span)


def _join_spans(parts: Sequence[Span]) -> Span:
    """All rows of spans with the same S; shorter prefixes are padded at their start."""
    widths = [part.allowed_B1ST.shape[-1] for part in parts]
    gaps = [max(widths) - width for width in widths]

    def padded(layer: int, index: int) -> Tensor:
        return torch.cat([
            nn.functional.pad(part.prefix.prefix[layer][index], (0, 0, gap, 0))
            for part, gap in zip(parts, gaps, strict=True)
        ])  # fmt: skip

    allowed = [
        nn.functional.pad(part.allowed_B1ST, (gap, 0))
        for part, gap in zip(parts, gaps, strict=True)
    ]
    return Span(
        torch.cat([part.positions_BS for part in parts]),
        torch.cat(allowed),
        parts[gaps.index(0)].distance_B1ST,
        PrefixKV({i: (padded(i, 0), padded(i, 1)) for i in parts[0].prefix.prefix}),
    )


@torch.no_grad()
def split_at(model: Any, layer: int, ids_BS: Tensor, span: Span) -> Split:
    """Run the base up to the edited layer, without experts."""
    with capture_inputs(model, [layer]) as inputs, capture_layer(model, layer) as captured:
        run_below(model, layer + 1, ids_BS, span)
    above = {i: pair for i, pair in span.prefix.prefix.items() if i > layer}
    rest = replace(span, prefix=PrefixKV(above))
    return Split(inputs[layer], captured.y_BSD, captured.given, rest)


def split_edits(model: Any, layer: int, batch: TrainBatch, cache: Any | None) -> Split:
    """The split of a training batch.

    With the KV cache of its prompts, it covers only the last prompt token and the targets; without,
    every position.
    """
    length = 0 if cache is None else batch.prompt_length - 1
    prefix = PrefixKV.of(cache, length)
    span = span_after(batch.mask_BT, batch.positions_BT, prefix, length)
    return split_at(model, layer, batch.ids_BT[:, length:], span)


@dataclass(frozen=True)
class Prefill:
    """One pass of the unedited base over a batch of prompts.

    `logits_BV` at the last prompt token, the KV cache of all P positions, and the inputs of
    `down_proj` at the requested layers (`inputs[layer]` is x_BSF). `y_BSD` is the output of the
    edited layer's MLP, `given` the input and attention output of that layer.

    The last S positions were run: all P, or fewer if keys and values of the first ones were cached.
    `copies` is the pass over the normalised forms of rows `batch.copied_C`, which are routed
    instead of what the base reads.
    """

    batch: PromptBatch
    logits_BV: Tensor
    cache: Any  # transformers DynamicCache
    inputs: dict[int, Tensor]
    given: LayerInput
    y_BSD: Tensor
    layer: int
    copies: "Prefill | None" = None

    @property
    def num_known(self) -> int:
        """P - S: the number of positions taken from a cache."""
        return self.batch.ids_BP.shape[1] - self.y_BSD.shape[1]

    def last(self, layer: int) -> Tensor:
        """x_BF: the input of `down_proj` at the last prompt token."""
        return self.inputs[layer][:, -1]

    def mean(self, layer: int) -> Tensor:
        """x_BF: the input of `down_proj`, averaged (float32) over the user's own tokens, all
        of which must have been run."""
        user_mask_BS1 = self.batch.user_mask_BP[:, self.num_known :, None]
        total_BF = (self.inputs[layer].float() * user_mask_BS1).sum(1)
        return total_BF / user_mask_BS1.sum(1)

    def spans(self, layer: int) -> Tensor:
        """x_BNF float32: the input of `down_proj`, averaged over each of the N spans of a prompt,
        all of which must have been run; 0 where a prompt has fewer spans."""
        weight_BNS = self.batch.span_BNP[:, :, self.num_known :].float()
        total_BNF = torch.bmm(weight_BNS, self.inputs[layer].float())
        return total_BNF / weight_BNS.sum(2, keepdim=True).clamp_min(1)

    def split(self, rows: Tensor, start: int) -> Split:
        """The split of these rows from position `start` on, without a further pass; those positions
        must have been run."""
        assert start >= self.num_known
        prefix = PrefixKV.of(self.cache, start, rows)
        mask_RP = self.batch.mask_BP[rows]
        span = span_after(mask_RP, self.batch.positions_BP[rows], prefix, start)
        begin = start - self.num_known
        x_RSF, y_RSD = (part[rows, begin:] for part in (self.inputs[self.layer], self.y_BSD))
        return Split(x_RSF, y_RSD, self.given.take(rows, begin), span)


@torch.no_grad()
def prefill(
    model: Any,
    batch: PromptBatch,
    layer: int,
    key_layers: Iterable[int],
    known: Sequence[Pair] = (),
    sync: RankSync = NO_SYNC,
) -> Prefill:
    """Run the unedited base once over the prompts, keeping what routing and experts need.

    Prompts whose normalised form differs are also run in that form, in a separate pass, so that the
    operations on the prompts themselves do not depend on it.

    `known` are keys and values, per layer, of the first positions, which are not run again. They
    come from an earlier pass of the base, possibly with another batch shape, so the logits may
    differ from those of a full pass in their last bits. With equal `known` and an equal batch they
    are bit-identical.
    """
    layers = {layer, *key_layers}
    filled = _run(model, batch, layer, layers, known)
    if not sync.any_rank(batch.copies is not None):
        return filled
    copies = _run(model, batch.copies or batch, layer, layers, (), with_logits=False)
    return filled if batch.copies is None else replace(filled, copies=copies)


@torch.no_grad()
def prefill_prompts(
    model: Any,
    prompts: Sequence[EncodedPrompt],
    pad_id: int,
    layer: int,
    key_layers: Iterable[int] = (),
    sync: RankSync = NO_SYNC,
) -> Prefill:
    """As `prefill`, with the tokens that all prompts begin with run once."""
    batch, known = _share(model, prompts, pad_id, sync)
    return prefill(model, batch, layer, key_layers, known, sync)


@torch.no_grad()
def prefill_keys(
    model: Any, prompts: Sequence[EncodedPrompt], pad_id: int, layers: Iterable[int]
) -> Prefill:
    """As `prefill_prompts` for reading keys only: no layer above the deepest of `layers` is run,
    and there are no logits. Not for a sharded base."""
    wanted = set(layers)
    first = min(wanted)
    with _stop_above(model, max(wanted)):
        batch, known = _share(model, prompts, pad_id, NO_SYNC)
        filled = _run(model, batch, first, wanted, known, with_logits=False)
        if batch.copies is None:
            return filled
        copies = _run(model, batch.copies, first, wanted, (), with_logits=False)
    return replace(filled, copies=copies)


def _share(
    model: Any, prompts: Sequence[EncodedPrompt], pad_id: int, sync: RankSync
) -> tuple[PromptBatch, list[Pair]]:
    """The padded prompts, and keys and values of the tokens that all of them begin with."""
    core = model.model
    device = next(model.parameters()).device
    width = max(len(prompt.ids) for prompt in prompts)
    windows = [window_of(core.config, layer) for layer in range(len(core.layers))]
    # Padding behind the beginning counts as distance to it, so an answer must fit as well.
    is_near = all(window is None or 2 * width <= window for window in windows)
    shared = shared_beginning(prompts) if is_near else 0
    batch = pad_prompts(prompts, pad_id, device, shared)
    if not sync.any_rank(shared > 0):
        return batch, []
    cache: Any = DynamicCache()
    ids_1P = batch.ids_BP[:1, : max(shared, 1)]  # in lockstep with ranks whose prompts share some
    with suppress(_Stopped):
        core(input_ids=ids_1P, use_cache=True, **cache_argument(cache))
    if not shared:
        return batch, []
    size = len(prompts)
    known = [(kv.keys.expand(size, -1, -1, -1), kv.values.expand(size, -1, -1, -1))
             for kv in cache.layers]  # fmt: skip
    return batch, known


class _Stopped(Exception):  # noqa: N818 (not an error)
    """A forward pass has reached the layer above which it need not go."""


@contextmanager
def _stop_above(model: Any, layer: int) -> Iterator[None]:
    """Within this block, each forward raises `_Stopped` above this layer, unless it is the last."""

    def stop(_module: Any, _args: tuple[Tensor, ...]) -> None:
        raise _Stopped

    above = list(model.model.layers)[layer + 1 : layer + 2]
    handles = [block.register_forward_pre_hook(stop) for block in above]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _run(
    model: Any,
    batch: PromptBatch,
    layer: int,
    layers: set[int],
    known: Sequence[Pair],
    *,
    with_logits: bool = True,
) -> Prefill:
    """One pass. Unless `with_logits`, the head runs over no rows."""
    cache = DynamicCache()
    for index, (keys, values) in enumerate(known):
        cache.update(keys, values, index)
    begin = known[0][0].shape[2] if known else 0
    with capture_inputs(model, layers) as inputs, capture_layer(model, layer) as captured:
        last_BSD: Tensor | None = None
        with suppress(_Stopped):
            last_BSD = model.model(
                input_ids=batch.ids_BP[:, begin:],
                attention_mask=batch.mask_BP.long(),
                position_ids=batch.positions_BP[:, begin:],
                use_cache=True,
                **cache_argument(cache),
            ).last_hidden_state
        if last_BSD is None:  # stopped before the last layer
            last_BSD = captured.given.h_BSD
        logits_BV = run_lm_head(model, last_BSD[:, -1] if with_logits else last_BSD[:0, -1])
    return Prefill(batch, logits_BV, cache, inputs, captured.given, captured.y_BSD, layer)
