"""From outcomes of probes to metrics; and teacher-forced predictions of each target token."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from scen.evaluation.probes import Probe, ProbeKind
from scen.model.batch import IGNORED, pad_edits
from scen.model.decode import EditedModel
from scen.model.decoder import run_head
from scen.model.prefill import Prefill, Split, split_edits
from scen.model.route import Route
from scen.records import EncodedEdit


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one probe, before (bare base) and after (edited model).

    `routed_to` is the edit that spoke (None: the base), `score` the best neuron's. `identical` is
    True where every logit of the answer was the base's bit for bit, None where the probe has a
    target. `rival` is another edit that the router would have taken, had that one not been there.
    The teacher-forced figures are shares of target tokens, None where it has none.
    """

    probe: Probe
    before: str
    after: str
    routed_to: str | None
    score: float
    nearest: str | None
    identical: bool | None
    forced_before: float | None = None
    forced_after: float | None = None
    rival: str | None = None

    @property
    def is_exact(self) -> bool:
        """True where the free answer is the target, letter for letter."""
        return self.after == self.probe.target

    @property
    def was_exact(self) -> bool:
        """True where the base gave the target already."""
        return self.before == self.probe.target


@dataclass(frozen=True)
class EvalReport:
    """The numbers of one evaluation; shares are between 0 and 1, None where nothing was probed.

    Generality is per source of the rephrases. `locality_unchanged`: share of unrelated prompts
    whose answer stayed the base's; `logits_identical`: share of the *unrouted* ones among them
    whose logits are the base's bit for bit. `retention`: share of earlier edits, of those asked
    again, that are still answered. `asking`: by way of asking, the share that reaches the own edit
    (`own_edit`), another one (`another_edit`), and that is answered exactly (`exact`; None for
    tasks about the question, which must reach no edit), and how many were asked (`count`).
    """

    n_edits: int
    reliability: float | None
    reliability_before: float | None
    generality: dict[str, float]
    generality_before: dict[str, float]
    routing: dict[str, float]
    locality_unchanged: float | None
    logits_identical: float | None
    near_miss_unchanged: float | None
    teacher_forced: dict[str, float]
    counts: dict[str, int]
    retention: float | None = None
    asking: dict[str, dict[str, float | None]] = field(default_factory=dict)


def summarise(outcomes: Sequence[Outcome]) -> EvalReport:
    """All numbers of an evaluation."""
    told = _of(outcomes, "reliability")
    reworded = _of(outcomes, "generality")
    unrelated = _of(outcomes, "locality")
    near = _of(outcomes, "near_miss")
    earlier = _of(outcomes, "retention")
    by_source = _group(reworded)
    return EvalReport(
        n_edits=len(told),
        reliability=share(o.is_exact for o in told),
        reliability_before=share(o.was_exact for o in told),
        generality={name: _sure(o.is_exact for o in group) for name, group in by_source.items()},
        generality_before={
            name: _sure(o.was_exact for o in group) for name, group in by_source.items()
        },
        routing=_routing(told, reworded, unrelated, near),
        locality_unchanged=share(o.before == o.after for o in unrelated),
        logits_identical=share(bool(o.identical) for o in unrelated if o.routed_to is None),
        near_miss_unchanged=share(o.before == o.after for o in near),
        teacher_forced=_forced(told, reworded),
        counts={
            "reliability": len(told),
            "locality": len(unrelated),
            "locality_routed": sum(o.routed_to is not None for o in unrelated),
            "near_miss": len(near),
            "retention": len(earlier),
            **{f"generality_{name}": len(group) for name, group in by_source.items()},
        },
        retention=share(o.is_exact for o in earlier),
        asking=_asking(outcomes),
    )


def flatten_report(report: EvalReport) -> dict[str, float]:
    """A report as flat metric names, for a tracker."""
    flat: dict[str, float | None] = {
        "eval/reliability_after": report.reliability,
        "eval/reliability_before": report.reliability_before,
        "eval/locality_unchanged": report.locality_unchanged,
        "eval/logits_identical": report.logits_identical,
        "eval/near_miss_unchanged": report.near_miss_unchanged,
        "eval/retention": report.retention,
        **{f"eval/generality_{_plain(k)}_after": v for k, v in report.generality.items()},
        **{f"eval/generality_{_plain(k)}_before": v for k, v in report.generality_before.items()},
        **{f"eval/routing_{k}": v for k, v in report.routing.items()},
        **{f"eval/teacher_forced_{k}": v for k, v in report.teacher_forced.items()},
        **{
            f"asking/{_plain(way)}_{name}": value
            for way, figures in report.asking.items()
            for name, value in figures.items()
            if name != "count"
        },
    }
    return {name: value for name, value in flat.items() if value is not None}


def rivals(outcomes: Iterable[Outcome]) -> list[tuple[str, str]]:
    """Pairs of an edit and another one that its own prompt also reaches."""
    told = [o for o in outcomes if o.probe.kind == "reliability"]
    return [(o.probe.edit_id or "", o.rival) for o in told if o.rival is not None]


