"""What a report says: key figures in words and as JSON, and tables (rows of plain values, for CSV
and JSON files and the page's template)."""

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from io import StringIO
from typing import Any, Literal

from scen.evaluation.metrics import EvalReport
from scen.pipeline.wave_facts import WaveFacts, answered_by, frequent_sources, worst
from scen.report.store import StoreFacts, group_reasons

Kind = Literal["text", "said", "number", "share", "moment"]
MADE_BY = "scen report"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its name in the files, its heading on the page, and the format of its values.
    `said` is text by users or models, shown with its line breaks."""

    name: str
    head: str
    kind: Kind = "text"


@dataclass(frozen=True)
class Table:
    """A table. `name` is that of its files; `rows` have a value, or None, for each column."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: Sequence[Mapping[str, Any]]

    def pick(self, *names: str) -> "Table":
        """The same table with these columns only."""
        return replace(self, columns=tuple(c for c in self.columns if c.name in names))

    def newest_first(self, title: str) -> "Table":
        """The same table in reverse order, with another title."""
        return replace(self, rows=self.rows[::-1], title=title)

    def to_csv(self) -> bytes:
        """The table for a spreadsheet: UTF-8 with a byte order mark, and a `'` before text that
        would be interpreted as a formula."""
        text = StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([column.name for column in self.columns])
        for row in self.rows:
            writer.writerow([_csv_cell(row.get(column.name)) for column in self.columns])
        return text.getvalue().encode("utf-8-sig", "replace")

    def to_json(self) -> bytes:
        """The table for programs: a list of objects, with all text unchanged."""
        rows = [{c.name: _plain(row.get(c.name)) for c in self.columns} for row in self.rows]
        return (json.dumps(rows, ensure_ascii=False, indent=1) + "\n").encode("utf-8", "replace")


