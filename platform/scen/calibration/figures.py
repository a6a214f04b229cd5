"""How a router handles prompts about held-out edits, by kind of prompt.

Suffixes: N prompts, M spans.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from scen.calibration.fit_encoder import RouterKeys
from scen.calibration.fit_router import HeldOut, hard_negatives
from scen.calibration.router_set import ASKS
from scen.model.keys import SpanKeys
from scen.routing.neurons import KeyNeurons
from scen.routing.router import Router, area_under_curve, operating_curve

_NEGATIVES = {
    "near_miss": "near misses, given",
    "made_near_miss": "near misses, made",
    "namesake": "namesakes",
    "task": "tasks about the question",
    "subject_task": "tasks about the subject",
}
_POINTS = 200  # at most, of the stored operating curve


@dataclass(frozen=True)
class KindFigures:
    """Routing of the `count` prompts of a kind: shares routed to the right edit (`right`, None if
    there is none) and to a wrong one (`wrong`; any edit if there is no right one)."""

    kind: str
    count: int
    right: float | None
    wrong: float


@dataclass(frozen=True)
class HeldFigures:
    """Figures by kind of prompt at the router's threshold; the AUC of rephrases against hard
    negatives, and their operating curve as points (false-positive rate, recall)."""

    kinds: tuple[KindFigures, ...]
    auc: float
    curve: tuple[tuple[float, float], ...]
    threshold: float
    bound: float | None
    sample_size: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, rounded, without the curve."""
        facts = asdict(self)
        del facts["curve"]
        rounded: dict[str, Any] = _rounded(facts)
        return rounded

    def metrics(self) -> dict[str, float]:
        """As metrics by flat name, for a tracker."""
        flat = {"calibration/auc": self.auc, "calibration/threshold": self.threshold}
        for kind in self.kinds:
            name = kind.kind.replace(", ", "_").replace(" ", "_")
            if kind.right is not None:
                flat[f"calibration/{name}_right"] = kind.right
            flat[f"calibration/{name}_wrong"] = kind.wrong
        return flat


def measure_held(
    keys: RouterKeys, router: Router, held: HeldOut, unrelated: SpanKeys
) -> HeldFigures:
    """Figures from cross-fitted scores; for unrelated prompts, which took no part in any fit, from
    the router itself over all edits."""
    kinds = [*_asked(keys, router, held), *_negatives(keys, router, held)]
    count, spans = keys.about.num_edits, keys.all_spans()
    first = (spans.span_M == 0).nonzero().squeeze(1)[:count].tolist()
    texts = [spans.texts[i] for i in first]
    bank = KeyNeurons.build(router, keys.key_NKF[:count].float(), texts)
    floats = replace(unrelated, key_MKF=unrelated.key_MKF.float())
    score_M = bank.choose_spans(floats).score_BE[:, 0]
    prompts = int(unrelated.row_M.max()) + 1 if len(unrelated.row_M) else 0
    best_N = torch.full((prompts,), -torch.inf).scatter_reduce(0, unrelated.row_M, score_M, "amax")
    kinds.append(_false_positives("unrelated", best_N, router.threshold))
    own_N = held.own_N[keys.of("rephrase", "asked")[held.rows_N]]
    negative_N, _ = hard_negatives(keys, held)
    return HeldFigures(
        tuple(kinds),
        area_under_curve(own_N, negative_N),
        _thinned(*operating_curve(own_N, negative_N)),
        router.threshold,
        router.bound,
        router.sample_size,
    )


def score_router(keys: RouterKeys, router: Router) -> HeldOut:
    """The scores of all questions by a finished router, over a bank of all edits. They are held out
    only if the router was fitted on other edits."""
    spans, count = keys.all_spans(), keys.about.num_edits
    first = (spans.span_M == 0).nonzero().squeeze(1)[:count]
    texts = [spans.texts[i] for i in first.tolist()]
    bank = KeyNeurons.build(router, spans.key_MKF[first].float(), texts)
    choice = bank.choose_spans(replace(spans, key_MKF=spans.key_MKF.float()))
    own_M1 = keys.edit_N.masked_fill(~keys.of(*ASKS), -1)[spans.row_M][:, None]
    score_MC, is_own_MC = choice.score_BE, (choice.index_BE == own_M1) & (own_M1 >= 0)
    own_N, other_N = (
        torch.full((len(keys.about.questions),), -torch.inf).scatter_reduce(
            0, spans.row_M, score_MC.masked_fill(hidden_MC, -torch.inf).amax(1), "amax"
        )
        for hidden_MC in (~is_own_MC, is_own_MC)
    )
    own_N = own_N.masked_fill(own_N <= other_N, -torch.inf)
    return HeldOut(torch.arange(len(own_N)), own_N, other_N)


def _asked(keys: RouterKeys, router: Router, held: HeldOut) -> Iterator[KindFigures]:
    """Figures of prompts, rephrases and other ways of asking, by the source of their wording."""
    questions = [keys.about.questions[row] for row in held.rows_N.tolist()]
    sources = [f"{q.source}, asked" if q.kind == "asked" else q.source for q in questions]
    asks_N = keys.of(*ASKS)[held.rows_N]
    names = dict.fromkeys(s for s, asks in zip(sources, asks_N.tolist(), strict=True) if asks)
    for name in names:
        is_kind_N = asks_N & torch.tensor([source == name for source in sources])
        right = (held.own_N[is_kind_N] > router.threshold).float().mean()
        wrong_N = held.other_N[is_kind_N] > held.own_N[is_kind_N].clamp_min(router.threshold)
        label = "prompts" if name == "prompt" else _label(name)
        yield KindFigures(label, int(is_kind_N.sum()), float(right), float(wrong_N.float().mean()))


def _negatives(keys: RouterKeys, router: Router, held: HeldOut) -> Iterator[KindFigures]:
    asks_N = keys.of(*ASKS)[held.rows_N]
    yield _false_positives("same kind, edit absent", held.other_N[asks_N], router.threshold)
    for kind, label in _NEGATIVES.items():
        is_kind_N = keys.of(kind)[held.rows_N]
        if bool(is_kind_N.any()):
            yield _false_positives(label, held.other_N[is_kind_N], router.threshold)


def _label(source: str) -> str:
    """The label of rephrases of a source, or of a way of asking."""
    way, _, asked = source.rpartition(", ")
    return f"asked, {way}" if asked == "asked" else f"rephrases, {source}"


def _false_positives(label: str, best_N: Tensor, threshold: float) -> KindFigures:
    rate = float((best_N > threshold).float().mean()) if len(best_N) else 0.0
    return KindFigures(label, len(best_N), None, rate)


def _thinned(false_N: Tensor, recall_N: Tensor) -> tuple[tuple[float, float], ...]:
    """Points of the curve, dense where the false-positive rate is small."""
    count = len(false_N)
    index = torch.logspace(0, 1, _POINTS).sub(1).div(9).mul(count - 1).long().unique()
    points: Iterable[tuple[float, float]] = zip(
        false_N[index].tolist(), recall_N[index].tolist(), strict=True
    )
    return tuple(points)


def _rounded(value: Any) -> Any:
    """Floats rounded to four decimals, recursively."""
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    return round(value, 4) if isinstance(value, float) else value
