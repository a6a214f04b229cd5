"""Metrics from probe outcomes. Pure: no torch."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from scen.evaluation.probes import Probe, ProbeKind


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one probe, before (bare base) and after (edited model).

    `routed_to` is the edit whose expert answered (None: the base), `nearest` the top-1 edit and
    `score` its score. `identical`: every logit of the answer is bit-identical to the base's (None
    for probes with a target). `rival` is the runner-up edit, if it is above the threshold as well.
    `forced_before` and `forced_after` are teacher-forced accuracies over the target tokens, None
    without a target.
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
    rival: str | None = None  # prose: ignore

    @property
    def is_exact(self) -> bool:
        """True if the free answer equals the target exactly."""
        return self.after == self.probe.target

    @property
    def was_exact(self) -> bool:
        """True if the base already gave the target."""
        return self.before == self.probe.target


@dataclass(frozen=True)
class EvalReport:
    """The metrics of one evaluation; shares are in [0, 1], None if nothing was probed.

    Generality is per source of the rephrases. `locality_unchanged`: share of unrelated prompts
    with the base's answer; `logits_identical`: share of the *unrouted* ones among them with
    bit-identical logits. `retention`: share of the earlier edits probed again that are still
    answered exactly. `asking`: per way of asking, the shares routed to the right edit (`own_edit`),
    to another one (`another_edit`) and answered exactly (`exact`; None for tasks about the
    question, which must reach no edit), and the number of probes (`count`).
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
    """All metrics of an evaluation."""
    prompts = _of_kind(outcomes, "reliability")
    rephrases = _of_kind(outcomes, "generality")
    unrelated = _of_kind(outcomes, "locality")
    near_misses = _of_kind(outcomes, "near_miss")
    earlier = _of_kind(outcomes, "retention")
    by_source = _group(rephrases)
    return EvalReport(
        n_edits=len(prompts),
        reliability=share(o.is_exact for o in prompts),
        reliability_before=share(o.was_exact for o in prompts),
        generality={
            name: _share_or_zero(o.is_exact for o in group) for name, group in by_source.items()
        },
        generality_before={
            name: _share_or_zero(o.was_exact for o in group) for name, group in by_source.items()
        },
        routing=_routing(prompts, rephrases, unrelated, near_misses),
        locality_unchanged=share(o.before == o.after for o in unrelated),
        logits_identical=share(bool(o.identical) for o in unrelated if o.routed_to is None),
        near_miss_unchanged=share(o.before == o.after for o in near_misses),
        teacher_forced=_teacher_forced_shares(prompts, rephrases),
        counts={
            "reliability": len(prompts),
            "locality": len(unrelated),
            "locality_routed": sum(o.routed_to is not None for o in unrelated),
            "near_miss": len(near_misses),
            "retention": len(earlier),
            **{f"generality_{name}": len(group) for name, group in by_source.items()},
        },
        retention=share(o.is_exact for o in earlier),
        asking=_asking(outcomes),
    )


def flatten_report(report: EvalReport) -> dict[str, float]:
    """A report as metrics by flat name, for a tracker."""
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


def rivals(outcomes: Iterable[Outcome]) -> list[tuple[str, str]]:  # prose: ignore
    """Pairs of an edit and the runner-up that its own prompt also reaches."""
    prompts = [o for o in outcomes if o.probe.kind == "reliability"]
    return [(o.probe.edit_id or "", o.rival) for o in prompts if o.rival is not None]


def _plain(source: str) -> str:
    """Free text made safe for a metric name: trackers reject most punctuation and long names."""
    return re.sub(r"[^\w.-]", "_", source)[:64]


def share(hits: Iterable[bool]) -> float | None:
    """The share of True; None if there are no hits to count."""
    values = list(hits)
    return sum(values) / len(values) if values else None


def _share_or_zero(hits: Iterable[bool]) -> float:
    return share(hits) or 0.0


def _of_kind(outcomes: Sequence[Outcome], kind: ProbeKind) -> list[Outcome]:
    return [o for o in outcomes if o.probe.kind == kind]


def _group(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.probe.source].append(outcome)
    return dict(sorted(groups.items()))


def _routing(
    prompts: list[Outcome],
    rephrases: list[Outcome],
    unrelated: list[Outcome],
    near_misses: list[Outcome],
) -> dict[str, float]:
    positives = [*prompts, *rephrases]
    shares = {
        "prompt_to_own_edit": share(o.routed_to == o.probe.edit_id for o in prompts),
        "rephrase_to_own_edit": share(o.routed_to == o.probe.edit_id for o in rephrases),
        "wrong_edit": share(o.routed_to not in (None, o.probe.edit_id) for o in positives),
        "false_activation_locality": share(o.routed_to is not None for o in unrelated),
        "false_activation_near_miss": share(o.routed_to is not None for o in near_misses),
    }
    return {name: value for name, value in shares.items() if value is not None}


def _asking(outcomes: Sequence[Outcome]) -> dict[str, dict[str, float | None]]:
    """Figures per way of asking; those that ask for the answer come before tasks."""
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


def _teacher_forced_shares(prompts: list[Outcome], rephrases: list[Outcome]) -> dict[str, float]:
    shares: dict[str, float] = {}
    for name, group in (("reliability", prompts), ("generality", rephrases)):
        for when, values in (
            ("before", [o.forced_before for o in group]),
            ("after", [o.forced_after for o in group]),
        ):
            known = [value for value in values if value is not None]
            if known:
                shares[f"{name}_{when}"] = sum(known) / len(known)
    return shares