def _csv_cell(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    plain = _plain(value)
    return "" if plain is None else plain


def _plain(value: Any) -> Any:
    """A value as a JSON type; NaN and infinity become None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.isoformat() if isinstance(value, datetime) else value


_COMMITS = (
    Column("version", "version", "number"),
    Column("committed_at", "when (UTC)", "moment"),
    Column("action", "action"),
    Column("stream", "stream"),
    Column("changes", "edits"),
    Column("who", "who"),
    Column("why", "why"),
    Column("wave_key", "wave"),
)
_WAVE = (
    Column("stream", "stream"),
    Column("wave", "wave", "number"),
    Column("status", "status"),
    Column("version", "version", "number"),
    Column("edits", "edits", "number"),
)
_QUALITY = (
    Column("reliability_before", "exact before", "share"),
    Column("reliability", "exact", "share"),
)
_LOCALITY = (
    Column("locality_unchanged", "unrelated unchanged", "share"),
    Column("near_miss_unchanged", "near misses unchanged", "share"),
    Column("logits_identical", "unrouted identical", "share"),
    Column("retention", "earlier edits exact", "share"),
)
_COST = (
    Column("seconds", "training, s", "number"),
    Column("edits_per_second", "edits/s", "number"),
    Column("bytes_per_edit", "bytes/edit", "number"),
    Column("answer_seconds_median", "answer, s (median)", "number"),
    Column("answer_seconds_p95", "answer, s (p95)", "number"),
    Column("wave_key", "key"),
)
_EDITS = (
    Column("edit_id", "edit"),
    Column("stream", "stream"),
    Column("wave", "wave", "number"),
    Column("version", "version", "number"),
    Column("status", "status"),
    Column("prompt", "prompt", "said"),
    Column("target", "wanted", "said"),
    Column("after", "got", "said"),
    Column("before", "the base said", "said"),
    Column("exact", "exact"),
    Column("routed_to", "routed to"),
    Column("spoke", "who answered"),
    Column("score", "score", "number"),
    Column("rephrases", "rephrases", "number"),
    Column("rephrases_right", "of them exact", "number"),
    Column("near_misses", "near misses", "number"),
    Column("near_misses_right", "of them unchanged", "number"),
    Column("measured_at", "measured at version", "number"),
)
_ASKING = (
    Column("way", "way of asking"),
    Column("own_edit", "own edit", "share"),
    Column("exact", "exact answer", "share"),
    Column("another_edit", "another edit", "share"),
    Column("count", "asked", "number"),
)
_HELD = (
    Column("wave_key", "wave"),
    Column("edits", "edits", "number"),
    Column("held_at", "held since (UTC)", "moment"),
    Column("reasons", "because"),
)
_ROW = (
    Column("file", "file"),
    Column("row", "row", "number"),
    Column("id", "id"),
    Column("field", "field"),
    Column("reason", "reason", "said"),
    Column("raw", "the row", "said"),
)


def report_tables(facts: StoreFacts) -> list[Table]:
    """All tables that are written as files next to the page."""
    return [
        commits_table(facts),
        waves_table(facts, facts.waves),
        evaluations_table(facts),
        asking_table(facts),
        edits_table(facts.edits, "Edits"),
        held_table(facts),
        Table("quarantine", "Rows set aside", _ROW, facts.quarantine),
        reasons_table(facts),
    ]


def commits_table(facts: StoreFacts) -> Table:
    """One row per commit, oldest first."""
    rows = [
        {column.name: getattr(entry, column.name, None) for column in _COMMITS}
        | {"action": entry.action + (f" to {entry.to}" if entry.to is not None else "")}
        | {"changes": ", ".join(f"{n} {kind}" for kind, n in entry.counts.items())}
        for entry in facts.commits
    ]
    return Table("commits", "Commits", _COMMITS, rows)


def waves_table(facts: StoreFacts, waves: Sequence[WaveFacts]) -> Table:
    """One row per wave of `waves`."""
    generality = _generality(frequent_sources(facts.waves))
    columns = (*_WAVE, *_QUALITY, *generality, *_LOCALITY, *_COST)
    return Table("waves", "Waves", columns, [_wave_row(wave) for wave in waves])


def evaluations_table(facts: StoreFacts) -> Table:
    """One row per evaluation, newest last."""
    columns = (
        Column("version", "version", "number"),
        Column("measured_at", "when (UTC)", "moment"),
        Column("edits", "edits", "number"),
        *_QUALITY,
        *_generality(sorted({s for e in facts.evaluations for s in e.report.generality})),
        *_LOCALITY[:-1],
        Column("path", "every probe"),
    )
    rows = [
        {"version": run.version, "measured_at": run.measured_at, "path": run.path}
        | {"edits": run.report.n_edits}
        | _report_row(run.report)
        for run in facts.evaluations
    ]
    return Table("evaluations", "Evaluations (scen eval)", columns, rows)


def asking_table(facts: StoreFacts) -> Table:
    """One row per way of asking and per task about a question (which must reach no edit), from the
    newest measurement that has them: an evaluation, or else a wave's sample."""
    reports = [wave.report for wave in facts.measured_waves if wave.report is not None]
    reports += [run.report for run in facts.evaluations]
    asked = next((report.asking for report in reversed(reports) if report.asking), {})
    rows = [{"way": way, **figures} for way, figures in asked.items()]
    return Table("asking", "Edits asked in other ways, and tasks about them", _ASKING, rows)


def edits_table(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    """One row per edit: its content, and its answer when it was last measured."""
    with_answerer = [
        dict(row) | {"spoke": answered_by(row) if "routed_to" in row else None} for row in rows
    ]
    return Table("edits", title, _EDITS, with_answerer)


def held_table(facts: StoreFacts) -> Table:
    """One row per wave that the gate holds."""
    rows = [
        _wave_row(wave) | {"held_at": wave.held_at, "reasons": "; ".join(wave.reasons)}
        for wave in facts.waves_of("held")
    ]
    return Table("held", "Waves held by the gate", (*_HELD, *_QUALITY[1:], *_LOCALITY), rows)


def reasons_table(facts: StoreFacts) -> Table:
    """Reasons for which rows were set aside, grouped by kind, each with its first row."""
    columns = (Column("rows", "rows", "number"), *_ROW[3:5], *_ROW[:3], _ROW[5])
    return Table("reasons", "Rows set aside by reason", columns, group_reasons(facts.quarantine))


def _wave_row(wave: WaveFacts) -> dict[str, Any]:
    return {
        "stream": wave.stream,
        "wave": wave.index,
        "status": wave.status,
        "version": wave.version,
        "edits": wave.num_edits,
        "seconds": wave.seconds,
        "edits_per_second": wave.edits_per_second,
        "bytes_per_edit": wave.bytes_per_edit,
        "wave_key": wave.key,
        **wave.latency,
    } | _report_row(wave.report)


def _generality(sources: Sequence[str]) -> tuple[Column, ...]:
    return tuple(Column(f"generality_{s}", f"rephrases ({s}) exact", "share") for s in sources)


def _report_row(report: EvalReport | None) -> dict[str, float | None]:
    if report is None:
        return {}
    names = [column.name for column in (*_QUALITY, *_LOCALITY)]
    shares = {name: getattr(report, name) for name in names}
    return shares | {f"generality_{source}": s for source, s in report.generality.items()}


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
