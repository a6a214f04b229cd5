"""Routing keys: the hidden states of a prompt that routing compares, from one pass of the base.

Suffixes: B prompts, N spans of a prompt, M spans of all prompts, K places, F width of a key.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from scen.model.prefill import Prefill

KeyKind = Literal["mean", "last", "span"]


@dataclass(frozen=True)
class KeyPlace:
    """Where a key is read: the `down_proj` input of a layer at the last prompt token (`last`),
    averaged over the user's own words (`mean`), or averaged over each span of them (`span`)."""

    layer: int
    kind: KeyKind

    @property
    def name(self) -> str:
        """KIND@LAYER, such as mean@3."""
        return f"{self.kind}@{self.layer}"


@dataclass(frozen=True)
class SpanKeys:
    """The keys `key_MKF` (float32) of M spans, prompt by prompt.

    Of each span, `row_M` is the index of its prompt, `span_M` its index within the prompt (0: the
    whole message), `share_M` the share of the user's own tokens that it covers, and `texts` its
    text.
    """

    key_MKF: Tensor
    row_M: Tensor
    span_M: Tensor
    share_M: Tensor
    texts: tuple[str, ...]

    @classmethod
    def of_whole(cls, key_NKF: Tensor, texts: Sequence[str]) -> "SpanKeys":
        """The keys of N prompts with one span each."""
        count = len(key_NKF)
        row_N = torch.arange(count)
        return cls(key_NKF, row_N, torch.zeros_like(row_N), torch.ones(count), tuple(texts))

    def to(self, device: torch.device) -> "SpanKeys":
        """A copy on this device."""
        key_MKF, row_M, span_M, share_M = (
            column.to(device) for column in (self.key_MKF, self.row_M, self.span_M, self.share_M)
        )
        return SpanKeys(key_MKF, row_M, span_M, share_M, self.texts)

    def take(self, index_M: Tensor) -> "SpanKeys":
        """The spans at these indices (int64)."""
        texts = tuple(self.texts[i] for i in index_M.tolist())
        columns = (self.row_M, self.span_M, self.share_M)
        row_M, span_M, share_M = (column[index_M] for column in columns)
        return SpanKeys(self.key_MKF[index_M], row_M, span_M, share_M, texts)


def reads_spans(places: tuple[KeyPlace, ...]) -> bool:
    """True if messages are compared span by span, in their normalised form."""
    return any(place.kind == "span" for place in places)


def read_keys(filled: Prefill, places: tuple[KeyPlace, ...]) -> Tensor:
    """key_BKF float32: the key of each whole prompt of a batch."""
    spans = read_span_keys(filled, places, max_spans=1)
    return spans.key_MKF


def read_span_keys(
    filled: Prefill, places: tuple[KeyPlace, ...], max_spans: int | None = None
) -> SpanKeys:
    """The keys of the first `max_spans` spans of each prompt of a batch (None: of all spans).

    Without a place of kind `span`, there is one per prompt, read from the unnormalised prompt.
    """
    if not reads_spans(places):
        return _one_pass(filled, places, 1)
    spans = _one_pass(filled, places, max_spans)
    if filled.copies is None:
        return spans
    rows_C = torch.tensor(filled.batch.copied_C, device=spans.row_M.device)
    copied = _one_pass(filled.copies, places, max_spans)
    kept_M = ~torch.isin(spans.row_M, rows_C)
    row_M = torch.cat([spans.row_M[kept_M], rows_C[copied.row_M]])
    order_M = row_M.argsort(stable=True)
    joined = (
        torch.cat([original[kept_M], copy])[order_M]
        for original, copy in (
            (spans.key_MKF, copied.key_MKF),
            (spans.span_M, copied.span_M),
            (spans.share_M, copied.share_M),
        )
    )
    key_MKF, span_M, share_M = joined
    kept_texts = (text for text, kept in zip(spans.texts, kept_M.tolist(), strict=True) if kept)
    texts = [*kept_texts, *copied.texts]
    in_order = tuple(texts[i] for i in order_M.tolist())
    return SpanKeys(key_MKF, row_M[order_M], span_M, share_M, in_order)


def _one_pass(filled: Prefill, places: tuple[KeyPlace, ...], max_spans: int | None) -> SpanKeys:
    length_BN = filled.batch.span_BNP[:, :max_spans].sum(2)
    row_M, span_M = length_BN.nonzero(as_tuple=True)

    def read(place: KeyPlace) -> Tensor:
        if place.kind == "span":
            return filled.spans(place.layer)[row_M, span_M]
        whole_BF = filled.mean(place.layer) if place.kind == "mean" else filled.last(place.layer)
        return whole_BF.float()[row_M]

    share_M = length_BN[row_M, span_M] / length_BN[row_M, 0]
    texts_B = filled.batch.texts
    texts = tuple(
        texts_B[row][span] if texts_B[row] else ""
        for row, span in zip(row_M.tolist(), span_M.tolist(), strict=True)
    )
    key_MKF = torch.stack([read(place) for place in places], 1)
    return SpanKeys(key_MKF, row_M, span_M, share_M, texts)


def join_spans(parts: Sequence[SpanKeys]) -> SpanKeys:
    """The spans of several parts; `row_M` must already index the prompts of all parts."""
    return SpanKeys(
        torch.cat([part.key_MKF for part in parts]),
        torch.cat([part.row_M for part in parts]),
        torch.cat([part.span_M for part in parts]),
        torch.cat([part.share_M for part in parts]),
        tuple(text for part in parts for text in part.texts),
    )
