"""Summaries of the probe outcomes and loss curves of a wave: pure functions."""

import itertools
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from scen.evaluation.metrics import Outcome, group, of_kind
from scen.evaluation.probes import ProbeKind
from scen.tracking.client import WaveRecord

Outcomes = Sequence[Outcome]
Curves = Sequence[Sequence[float]]

POSITIVES: dict[ProbeKind, str] = {
    "reliability": "prompts",
    "generality": "rephrases",
    "retention": "earlier prompts",
}
"""Kinds of probes that should reach their edit, and their names for people."""

NEGATIVES: dict[ProbeKind, str] = {"near_miss": "near misses", "locality": "unrelated prompts"}
"""Kinds of probes that should reach no edit."""

ROUTES = ("own edit", "another edit", "base")
"""The routes of a probe. A near miss with route "own edit" triggered the edit it resembles."""

_MOST_POINTS = 400  # of a curve
_MOST_SOURCES = 10
_TENTHS = 10


@dataclass(frozen=True, slots=True)
class AgeGroup:
    """Edits of similar age: how many were asked, and how many of them answered exactly."""

    name: str
    asked: int
    exact: int

    @property
    def share(self) -> float:
        """Of exact answers."""
        return self.exact / self.asked


def record_outcomes(record: WaveRecord) -> list[Outcome]:
    """The outcomes among the rows of a wave."""
    return [Outcome.from_row(row) for row in record.per_edit if "kind" in row]


def route_table(outcomes: Outcomes) -> list[dict[str, str | int | float]]:
    """A line per kind of probe, rephrases by their most frequent sources: the count of each of
    ROUTES, as `NAME`, and its share, as `NAME share`."""
    groups: dict[str, Outcomes] = {}
    for kind, name in (POSITIVES | NEGATIVES).items():
        selected = of_kind(outcomes, kind)
        groups |= _by_source(name, selected) if kind == "generality" else {name: selected}
    return [
        {"probes": name, "asked": len(selected), **_routes(selected)}
        for name, selected in groups.items()
        if selected
    ]


def asking_table(outcomes: Outcomes) -> list[dict[str, str | int | float]]:
    """A line per way of asking, and per task about a question (which must reach no edit): how many
    were asked, the shares of each of ROUTES, and that of exact answers (not for tasks)."""
    lines: list[dict[str, str | int | float]] = []
    kinds: tuple[ProbeKind, ...] = ("asking", "task")
    for kind in kinds:
        for way, asked in sorted(group(of_kind(outcomes, kind)).items()):
            line: dict[str, str | int | float] = {"way": way, "asked": len(asked)}
            line |= {route: share for route, share in _routes(asked).items() if "share" in route}
            if kind == "asking":
                line["exact share"] = _age_group(way, asked).share
            lines.append(line)
    return lines


def operating_curve(outcomes: Outcomes, threshold: float | None = None) -> list[dict[str, float]]:
    """The shares of routed probes at other thresholds, highest first; a line per threshold, the
    store's own included if given.

    `score` is that of the top-1 edit, the only one that can answer. So a prompt, a rephrase or an
    earlier prompt reaches its edit at thresholds below its score if its `nearest` is the edit it
    is about, otherwise at none; a near miss or an unrelated prompt reaches an edit at all
    thresholds below its score. A column per kind that was probed holds the share that reaches
    an edit. At most 400 of the scores are kept, evenly spaced.
    """
    reach = {name: _reach(of_kind(outcomes, kind), is_own=True) for kind, name in POSITIVES.items()}
    reach |= {
        name: _reach(of_kind(outcomes, kind), is_own=False) for kind, name in NEGATIVES.items()
    }
    probed = {name: scores for name, scores in reach.items() if scores}
    cuts = sorted({s for scores in probed.values() for s in scores if math.isfinite(s)})
    if not cuts:
        return []
    thin = cuts[:: max(1, math.ceil(len(cuts) / _MOST_POINTS))]
    kept = {math.nextafter(cuts[0], -math.inf), *thin, cuts[-1]}
    kept |= set() if threshold is None else {threshold}
    return [
        {"threshold": cut} | {name: _share_above(scores, cut) for name, scores in probed.items()}
        for cut in sorted(kept, reverse=True)
    ]


