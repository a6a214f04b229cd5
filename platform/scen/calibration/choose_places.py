"""Which places keys are read at: the fewest that find edits nearly as well as the best.

Suffixes: V similarities, N prompts, E candidate edits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scen.model.keys import KeyPlace
from scen.routing.evidence import input_columns
from scen.routing.threshold import conformal_threshold
from scen.training.fit_encoder import RouterKeys
from scen.training.fit_pairs import MANNER
from scen.training.fit_router import FoldPairs, RouterPlan, hard_negatives, score_folds

MOST = 6  # places tried together
_TOLERANCE = 0.01
_BOUND = 0.02  # at which sets of places are compared, where none is asked for
_GATE_STEPS = 300  # enough to tell places apart
_QUESTIONS = 5000  # as well
_HIDDEN, _CANDIDATES = 16, 16


@dataclass(frozen=True)
class PlaceStep:
    """A set of places, and the share of held-out rephrases that find their edit by them at the
    threshold that keeps the bound."""

    places: tuple[KeyPlace, ...]
    found: float


@dataclass(frozen=True)
class PlaceSearch:
    """`steps` add one place at a time, the most useful first; `chosen` are its places (columns of
    the candidates). `top1` is the share of held-out rephrases whose nearest edit, by the key at one
    place alone, is their own, for each candidate."""

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
    """Greedy forward selection, from a place that is not of kind `last`: candidates are found by
    sentences. `folds` are the questions seen at all candidate places; `progress`
    is told of each of the `count_trials` trials."""
    quick = replace(plan, gate_steps=_GATE_STEPS, num_gates=1, hidden=_HIDDEN)
    views, some = plan.encoder.num_views, _thinned(folds)
    picked: list[int] = []
    steps: list[PlaceStep] = []
    for _ in range(min(most, len(keys.places))):
        found: dict[int, float] = {}
        for place in range(len(keys.places)):
            if place not in picked and (picked or keys.places[place].kind != "last"):
                columns = torch.tensor(_columns([*picked, place], len(keys.places), views))
                found[place] = _found(some, keys, quick, columns)
                progress(1)
        picked.append(max(found, key=lambda place: found[place]))
        places = tuple(keys.places[i] for i in picked)
        steps.append(PlaceStep(places, found[picked[-1]]))
    best = max(step.found for step in steps)
    enough = next(i for i, step in enumerate(steps) if step.found >= best - _TOLERANCE)
    return PlaceSearch(tuple(steps), tuple(sorted(picked[: enough + 1])), _top1(folds, keys, views))


def count_trials(places: Sequence[KeyPlace], most: int = MOST) -> int:
    """How many sets of places `choose_places` tries."""
    first = sum(place.kind != "last" for place in places)
    return first + sum(len(places) - size for size in range(1, min(most, len(places))))


def _columns(places: Sequence[int], among: int, views: int) -> list[int]:
    return input_columns(sorted(places), among, views, MANNER)


def _thinned(folds: FoldPairs) -> FoldPairs:
    """Some of the questions, evenly spread: enough to tell places apart."""
    step = max(1, sum(map(len, folds.rows)) // _QUESTIONS)
    every = [torch.arange(0, len(rows), step) for rows in folds.rows]
    pairs = tuple(
        p.take(some).first(_CANDIDATES) for p, some in zip(folds.pairs, every, strict=True)
    )
    return FoldPairs(pairs, tuple(r[some] for r, some in zip(folds.rows, every, strict=True)))


def _found(folds: FoldPairs, keys: RouterKeys, plan: RouterPlan, columns: Tensor) -> float:
    few = FoldPairs(tuple(pairs.views(columns) for pairs in folds.pairs), folds.rows)
    held = score_folds(few, plan)
    threshold = conformal_threshold(*hard_negatives(keys, held), plan.bound or _BOUND)
    own_N = held.own_N[keys.of("rephrase", "asked")[held.rows_N]]
    return float((own_N > threshold).float().mean())


def _top1(folds: FoldPairs, keys: RouterKeys, views: int) -> dict[KeyPlace, float]:
    is_rephrase = keys.of("rephrase")
    found: dict[KeyPlace, float] = {}
    for column, place in enumerate(keys.places):
        hits = []
        for pairs, rows_N in zip(folds.pairs, folds.rows, strict=True):
            some = pairs.take(is_rephrase[rows_N].nonzero().squeeze(1))
            sim_NE = some.sim_NEV[..., column * views].float()
            if some.real_NE is not None:
                sim_NE = sim_NE.masked_fill(~some.real_NE, -torch.inf)
            nearest_N = sim_NE.argmax(1)
            hits.append(some.own_NE.gather(1, nearest_N[:, None])[:, 0])
        found[place] = float(torch.cat(hits).float().mean())
    return found
