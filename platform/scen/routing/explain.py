"""Router diagnostics: why it chose an edit, and which edits it confuses with each other.

Suffixes: E edits, B a batch of them, K places, C dimensions of a compact key, V similarities, N
pairs, T candidates.
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
    """An edit that the gate scored: its `index` among the edits, its score, whether the score is
    above the threshold, the cosines behind it by view (mean@6.0 is the first view at mean@6), and
    the span of the message that matched it."""

    index: int
    score: float
    is_above: bool
    similarities: dict[str, float]
    span: str = ""


def explain(choice: Choice, row: int, router: Router, count: int = 5) -> list[Candidate]:
    """The top `count` edits (or fewer) for one prompt of a choice, best first.

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
    """As `explain`, for one prompt whose spans (`texts`) are the rows of the choice: each edit with
    its best-scoring span."""
    best: dict[int, Candidate] = {}
    for row, text in enumerate(texts):
        for hit in explain(choice, row, router, count):
            if hit.index not in best or hit.score > best[hit.index].score:
                best[hit.index] = replace(hit, span=text)
    return sorted(best.values(), key=lambda hit: -hit.score)[:count]


_BATCH = 256


@dataclass(frozen=True, slots=True)
class Collision:
    """Two edits by index, `first` < `second`: the gate's score of one's prompt for the other,
    whether the score is above the threshold, and the cosines behind it by view."""

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
    """The pairs that score above the threshold, or less than `margin` below it; worst first.

    Each edit is compared with its `nearest` edits only, so time scales with the search and memory
    stays constant. `limit` keeps only the worst pairs. `progress` is called with each batch's size.
    Raises ConfigError if the margin is negative.
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
    neurons: KeyNeurons, rows_B: Tensor, min_score: float, nearest: int
) -> tuple[Tensor, Tensor, Tensor]:
    """pair_N2 (ascending), score_N, sim_NV: these edits with others scoring above `min_score`."""
    texts = [neurons.text(row) for row in rows_B.tolist()]
    # Each edit retrieves itself first.
    choice = neurons.choose_by_code(neurons.code(rows_B), nearest + 1, texts)
    is_other_BT = (choice.index_BE >= 0) & (choice.index_BE != rows_B[:, None])
    row_N, column_N = (is_other_BT & (choice.score_BE > min_score)).nonzero(as_tuple=True)
    pair_N2 = torch.stack([rows_B[row_N], choice.index_BE[row_N, column_N]], 1).sort(1).values
    return pair_N2, choice.score_BE[row_N, column_N], choice.sim_BEV[row_N, column_N]


def _worst_first(pair_N2: Tensor, score_N: Tensor) -> Tensor:
    """Indices of the first occurrence of each pair, by descending score; ties in pair order."""
    _, place_N = pair_N2.unique(dim=0, return_inverse=True)
    order_N = place_N.argsort(stable=True)
    is_first_N = place_N[order_N].diff(prepend=torch.tensor([-1])) > 0
    kept_N: Tensor = order_N[is_first_N]
    return kept_N[score_N[kept_N].argsort(descending=True, stable=True)]
