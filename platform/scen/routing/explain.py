"""Why the router chose as it did, as plain records."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from scen.routing.key_neurons import Choice
from scen.routing.router import Router


@dataclass(frozen=True, slots=True)
class Candidate:
    """An edit that the gate looked at: its `index` among the edits, its score, whether that is
    above the threshold, the cosines behind it by view (mean@6.0: the first view there), and the
    part of the message that it was found by."""

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
        for found in explain(choice, row, router, count):
            if found.index not in best or found.score > best[found.index].score:
                best[found.index] = replace(found, span=text)
    return sorted(best.values(), key=lambda found: -found.score)[:count]
