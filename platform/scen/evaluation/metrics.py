"""Metrics from probe outcomes. Pure: no torch."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from statistics import fmean
from typing import Any

from scen.evaluation.probes import Probe, ProbeKind


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one probe, before (bare base) and after (edited model).

    `routed_to` is the edit whose expert answered (None: the base), `nearest` the top-1 edit and
    `score` its score. `identical`: every logit of the answer is bit-identical to the base's (None
    for probes with a target). `runner_up` is the second edit, if it is above the threshold as well.
    `forced_before` and `forced_after` are teacher-forced accuracies over the target tokens, None
    without a target. A benchmark leaves `before` empty for probes with a target.
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
    runner_up: str | None = None

    @property
    def is_exact(self) -> bool:
        """True if the free answer equals the target exactly."""
        return self.after == self.probe.target

    @property
    def was_exact(self) -> bool:
        """True if the base already gave the target."""
        return self.before == self.probe.target

    @property
    def is_contained(self) -> bool:
        """True if the free answer contains the target, ignoring case."""
        return (self.probe.target or "").casefold() in self.after.casefold()

    @property
    def is_unchanged(self) -> bool:
        """True if the free answer equals the base's."""
        return self.after == self.before

    @property
    def is_own(self) -> bool:
        """True if the expert of the probe's own edit answered."""
        return self.routed_to is not None and self.routed_to == self.probe.edit_id

    @property
    def is_other(self) -> bool:
        """True if the expert of another edit answered."""
        return self.routed_to not in (None, self.probe.edit_id)

    def to_row(self) -> dict[str, Any]:
        """As JSON types, without the probe; for `from_row`."""
        row = asdict(self)
        del row["probe"]
        row["rival"] = row.pop("runner_up")
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any], probe: Probe | None = None) -> "Outcome":
        """An outcome from its row; without `probe`, the row has the fields of the probe as well."""
        rest = dict(row)
        if probe is None:
            probe = Probe(**{f.name: rest.pop(f.name) for f in fields(Probe) if f.name in rest})
        return cls(probe, runner_up=rest.pop("rival", None), **rest)


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
    prompts, rephrases = of_kind(outcomes, "reliability"), of_kind(outcomes, "generality")
    unrelated, near_misses = of_kind(outcomes, "locality"), of_kind(outcomes, "near_miss")
    earlier, by_source = of_kind(outcomes, "retention"), dict(sorted(group(rephrases).items()))
    positives = [*prompts, *rephrases]
    routing = {
        "prompt_to_own_edit": share(o.is_own for o in prompts),
        "rephrase_to_own_edit": share(o.is_own for o in rephrases),
        "wrong_edit": share(o.is_other for o in positives),
        "false_activation_locality": share(o.routed_to is not None for o in unrelated),
        "false_activation_near_miss": share(o.routed_to is not None for o in near_misses),
    }
    teacher_forced = {
        "reliability_before": mean(o.forced_before for o in prompts),
        "reliability_after": mean(o.forced_after for o in prompts),
        "generality_before": mean(o.forced_before for o in rephrases),
        "generality_after": mean(o.forced_after for o in rephrases),
    }
    return EvalReport(
        n_edits=len(prompts),
        reliability=share(o.is_exact for o in prompts),
        reliability_before=share(o.was_exact for o in prompts),
        generality={name: fmean(o.is_exact for o in by_source[name]) for name in by_source},
        generality_before={name: fmean(o.was_exact for o in by_source[name]) for name in by_source},
        routing=_known(routing),
        locality_unchanged=share(o.is_unchanged for o in unrelated),
        logits_identical=share(bool(o.identical) for o in unrelated if o.routed_to is None),
        near_miss_unchanged=share(o.is_unchanged for o in near_misses),
        teacher_forced=_known(teacher_forced),
        counts={
            "reliability": len(prompts),
            "locality": len(unrelated),
            "locality_routed": sum(o.routed_to is not None for o in unrelated),
            "near_miss": len(near_misses),
            "retention": len(earlier),
            **{f"generality_{name}": len(members) for name, members in by_source.items()},
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
    return _known(flat)


def runners_up(outcomes: Sequence[Outcome]) -> list[tuple[str, str]]:
    """Pairs of an edit and the runner-up that its own prompt also reaches."""
    prompts = of_kind(outcomes, "reliability")
    return [(o.probe.edit_id or "", o.runner_up) for o in prompts if o.runner_up is not None]


def _plain(source: str) -> str:
    """Free text made safe for a metric name: trackers reject most punctuation and long names."""
    return re.sub(r"[^\w.-]", "_", source)[:64]


def of_kind(outcomes: Iterable[Outcome], *kinds: ProbeKind) -> list[Outcome]:
    """The outcomes of probes of these kinds."""
    return [o for o in outcomes if o.probe.kind in kinds]


def group(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    """Outcomes by the source of their probe, in order of first appearance."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.probe.source, []).append(outcome)
    return groups


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are not None; None if there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def share(hits: Iterable[bool]) -> float | None:
    """The share of True; None if there are no hits to count."""
    return mean(hits)


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def _asking(outcomes: Sequence[Outcome]) -> dict[str, dict[str, float | None]]:
    """Figures per way of asking; those that ask for the answer come before tasks."""
    kinds: tuple[ProbeKind, ...] = ("asking", "task")
    return {
        way: {
            "own_edit": share(o.is_own for o in members),
            "another_edit": share(o.is_other for o in members),
            "exact": share(o.is_exact for o in members) if kind == "asking" else None,
            "count": len(members),
        }
        for kind in kinds
        for way, members in sorted(group(of_kind(outcomes, kind)).items())
    }
