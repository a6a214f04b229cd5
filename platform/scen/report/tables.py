"""The tables of a report."""

from collections.abc import Mapping, Sequence
from typing import Any

from scen.evaluation.metrics import EvalReport
from scen.report.edit_rows import spoke
from scen.report.figures import frequent_sources
from scen.report.read_quarantine import group_reasons
from scen.report.read_store import StoreFacts
from scen.report.read_waves import WaveFacts
from scen.report.table import Column, Table

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


def commits_table(facts: StoreFacts) -> Table:
    """One row per commit, the oldest first."""
    rows = [
        {column.name: getattr(entry, column.name, None) for column in _COMMITS}
        | {"action": entry.action + (f" to {entry.to}" if entry.to is not None else "")}
        | {"changes": ", ".join(f"{n} {kind}" for kind, n in entry.counts.items())}
        for entry in facts.commits
    ]
    return Table("commits", "Commits", _COMMITS, rows)


def waves_table(facts: StoreFacts) -> Table:
    """One row per wave: those of the ledger in its order, then the others."""
    generality = _generality(frequent_sources(facts.waves))
    columns = (*_WAVE, *_QUALITY, *generality, *_LOCALITY, *_COST)
    return Table("waves", "Waves", columns, [wave_row(wave) for wave in facts.waves])


def wave_row(wave: WaveFacts) -> dict[str, Any]:
    """The facts of a wave by column."""
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


def evaluations_table(facts: StoreFacts) -> Table:
    """One row per evaluation, the newest last."""
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
        {name: getattr(one.file, name) for name in ("version", "measured_at", "path")}
        | {"edits": one.report.n_edits}
        | _report_row(one.report)
        for one in facts.evaluations
    ]
    return Table("evaluations", "Evaluations (scen eval)", columns, rows)


def asking_table(facts: StoreFacts) -> Table:
    """One row per way of asking and per task about a question (which must reach no edit), of the
    newest measurement that asked in other ways: an evaluation, or else a wave's sample."""
    reports = [wave.report for wave in facts.measured_waves if wave.report is not None]
    reports += [one.report for one in facts.evaluations]
    asked = next((report.asking for report in reversed(reports) if report.asking), {})
    rows = [{"way": way, **figures} for way, figures in asked.items()]
    return Table("asking", "Edits asked in other ways, and tasks about them", _ASKING, rows)


def edits_table(facts: StoreFacts, rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    """One row per edit: what it says, and what was answered when it was measured last."""
    told = [dict(row) | {"spoke": spoke(row) if "routed_to" in row else None} for row in rows]
    return Table("edits", title, _EDITS, told)


def held_table(facts: StoreFacts) -> Table:
    """One row per wave that the gate holds."""
    rows = [
        wave_row(wave) | {"held_at": wave.held_at, "reasons": "; ".join(wave.reasons)}
        for wave in facts.waves_of("held")
    ]
    return Table("held", "Waves held by the gate", (*_HELD, *_QUALITY[1:], *_LOCALITY), rows)


def quarantine_table(facts: StoreFacts) -> Table:
    """One row per row of a file that was set aside."""
    return Table("quarantine", "Rows set aside", _ROW, facts.quarantine)


def reasons_table(facts: StoreFacts) -> Table:
    """Kinds of reasons for which rows were set aside, each with its first row."""
    columns = (Column("rows", "rows", "number"), *_ROW[3:5], *_ROW[:3], _ROW[5])
    return Table("reasons", "Rows set aside by reason", columns, group_reasons(facts.quarantine))


def _generality(sources: Sequence[str]) -> tuple[Column, ...]:
    return tuple(Column(f"generality_{s}", f"rephrases ({s}) exact", "share") for s in sources)


def _report_row(report: EvalReport | None) -> dict[str, float | None]:
    if report is None:
        return {}
    names = [column.name for column in (*_QUALITY, *_LOCALITY)]
    shares = {name: getattr(report, name) for name in names}
    return shares | {f"generality_{source}": s for source, s in report.generality.items()}