def _plain(source: str) -> str:
    """A free text as part of a metric's name; trackers refuse most signs and long names."""
    return re.sub(r"[^\w.-]", "_", source)[:64]


def share(hits: Iterable[bool]) -> float | None:
    """The share of True, or None of nothing."""
    found = list(hits)
    return sum(found) / len(found) if found else None


def _sure(hits: Iterable[bool]) -> float:
    return share(hits) or 0.0


def _of(outcomes: Sequence[Outcome], kind: ProbeKind) -> list[Outcome]:
    return [o for o in outcomes if o.probe.kind == kind]


def _group(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.probe.source].append(outcome)
    return dict(sorted(groups.items()))


def _routing(
    told: list[Outcome], reworded: list[Outcome], unrelated: list[Outcome], near: list[Outcome]
) -> dict[str, float]:
    asked = [*told, *reworded]
    shares = {
        "prompt_to_own_edit": share(o.routed_to == o.probe.edit_id for o in told),
        "rephrase_to_own_edit": share(o.routed_to == o.probe.edit_id for o in reworded),
        "wrong_edit": share(o.routed_to not in (None, o.probe.edit_id) for o in asked),
        "false_activation_locality": share(o.routed_to is not None for o in unrelated),
        "false_activation_near_miss": share(o.routed_to is not None for o in near),
    }
    return {name: value for name, value in shares.items() if value is not None}


def _asking(outcomes: Sequence[Outcome]) -> dict[str, dict[str, float | None]]:
    """Figures by way of asking, those that want an answer first."""
    groups: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.probe.kind in ("asking", "task"):
            groups[outcome.probe.kind, outcome.probe.source].append(outcome)
    return {
        way: {
            "own_edit": share(o.routed_to == o.probe.edit_id for o in group),
            "another_edit": share(o.routed_to not in (None, o.probe.edit_id) for o in group),
            "exact": share(o.is_exact for o in group) if kind == "asking" else None,
            "count": len(group),
        }
        for (kind, way), group in sorted(groups.items())
    }


def _forced(told: list[Outcome], reworded: list[Outcome]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, group in (("reliability", told), ("generality", reworded)):
        for when, values in (
            ("before", [o.forced_before for o in group]),
            ("after", [o.forced_after for o in group]),
        ):
            known = [value for value in values if value is not None]
            if known:
                found[f"{name}_{when}"] = sum(known) / len(known)
    return found


@dataclass(frozen=True)
class _Told:
    """`logits_NV` and `labels_N` of all target tokens of a batch, end tokens left out; `row_N` says
    of which row each is."""

    logits_NV: Tensor
    labels_N: Tensor
    row_N: Tensor

    def mean(self, value_N: Tensor, rows: int) -> list[float]:
        """The mean over the tokens of each row; 0 of none."""
        total_B = torch.zeros(rows, dtype=torch.float64, device=value_N.device)
        total_B.index_add_(0, self.row_N, value_N.double())
        count_B = torch.bincount(self.row_N, minlength=rows)
        found: list[float] = (total_B / count_B.clamp_min(1)).tolist()
        return found


@torch.no_grad()
def teacher_forced_accuracy(
    edited: EditedModel,
    probes: Sequence[EncodedEdit],
    route: Route,
    filled: Prefill | None = None,
) -> tuple[list[float], list[float]]:
    """Share of each probe's target tokens that are the most likely next token (end token left
    out), in the bare base and under the route.

    `filled` is the prefill of the same prompts; it is of use where experts leave it as it is.
    """
    found = []
    for told in _told(edited, probes, route, filled):
        right_N = (told.logits_NV.argmax(-1) == told.labels_N).float()
        found.append(told.mean(right_N, len(probes)))
    return found[0], found[1]


@torch.no_grad()
def teacher_forced_loss(
    edited: EditedModel, probes: Sequence[EncodedEdit], route: Route
) -> list[float]:
    """Mean negative log-likelihood (nats per token) of each probe's target under the route, end
    token left out. Its exponential is the perplexity."""
    *_, told = _told(edited, probes, route, None)
    kind = torch.promote_types(told.logits_NV.dtype, torch.float32)
    nll_N = functional.cross_entropy(told.logits_NV.to(kind), told.labels_N, reduction="none")
    return told.mean(nll_N, len(probes))


def _told(
    edited: EditedModel, probes: Sequence[EncodedEdit], route: Route, filled: Prefill | None
) -> Iterator[_Told]:
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
        told_ND = h_BSD[:, -labels_BS.shape[1] :][counted_BS]
        yield _Told(run_head(edited.model, told_ND), labels_BS[counted_BS], row_N)


def _routed_output(edited: EditedModel, split: Split, route: Route, start: int) -> Tensor:
    """y_BSD with the experts of routed rows, which act from position `start` of the split."""
    if route.is_base:
        return split.y_BSD
    rows_R = route.rows_R
    y_BSD = split.y_BSD.clone()
    y_BSD[rows_R, start:] = edited.bank.apply(
        split.x_BSF[rows_R, start:], split.y_BSD[rows_R, start:], route.expert_B[rows_R]
    )
    return y_BSD
