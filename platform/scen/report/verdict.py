"""The figures of a report in words."""

from collections.abc import Iterator

from scen.evaluation.metrics import EvalReport
from scen.report.edit_rows import worst
from scen.report.read_store import StoreFacts
from scen.report.table import percent


def hits(share: float, asked: int) -> str:
    """`7 of 8`."""
    return f"{round(share * asked):,} of {asked:,}"


def measures(report: EvalReport) -> Iterator[tuple[str, float | None, int]]:
    """What was measured, its share (None: of nothing), and of how many; rephrases of all sources
    are taken together."""
    counts = report.counts
    asked = {source: counts[f"generality_{source}"] for source in report.generality}
    exact = sum(report.generality[source] * count for source, count in asked.items())
    total = sum(asked.values())
    yield "edits answered exactly", report.reliability, counts["reliability"]
    yield "rephrases answered exactly", exact / total if total else None, total
    yield "unrelated answers unchanged", report.locality_unchanged, counts["locality"]
    yield "near misses unchanged", report.near_miss_unchanged, counts["near_miss"]
    yield "earlier edits still answered", report.retention, counts.get("retention", 0)


def verdict(facts: StoreFacts) -> list[str]:
    """How the store does, in a few sentences."""
    active, streams = facts.life[-1], len(facts.streams)
    of_which = f"stream {facts.stream}" if facts.stream else counted(streams, "stream")
    told = [f"Version {facts.version} has {counted(active, 'active edit')} ({of_which})."]
    if facts.measured_waves:
        wave = facts.measured_waves[-1]
        assert wave.report is not None
        told.append(f"The newest wave ({wave.name}, version {wave.version}): {say(wave.report)}.")
    else:
        told.append("No wave of it was measured here.")
    if facts.evaluations:
        last = facts.evaluations[-1]
        told.append(f"Measured again at version {last.file.version}: {say(last.report)}.")
    return told


def concerns(facts: StoreFacts) -> list[str]:
    """What somebody should look at; nothing where all is well."""
    found = []
    wrong = sum(not row["exact"] for row in worst(facts.edits) if row["status"] == "active")
    held = len(facts.waves_of("held"))
    unfinished = len(facts.waves_of("unfinished"))
    if wrong:
        found.append(f"{counted(wrong, 'active edit')} not answered exactly when last measured")
    if held:
        found.append(f"{counted(held, 'wave')} held by the gate")
    if unfinished:
        found.append(f"{counted(unfinished, 'wave')} begun and not finished")
    if facts.quarantine:
        found.append(f"{counted(len(facts.quarantine), 'row')} of files set aside")
    if facts.refused:
        found.append(f"{counted(facts.refused, 'edit')} handed in one by one and not taken")
    return found


def say(report: EvalReport) -> str:
    """What was measured, as one sentence without its end."""
    return ", ".join(
        f"{hits(share, asked)} {name} ({percent(share)})"
        for name, share, asked in measures(report)
        if share is not None
    )


def counted(count: int, noun: str) -> str:
    """`1 wave`, `2 waves`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
