"""Where keys are read: default places, candidate places, and a search for the fewest that suffice.

Suffixes: M spans of all questions, N prompts, K places, E candidate edits, V similarities, F
dimensions of a raw key, G of a narrowed one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scen.calibration.fit_encoder import RouterKeys
from scen.calibration.fit_gate import MANNER
from scen.calibration.fit_router import FoldPairs, RouterPlan, hard_negatives, score_folds
from scen.calibration.router_set import Question
from scen.model.base import Base
from scen.model.keys import KeyKind, KeyPlace, SpanKeys, join_spans
from scen.routing.gate import input_columns
from scen.routing.keys import random_view, read_prompt_spans
from scen.routing.router import conformal_threshold

# The profile of SmolLM2-135M reads span keys at 6, 9 and 18 of 30 layers and last-token keys at 9,
# 15 and 24; a search on Qwen2.5-Coder-0.5B chose means at 2 and 5 of 24 layers and last-token keys
# at 17 and 22. Early means carry which entity is meant, late last tokens what is asked of it.
_DEFAULTS: tuple[tuple[KeyKind, float], ...] = (
    ("span", 0.2),
    ("span", 0.3),
    ("last", 0.3),
    ("last", 0.5),
    ("span", 0.6),
    ("last", 0.8),
)
_DEPTHS = 10  # keys are tried at every tenth of the depth, except the ends
_WIDEST = 2048  # maximum of G: wider keys cost minutes and gigabytes, and are no better
_CHUNK = 512


def default_places(num_layers: int) -> tuple[KeyPlace, ...]:
    """Where keys are read unless places are searched: sentences early and in the middle (which
    entity), the last token in the middle and late (which question, and whether it is one)."""
    last = num_layers - 1
    places = [
        KeyPlace(min(max(1, int(num_layers * depth)), last), kind) for kind, depth in _DEFAULTS
    ]
    return tuple(sorted(dict.fromkeys(places), key=lambda place: place.layer))


def candidate_places(num_layers: int) -> tuple[KeyPlace, ...]:
    """Sentences and the last token at every tenth of the depth."""
    depths = [round(num_layers * tenth / _DEPTHS) for tenth in range(1, _DEPTHS)]
    layers = dict.fromkeys(min(max(depth, 1), num_layers - 1) for depth in depths)
    return tuple(KeyPlace(layer, kind) for layer in layers for kind in ("span", "last"))


def narrowing(width_F: int, width: int | None = None) -> Tensor | None:
    """A random projection_FG to `width` (default: 2048) dimensions that preserves the geometry of
    keys; None if they are not wider."""
    width = width or _WIDEST
    return None if width_F <= width else random_view(1, width_F, width, seed=2)[0]


def read_questions(
    base: Base,
    places: tuple[KeyPlace, ...],
    questions: Sequence[Question],
    projection_FG: Tensor | None,
    progress: Callable[[int], None] = lambda _: None,
) -> SpanKeys:
    """Keys (float16) of all spans of the questions. `progress` is called with each batch's
    size."""
    encoded = [base.template.encode_chat(question.messages) for question in questions]
    parts: list[SpanKeys] = []
    for begin in range(0, len(encoded), _CHUNK):
        keys = read_prompt_spans(base, places, encoded[begin : begin + _CHUNK], progress=progress)
        if projection_FG is not None:
            narrow_MKG = (keys.key_MKF.float() @ projection_FG).half()
            keys = replace(keys, key_MKF=narrow_MKG)
        parts.append(replace(keys, row_M=keys.row_M + begin))
    return join_spans(parts)


MOST = 6  # maximum number of places
_TOLERANCE = 0.01
_BOUND = 0.02  # for comparing sets of places, if the plan has none
_GATE_STEPS = 300  # enough to rank places
_QUESTIONS = 5000  # likewise
_HIDDEN, _CANDIDATES = 16, 16


@dataclass(frozen=True)
class PlaceStep:
    """A set of places, and its recall: the share of held-out rephrases routed to their edit at the
    threshold of the bound."""

    places: tuple[KeyPlace, ...]
    recall: float


@dataclass(frozen=True)
class PlaceSearch:
    """`steps` add one place at a time, the most useful first; `chosen` are the selected places
    (indices of the candidates). `top1` is, for each candidate place alone, the share of held-out
    rephrases whose nearest edit is their own."""

    steps: tuple[PlaceStep, ...]
    chosen: tuple[int, ...]
    top1: dict[KeyPlace, float]


def choose_places(
    folds: FoldPairs,
    keys: RouterKeys,
    plan: RouterPlan,
    progress: Callable[[int], None] = lambda _: None,
    most: int = MOST,
) -> PlaceSearch:
    """Greedy forward selection, starting with a place that is not of kind `last`, since candidates
    are retrieved by sentences. `folds` are the questions encoded at all candidate places;
    `progress` is called after each of the `count_trials` trials."""
    quick = replace(plan, gate_steps=_GATE_STEPS, num_gates=1, hidden=_HIDDEN)
    views, sample = plan.encoder.num_views, _thinned(folds)
    picked: list[int] = []
    steps: list[PlaceStep] = []
    for _ in range(min(most, len(keys.places))):
        recalls: dict[int, float] = {}
        for place in range(len(keys.places)):
            if place not in picked and (picked or keys.places[place].kind != "last"):
                columns = torch.tensor(_columns([*picked, place], len(keys.places), views))
                recalls[place] = _recall(sample, keys, quick, columns)
                progress(1)
        picked.append(max(recalls, key=lambda place: recalls[place]))
        places = tuple(keys.places[i] for i in picked)
        steps.append(PlaceStep(places, recalls[picked[-1]]))
    best = max(step.recall for step in steps)
    last_step = next(i for i, step in enumerate(steps) if step.recall >= best - _TOLERANCE)
    return PlaceSearch(
        tuple(steps), tuple(sorted(picked[: last_step + 1])), _top1(folds, keys, views)
    )


def count_trials(places: Sequence[KeyPlace], most: int = MOST) -> int:
    """Number of sets of places that `choose_places` tries."""
    first = sum(place.kind != "last" for place in places)
    return first + sum(len(places) - size for size in range(1, min(most, len(places))))


def _columns(places: Sequence[int], num_places: int, views: int) -> list[int]:
    return input_columns(sorted(places), num_places, views, MANNER)


def _thinned(folds: FoldPairs) -> FoldPairs:
    """An evenly spread sample of the questions, enough to rank places."""
    step = max(1, sum(map(len, folds.rows)) // _QUESTIONS)
    kept = [torch.arange(0, len(rows), step) for rows in folds.rows]
    pairs = tuple(p.take(k).first(_CANDIDATES) for p, k in zip(folds.pairs, kept, strict=True))
    return FoldPairs(pairs, tuple(r[k] for r, k in zip(folds.rows, kept, strict=True)))


def _recall(folds: FoldPairs, keys: RouterKeys, plan: RouterPlan, columns: Tensor) -> float:
    restricted = FoldPairs(tuple(pairs.views(columns) for pairs in folds.pairs), folds.rows)
    held = score_folds(restricted, plan)
    threshold = conformal_threshold(*hard_negatives(keys, held), plan.bound or _BOUND)
    own_N = held.own_N[keys.of("rephrase", "asked")[held.rows_N]]
    return float((own_N > threshold).float().mean())


def _top1(folds: FoldPairs, keys: RouterKeys, views: int) -> dict[KeyPlace, float]:
    is_rephrase = keys.of("rephrase")
    shares: dict[KeyPlace, float] = {}
    for column, place in enumerate(keys.places):
        hits = []
        for pairs, rows_N in zip(folds.pairs, folds.rows, strict=True):
            rephrases = pairs.take(is_rephrase[rows_N].nonzero().squeeze(1))
            sim_NE = rephrases.sim_NEV[..., column * views].float()
            if rephrases.real_NE is not None:
                sim_NE = sim_NE.masked_fill(~rephrases.real_NE, -torch.inf)
            nearest_N = sim_NE.argmax(1)
            hits.append(rephrases.own_NE.gather(1, nearest_N[:, None])[:, 0])
        shares[place] = float(torch.cat(hits).float().mean())
    return shares
