"""Diagnostics of a router: why it chose an edit, and which edits it confuses with each other.

Suffixes: E edits, B some of them, K places, C numbers of a compact key, V similarities, N pairs, T
candidates.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scen.errors import ConfigError
from scen.routing.neurons import CANDIDATES, Choice, KeyNeurons
from scen.routing.router import Router


@dataclass(frozen=True, slots=True)
class Candidate:
    """An edit that the gate scored: its `index` among the edits, its score, whether that is above
    the threshold, the cosines behind it by view (mean@6.0: the first view there), and the span of
    the message that matched it."""

    index: int
    score: float
    is_above: bool
    similarities: dict[str, float]
    span: str = ""


def explain(choice: Choice, row: int, router: Router, count: int = 5) -> list[Candidate]:
    """The likeliest `count` edits for one prompt of a choice, best first; fewer where fewer are.

    Only the first can be routed to, and only if it is above the threshold.
    """
    names = router.encoder.view_names()
    score_E = choice.score_BE[row]
    columns = (choice.index_BE[row], score_E, score_E > router.threshold, choice.sim_BEV[row])
    return [
        Candidate(index, score, is_above, dict(zip(names, sim_V, strict=True)))
        for index, score, is_above, sim_V in zip(
            *(column[:count].tolist() for column in columns), strict=True
        )
        if index >= 0
    ]


def explain_spans(
    choice: Choice, texts: Sequence[str], router: Router, count: int = 5
) -> list[Candidate]:
    """The same for one prompt, whose spans (`texts`) are the rows of the choice: of each edit the
    span by which it scores most."""
    best: dict[int, Candidate] = {}
    for row, text in enumerate(texts):
        for hit in explain(choice, row, router, count):
            if hit.index not in best or hit.score > best[hit.index].score:
                best[hit.index] = replace(hit, span=text)
    return sorted(best.values(), key=lambda hit: -hit.score)[:count]


_BATCH = 256


@dataclass(frozen=True, slots=True)
class Collision:
    """Two edits by their indices, `first` below `second`; the gate's score of either's prompt for
    the other edit, whether that is above the threshold, and the cosines behind it by view."""

    first: int
    second: int
    score: float
    is_above: bool
    similarities: dict[str, float]


def find_collisions(
    neurons: KeyNeurons,
    margin: float = 0.0,
    limit: int | None = None,
    nearest: int = CANDIDATES,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Collision]:
    """The pairs that score above the threshold, or less than `margin` below it; the worst first.

    Each edit is compared with its `nearest` edits only, so time scales with the search and memory
    stays constant. `limit` keeps the worst pairs. `progress` is called with each batch's size.
    Raises ConfigError where the margin is below 0.
    """
    if not margin >= 0:
        raise ConfigError(f"margin: {margin:g} must be 0 or more")
    parts = []
    for rows in torch.arange(len(neurons)).split(_BATCH):
        parts.append(_near_pairs(neurons, rows, neurons.router.threshold - margin, nearest))
        progress(len(rows))
    pair_N2, score_N, sim_NV = (torch.cat(column) for column in zip(*parts, strict=True))
    order_N = _worst_first(pair_N2, score_N)[:limit]
    names = neurons.router.encoder.view_names()
    columns = (pair_N2, score_N, score_N > neurons.router.threshold, sim_NV)
    return [
        Collision(first, second, score, is_above, dict(zip(names, sim_V, strict=True)))
        for (first, second), score, is_above, sim_V in zip(
            *(column[order_N].tolist() for column in columns), strict=True
        )
    ]


def _near_pairs(
    neurons: KeyNeurons, rows_B: Tensor, least: float, nearest: int
) -> tuple[Tensor, Tensor, Tensor]:
    """pair_N2 (rising), score_N and sim_NV of these edits with others that score above `least`."""
    texts = [neurons.text(row) for row in rows_B.tolist()]
    # An edit is its own nearest.
    choice = neurons.choose_by_code(neurons.code(rows_B), nearest + 1, texts)
    is_other_BT = (choice.index_BE >= 0) & (choice.index_BE != rows_B[:, None])
    at_B, at_T = (is_other_BT & (choice.score_BE > least)).nonzero(as_tuple=True)
    pair_N2 = torch.stack([rows_B[at_B], choice.index_BE[at_B, at_T]], 1).sort(1).values
    return pair_N2, choice.score_BE[at_B, at_T], choice.sim_BEV[at_B, at_T]


def _worst_first(pair_N2: Tensor, score_N: Tensor) -> Tensor:
    """The first occurrence of each pair, by falling score; equal ones by their indices."""
    _, place_N = pair_N2.unique(dim=0, return_inverse=True)
    order_N = place_N.argsort(stable=True)
    is_first_N = place_N[order_N].diff(prepend=torch.tensor([-1])) > 0
    kept_N: Tensor = order_N[is_first_N]
    return kept_N[score_N[kept_N].argsort(descending=True, stable=True)]