def operating_point(outcomes: Outcomes) -> dict[str, float]:
    """The shares that reached an edit, by the names of the curve's columns."""
    return {
        name: fmean(o.is_own if kind in POSITIVES else o.routed_to is not None for o in selected)
        for kind, name in (POSITIVES | NEGATIVES).items()
        if (selected := of_kind(outcomes, kind))
    }


def by_age(outcomes: Outcomes) -> list[AgeGroup]:
    """Earlier edits in tenths by age, the oldest (1) first; in fewer groups below ten.

    Earlier edits are probed in commit order, and an evaluation samples them evenly over it: a
    tenth of the outcomes is a tenth of the earlier edits by age.
    """
    earlier = of_kind(outcomes, "retention")
    count = min(_TENTHS, len(earlier))
    cuts = [i * len(earlier) // count for i in range(count + 1)] if count else []
    parts = [earlier[begin:end] for begin, end in itertools.pairwise(cuts)]
    return [_age_group(str(i), part) for i, part in enumerate(parts, start=1)]


def own_edits(outcomes: Outcomes) -> list[AgeGroup]:
    """The wave's own edits as the youngest group; empty if none was asked."""
    own = of_kind(outcomes, "reliability")
    return [_age_group("this wave", own)] if own else []


def _by_source(name: str, outcomes: Outcomes) -> dict[str, Outcomes]:
    sources = group(outcomes)
    common = sorted(sorted(sources, key=lambda s: -len(sources[s]))[:_MOST_SOURCES])
    rest = [o for o in outcomes if o.probe.source not in common]
    by_source: dict[str, Outcomes] = {f"{name}, {s}": sources[s] for s in common}
    return by_source | {f"{name}, other sources": rest}


def _age_group(name: str, outcomes: Outcomes) -> AgeGroup:
    return AgeGroup(name, len(outcomes), sum(o.is_exact for o in outcomes))


def _routes(outcomes: Outcomes) -> dict[str, int | float]:
    own, other = sum(o.is_own for o in outcomes), sum(o.is_other for o in outcomes)
    counts = dict(zip(ROUTES, (own, other, len(outcomes) - own - other), strict=True))
    return {**counts, **{f"{route} share": n / len(outcomes) for route, n in counts.items()}}


def _reach(outcomes: Outcomes, *, is_own: bool) -> list[float]:
    """The threshold below which each probe counts, ascending; -inf if it never does."""
    return sorted(
        o.score
        if o.nearest is not None and (not is_own or o.nearest == o.probe.edit_id)
        else -math.inf
        for o in outcomes
    )


def _share_above(ascending: list[float], cut: float) -> float:
    return (len(ascending) - bisect_right(ascending, cut)) / len(ascending)


def finite_curves(curves: Curves) -> list[list[float]]:
    """The curves up to their first NaN or infinity; empty ones are dropped."""
    kept = []
    for curve in curves:
        end = next((i for i, loss in enumerate(curve) if not math.isfinite(loss)), len(curve))
        kept.append([float(loss) for loss in curve[:end]])
    return [curve for curve in kept if curve]


def losses_by_step(curves: list[list[float]]) -> list[list[float]]:
    """The losses of all edits at each step.

    An edit that stopped early keeps its last loss. Otherwise the mean would rise at the end, where
    only the hard edits are still training.
    """
    num_steps = max((len(curve) for curve in curves), default=0)
    return [[curve[min(step, len(curve) - 1)] for curve in curves] for step in range(num_steps)]


def loss_summary(curves: Curves) -> list[dict[str, float]]:
    """Mean, median and largest training loss of a wave at each step, as named metrics."""
    return [
        {
            "train/loss_mean": fmean(losses),
            "train/loss_median": median(losses),
            "train/loss_max": max(losses),
        }
        for losses in losses_by_step(finite_curves(curves))
    ]


def before_after_pairs(metrics: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """The metrics present as `NAME_before` and `NAME_after`, by NAME, as (before, after)."""
    names = [key.removesuffix("_before") for key in metrics if key.endswith("_before")]
    return {
        name: (metrics[f"{name}_before"], metrics[f"{name}_after"])
        for name in names
        if f"{name}_after" in metrics
    }
