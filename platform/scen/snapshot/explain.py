"""Why a prompt was routed as it was: the likeliest edits, and what spoke for each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from scen.editor.decode import EditedModel
from scen.editor.keys import read_span_keys
from scen.editor.neurons import SigmoidNeurons
from scen.editor.prefill import Prefill
from scen.routing.explain import explain_spans
from scen.routing.neurons import KeyNeurons


@dataclass(frozen=True, slots=True)
class LikelyEdit:
    """An edit that a prompt may be about: its score, the `span` of the message that is most like
    it, and the cosines behind the score by view (mean@6.0: the first view at the place mean@6).
    Method scen has its score only."""

    edit_id: str
    score: float
    span: str = ""
    similarities: Mapping[str, float] = field(default_factory=dict)


@torch.no_grad()
def likely_edits(
    edited: EditedModel, filled: Prefill, row: int, edit_ids: Sequence[str], count: int
) -> tuple[LikelyEdit, ...]:
    """The likeliest `count` edits of one row of a batch, best first."""
    neurons = edited.neurons
    if len(neurons) == 0 or count == 0:
        return ()
    if isinstance(neurons, SigmoidNeurons):
        best = neurons.score(filled)[row].topk(min(count, len(neurons)))
        return tuple(
            LikelyEdit(edit_ids[i], score)
            for i, score in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        )
    assert isinstance(neurons, KeyNeurons)
    keys = read_span_keys(filled, neurons.router.encoder.places)
    own = keys.take((keys.row_M == row).nonzero().squeeze(1))
    own = replace(own, row_M=torch.zeros_like(own.row_M))  # a batch of this prompt alone
    found = explain_spans(neurons.choose_spans(own), own.texts, neurons.router, count)
    return tuple(LikelyEdit(edit_ids[c.index], c.score, c.span, c.similarities) for c in found)
