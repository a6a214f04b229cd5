"""The key figures of a store as text and as JSON."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from scen.evaluation.metrics import EvalReport
from scen.pipeline.wave_facts import worst
from scen.report.store import StoreFacts

MADE_BY = "scen report"


def verdict(facts: StoreFacts) -> list[str]:
    """The state of the store in a few sentences."""
    active, streams = facts.life[-1], len(facts.streams)
    of_which = f"stream {facts.stream}" if facts.stream else counted(streams, "stream")
    sentences = [f"Version {facts.version} has {counted(active, 'active edit')} ({of_which})."]
    if facts.measured_waves:
        wave = facts.measured_waves[-1]
        assert wave.report is not None
        sentences.append(
            f"The newest wave ({wave.name}, version {wave.version}): {summary(wave.report)}."
        )
    else:
        sentences.append("No wave of it was measured here.")
    if facts.evaluations:
        last = facts.evaluations[-1]
        sentences.append(f"Measured again at version {last.version}: {summary(last.report)}.")
    return sentences


def concerns(facts: StoreFacts) -> list[str]:
    """The problems that need attention; empty if there are none."""
    wrong = sum(not row["exact"] for row in worst(facts.edits) if row["status"] == "active")
    counts = [
        (wrong, "active edit", "not answered exactly when last measured"),
        (len(facts.waves_of("held")), "wave", "held by the gate"),
        (len(facts.waves_of("unfinished")), "wave", "begun and not finished"),
        (len(facts.quarantine), "row", "of files set aside"),
        (facts.refused, "edit", "handed in one by one and not taken"),
    ]
    return [f"{counted(count, noun)} {what}" for count, noun, what in counts if count]


def key_figures(facts: StoreFacts, made_at: datetime) -> dict[str, Any]:
    """The key figures of a store for programs, as JSON types."""
    figures: dict[str, Any] = {
        "made_by": MADE_BY,
        "made_at": made_at.isoformat(timespec="seconds"),
        "store": facts.uri,
        "base": dict(facts.manifest.base),
        "version": facts.version,
        "stream": facts.stream,
        "active_edits": facts.life[-1],
        "commits": len(facts.commits),
        "waves": len(facts.waves),
        "held": [wave.key for wave in facts.waves_of("held")],
        "rows_set_aside": len(facts.quarantine),
        "verdict": " ".join(verdict(facts)),
        "concerns": concerns(facts),
    }
    if facts.measured_waves:
        wave = facts.measured_waves[-1]
        assert wave.report is not None
        figures["newest_wave"] = {"wave": wave.key, "version": wave.version} | {
            name: {"share": share, "asked": n} for name, share, n in measures(wave.report)
        }
    return figures


def measures(report: EvalReport) -> Iterator[tuple[str, float | None, int]]:
    """The name of each metric, its share (None: not measured) and the number of probes; rephrases
    of all sources are combined."""
    counts = report.counts
    asked = {source: counts[f"generality_{source}"] for source in report.generality}
    exact = sum(report.generality[source] * count for source, count in asked.items())
    total = sum(asked.values())
    yield "edits answered exactly", report.reliability, counts["reliability"]
    yield "rephrases answered exactly", exact / total if total else None, total
    yield "unrelated answers unchanged", report.locality_unchanged, counts["locality"]
    yield "near misses unchanged", report.near_miss_unchanged, counts["near_miss"]
    yield "earlier edits still answered", report.retention, counts.get("retention", 0)


def summary(report: EvalReport) -> str:
    """The metrics as a sentence without a full stop."""
    return ", ".join(
        f"{hits(share, asked)} {name} ({percent(share)})"
        for name, share, asked in measures(report)
        if share is not None
    )


def hits(share: float, asked: int) -> str:
    """`7 of 8`."""
    return f"{round(share * asked):,} of {asked:,}"


def counted(count: int, noun: str) -> str:
    """`1 wave`, `2 waves`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def percent(share: float | None) -> str:
    """A share in percent; a dash if not measured."""
    return "-" if share is None else f"{100 * share:.1f} %"


def number(value: float | None) -> str:
    """A number with at most four digits, or all digits of an integer; a dash for None."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) or value >= 1e4 else f"{value:.4g}"


def moment(value: datetime | None) -> str:
    """A moment to the second, in its own time zone (UTC in a ledger)."""
    return "-" if value is None else value.strftime("%Y-%m-%d %H:%M:%S")


def clip(text: str, width: int) -> str:
    """The text, cut to `width` characters with an ellipsis."""
    return text if len(text) <= width else text[: width - 1] + "…"
