"""Fit a router's encoder: whitening, and views that separate edits, subjects and questions.

Views are fitted in closed form: within-class covariance normalisation (Hatch et al. 2006), then
the principal directions of the result, as in linear discriminant analysis.

Suffixes: N prompts, M spans, E edits, K places, F dimensions of a raw key, C of a view, J of the
joined first views.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scen.calibration.router_set import ASKS, RouterSet
from scen.model.keys import KeyPlace, SpanKeys
from scen.model.surface import bare_form
from scen.routing.keys import SEARCH_WIDTH, KeyEncoder, Whitening, compose_encoder, random_view
from scen.routing.words import trigram_similarity

_SHRINKAGE = 1.0  # of the within-class covariance, relative to its mean variance


_WHITENED = 4000  # prompts that suffice for whitening statistics


@dataclass(frozen=True)
class EncoderPlan:
    """Widths of the views at each place, and the shrinkage of the whitening. The edit view comes
    first: candidates are retrieved by it."""

    edit: int = 128
    general: int = 256
    subject: int = 64
    relation: int = 64
    shrinkage: float = 0.1

    @property
    def num_views(self) -> int:
        """Number of views per place."""
        return 4


@dataclass(frozen=True)
class RouterKeys:
    """A RouterSet with its raw keys: `key_NKF` of whole questions, and `spans`, the keys of all
    their spans (None: each question is one span). `vocabulary` are words of the base's language,
    the most common first."""

    about: RouterSet
    places: tuple[KeyPlace, ...]
    key_NKF: Tensor
    spans: SpanKeys | None = None
    vocabulary: tuple[str, ...] = ()

    @property
    def edit_N(self) -> Tensor:
        """The edit that each question is about, -1 for none."""
        return torch.tensor([question.edit for question in self.about.questions])

    def of(self, *kinds: str) -> Tensor:
        """Bool mask of the questions of these kinds."""
        return torch.tensor([question.kind in kinds for question in self.about.questions])

    def at(self, columns: list[int]) -> "RouterKeys":
        """The same, restricted to some of the places."""
        places = tuple(self.places[i] for i in columns)
        spans = self.spans and replace(self.spans, key_MKF=self.spans.key_MKF[:, columns])
        key_NKF = self.key_NKF[:, columns]
        return replace(self, places=places, key_NKF=key_NKF, spans=spans)

    def narrowed(self, projection_FG: Tensor) -> "RouterKeys":
        """The same with keys of fewer dimensions (see `narrowing`)."""
        key_NKG = (self.key_NKF.float() @ projection_FG).half()
        spans = self.spans
        if spans is not None:
            spans = replace(spans, key_MKF=(spans.key_MKF.float() @ projection_FG).half())
        return replace(self, key_NKF=key_NKG, spans=spans)

    def all_spans(self) -> SpanKeys:
        """The spans of all questions, in order."""
        if self.spans is not None:
            return self.spans
        texts = [bare_form(text) for text in self.about.texts]
        return SpanKeys.of_whole(self.key_NKF, texts)


def question_rows(keys: RouterKeys) -> Tensor:
    """row_N: the index of the span that asks each question: the one most similar to the bare
    question, or the whole message if no words were added."""
    spans = keys.all_spans()
    first_N = (spans.span_M == 0).nonzero().squeeze(1)
    end_N = torch.cat([first_N[1:], torch.tensor([len(spans.row_M)])])
    rows = []
    bounds = zip(first_N.tolist(), end_N.tolist(), strict=True)
    for question, (begin, end) in zip(keys.about.questions, bounds, strict=True):
        similarity = [trigram_similarity(spans.texts[i], question.asked) for i in range(begin, end)]
        rows.append(begin + similarity.index(max(similarity)) if question.asked else begin)
    return torch.tensor(rows)


def fit_encoder(keys: RouterKeys, used_E: Tensor, plan: EncoderPlan) -> KeyEncoder:
    """The encoder fitted on the questions about the edits in `used_E` (bool) and unrelated ones."""
    key_NKF = keys.all_spans().key_MKF[question_rows(keys)]
    edit_N = keys.edit_N
    used_N = used_questions(keys, used_E)
    whitening = Whitening.fit(thinned(key_NKF[used_N]), plan.shrinkage)
    asks_N = used_N & keys.of(*ASKS)
    names = torch.tensor([q.is_subject for q in keys.about.questions])
    about_N = used_N & names & (edit_N >= 0)
    relation_N = torch.tensor([*keys.about.relations, -1])[edit_N]
    places, width_F = len(keys.places), keys.key_NKF.shape[-1]
    white_NKF = whitening(key_NKF)
    views = [
        _views(white_NKF[asks_N], edit_N[asks_N], plan.edit),
        random_view(places, width_F, min(plan.general, width_F), seed=0),
        _views(white_NKF[about_N], edit_N[about_N], plan.subject),
        _views(white_NKF[asks_N], relation_N[asks_N], plan.relation),
    ]
    encoder = compose_encoder(whitening, keys.places, views)
    first_NJ = encoder.first_views(encoder(key_NKF[asks_N]))
    return encoder.searching_by(fit_view(first_NJ, edit_N[asks_N], SEARCH_WIDTH))


def used_questions(keys: RouterKeys, used_E: Tensor) -> Tensor:
    """Bool mask of the questions about the edits in `used_E` (bool) and of those about none."""
    edit_N = keys.edit_N
    return torch.where(edit_N >= 0, used_E[edit_N.clamp_min(0)], True)


def texts_by_edit(keys: RouterKeys, used_E: Tensor, asked_N: Tensor) -> list[str]:
    """The questions about each of these edits (bool) as one text, and each unrelated question: a
    name is not common because it is asked about in many ways. `asked_N` are the `question_rows`."""
    texts = keys.all_spans().texts
    used_N = used_questions(keys, used_E).nonzero().squeeze(1)
    joined: dict[tuple[int, int], list[str]] = {}
    for number, row in zip(used_N.tolist(), asked_N[used_N].tolist(), strict=True):
        edit = keys.about.questions[number].edit
        joined.setdefault((edit, number if edit < 0 else 0), []).append(texts[row])
    return [" ".join(parts) for parts in joined.values()]


def _views(white_NKF: Tensor, class_N: Tensor, width: int) -> Tensor:
    return torch.stack([fit_view(white_NF, class_N, width) for white_NF in white_NKF.unbind(1)])


def thinned(key_NKF: Tensor) -> Tensor:
    """At most _WHITENED of the prompts, evenly spread."""
    return key_NKF[:: max(1, -(-len(key_NKF) // _WHITENED))]


def fit_view(key_NF: Tensor, class_N: Tensor, width: int) -> Tensor:
    """view_FC with C = min(width, F) from whitened keys and their classes (int64 labels).

    Classes with a single prompt do not contribute to the within-class covariance.
    """
    width_F = key_NF.shape[1]
    within_FF = within_class(key_NF, class_N)
    # Any square root of the inverse will do: the resulting principal directions are the same.
    lower_FF = torch.linalg.cholesky(within_FF)
    identity_FF = torch.eye(width_F)
    flat_FF = torch.linalg.solve_triangular(lower_FF, identity_FF, upper=False).T
    spread_NF = (key_NF - key_NF.mean(0)) @ flat_FF
    _, axis_FF = torch.linalg.eigh(spread_NF.T @ spread_NF)
    view_FC: Tensor = flat_FF @ axis_FF[:, -min(width, width_F) :]
    return view_FC


def within_class(key_NF: Tensor, class_N: Tensor) -> Tensor:
    """within_FF: the covariance of keys around their class means, shrunk towards isotropic."""
    within_FF = _within(key_NF, class_N)
    mean_variance = within_FF.diagonal().mean().clamp_min(1e-12)
    return within_FF + _SHRINKAGE * mean_variance * torch.eye(key_NF.shape[1])


def _within(key_NF: Tensor, class_N: Tensor) -> Tensor:
    """within_FF: the pooled covariance of keys around their class means, without shrinkage."""
    labels, index_N, count_C = class_N.unique(return_inverse=True, return_counts=True)
    mean_CF = torch.zeros(len(labels), key_NF.shape[1]).index_add_(0, index_N, key_NF)
    mean_CF /= count_C[:, None]
    residual_NF = (key_NF - mean_CF[index_N])[count_C[index_N] > 1]
    freedom = max(len(residual_NF) - int((count_C > 1).sum()), 1)
    return residual_NF.T @ residual_NF / freedom
