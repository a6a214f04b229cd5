"""Teacher-forced accuracy and loss: predictions of each target token, given the earlier ones.

Suffixes: B probes, R routed ones, N target tokens, S positions, D hidden size, F input size of the
edited linear, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from scen.model.batch import IGNORED, pad_edits
from scen.model.decode import EditedModel
from scen.model.decoder import run_head
from scen.model.prefill import Prefill, Split, split_edits
from scen.model.route import Route
from scen.records import EncodedEdit


@dataclass(frozen=True)
class _TargetTokens:
    """Logits, labels and batch row (`row_N`) of all target tokens of a batch, without end
    tokens."""

    logits_NV: Tensor
    labels_N: Tensor
    row_N: Tensor

    def mean(self, value_N: Tensor, rows: int) -> list[float]:
        """The mean over the tokens of each row; 0 for a row without tokens."""
        total_B = torch.zeros(rows, dtype=torch.float64, device=value_N.device)
        total_B.index_add_(0, self.row_N, value_N.double())
        count_B = torch.bincount(self.row_N, minlength=rows)
        means: list[float] = (total_B / count_B.clamp_min(1)).tolist()
        return means


@torch.no_grad()
def teacher_forced_accuracy(
    edited: EditedModel,
    probes: Sequence[EncodedEdit],
    route: Route,
    filled: Prefill | None = None,
) -> tuple[list[float], list[float]]:
    """Share of each probe's target tokens (without the end token) that are the top-1 next token, in
    the bare base and under the route.

    `filled` is the prefill of the same prompts; its cache is reused where experts act on the last
    prompt token only.
    """
    accuracies = []
    for tokens in _target_tokens(edited, probes, route, filled):
        hit_N = (tokens.logits_NV.argmax(-1) == tokens.labels_N).float()
        accuracies.append(tokens.mean(hit_N, len(probes)))
    return accuracies[0], accuracies[1]


@torch.no_grad()
def teacher_forced_loss(
    edited: EditedModel, probes: Sequence[EncodedEdit], route: Route
) -> list[float]:
    """Mean negative log-likelihood (nats per token) of each probe's target under the route, without
    the end token. Its exponential is the perplexity."""
    *_, tokens = _target_tokens(edited, probes, route, None)
    dtype = torch.promote_types(tokens.logits_NV.dtype, torch.float32)
    nll_N = functional.cross_entropy(tokens.logits_NV.to(dtype), tokens.labels_N, reduction="none")
    return tokens.mean(nll_N, len(probes))


def _target_tokens(
    edited: EditedModel, probes: Sequence[EncodedEdit], route: Route, filled: Prefill | None
) -> Iterator[_TargetTokens]:
    """The target tokens in the bare base, then under the route."""
    batch = pad_edits(probes, edited.pad_id, route.expert_B.device)
    cache = filled.cache if filled and edited.bank.span == "last" else None
    split = split_edits(edited.model, edited.layer, batch, cache)
    start = 0 if cache or edited.bank.span == "all" else batch.prompt_length - 1
    labels_BS = batch.labels_BS
    counted_BS = torch.zeros_like(labels_BS, dtype=torch.bool)
    counted_BS[:, :-1] = labels_BS[:, 1:] != IGNORED  # the end token of a row is not counted
    row_N = counted_BS.nonzero()[:, 0]
    for y_BSD in (split.y_BSD, _routed_output(edited, split, route, start)):
        h_BSD = split.above(edited.model, edited.layer, y_BSD)
        h_ND = h_BSD[:, -labels_BS.shape[1] :][counted_BS]
        yield _TargetTokens(run_head(edited.model, h_ND), labels_BS[counted_BS], row_N)


def _routed_output(edited: EditedModel, split: Split, route: Route, start: int) -> Tensor:
    """y_BSD with experts applied to routed rows, from position `start` of the split on."""
    if route.is_base:
        return split.y_BSD
    rows_R = route.rows_R
    y_BSD = split.y_BSD.clone()
    y_BSD[rows_R, start:] = edited.bank.apply(
        split.x_BSF[rows_R, start:], split.y_BSD[rows_R, start:], route.expert_B[rows_R]
    )
    return y_BSD
