"""A report as files: rendered completely, then written to a folder."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from scen.errors import ConfigError
from scen.fs import Storage
from scen.pipeline.wave_facts import WaveFacts, frequent_sources, worst
from scen.report import tables as words
from scen.report.figures import (
    MAX_SOURCES,
    evaluation_pictures,
    life_picture,
    stream_picture,
    wave_pictures,
)
from scen.report.store import StoreFacts, Wanted
from scen.report.tables import Table, edits_table, report_tables, waves_table

INDEX, FIGURES = "index.html", "report.json"
_PART = ".part"
_CONTENTS = {
    "short": "In short",
    "life": "Life of the store",
    "waves": "Waves",
    "again": "Measured again",
    "asking": "Ways of asking",
    "troubles": "What went wrong",
    "files": "Files",
}
_WRONG = ("edit_id", "status", "prompt", "target", "after", "spoke", "score", "rephrases",
          "rephrases_right", "measured_at")  # fmt: skip
_HELD = ("wave_key", "edits", "held_at", "reasons", "reliability")
_FILES_ONLY = {"wave_key", "reliability_before", "answer_seconds_median", "answer_seconds_p95"}
# Control characters, which HTML forbids, are shown as their Unicode pictures.
_CONTROL_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"}
_SHOW: Mapping[str, Callable[[Any], str]] = {
    "share": words.percent,
    "number": words.number,
    "moment": words.moment,
}


@dataclass(frozen=True)
class Report:
    """The files of a report by name, and its key figures."""

    files: Mapping[str, bytes]
    figures: Mapping[str, Any]


def make_report(storage: Storage, facts: StoreFacts, wanted: Wanted) -> Report:
    """The report of a store from its facts. Raises NotFoundError, IntegrityError if a file of the
    store is missing or damaged."""
    made_at = datetime.now(UTC)
    tables = report_tables(facts)
    figures = words.key_figures(facts, made_at)
    files = {FIGURES: (json.dumps(figures, indent=1) + "\n").encode()}
    for table in tables:
        files |= {f"{table.name}.csv": table.to_csv(), f"{table.name}.json": table.to_json()}
    content = _content(storage, facts, wanted, tables)
    files[INDEX] = render_page(content | {"about": _about(facts, made_at)})
    return Report(files, figures)


def render_page(content: Mapping[str, Any]) -> bytes:
    """The page (UTF-8) from the variables of its template."""
    page = environment().get_template("report.html.j2").render(content)
    return page.encode("utf-8", "replace")


def environment() -> Environment:
    """Jinja with the filters of the report. All text is escaped."""
    templates = Environment(
        loader=PackageLoader("scen.report"),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "clip": words.clip,
        "counted": words.counted,
        "hits": words.hits,
        "show": lambda value, kind: _SHOW[kind](value),
        "summary": words.summary,
    }
    return templates


def require_place(folder: Path) -> None:
    """Raises ConfigError for a folder that holds anything other than an earlier report."""
    try:
        others = [path for path in folder.iterdir() if path.suffix != _PART]
        is_ours = not others or _is_report(folder / FIGURES)
    except FileNotFoundError:
        return
    except OSError as err:
        raise ConfigError(f"--out: {folder} cannot be read ({err}); name a new folder") from err
    if not is_ours:
        raise ConfigError(
            f"--out: {folder} holds something else than an earlier report; name a new folder"
        )


def publish(report: Report, folder: Path) -> None:
    """Write a report to its folder, each file atomically and the page last: if the page exists, the
    report is complete. Raises ConfigError if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / INDEX).unlink(missing_ok=True)
        for name, data in report.files.items():
            _replace(folder / name, data)
    except OSError as err:
        raise ConfigError(f"--out: {folder} cannot be written ({err})") from err


def _content(
    storage: Storage, facts: StoreFacts, wanted: Wanted, tables: Sequence[Table]
) -> dict[str, Any]:
    """The variables of the template."""
    by_name = {table.name: table for table in tables}
    waves = _page_order(facts.waves)
    measured = [wave for wave in waves if wave.report]
    shown = measured[: wanted.plots]
    streams = list(dict.fromkeys(wave.stream for wave in reversed(facts.measured_waves)))
    cards, name = _cards(facts)
    return {
        "title": f"Report of {facts.uri.rpartition('/')[2]}, version {facts.version}",
        "contents": _CONTENTS,
        "facts": facts,
        "limit": wanted.limit,
        "verdict": words.verdict(facts),
        "concerns": words.concerns(facts),
        "cards": cards,
        "measured": name,
        "life": life_picture(facts),
        "commits": by_name["commits"].newest_first("Commits, newest first"),
        "waves": _waves_table(facts, waves),
        "anchors": {wave.key: f"wave-{place}" for place, wave in enumerate(shown, 1)},
        "streams": (stream_picture(facts, stream) for stream in streams[: wanted.plots]),
        "shown": ((wave, wave_pictures(storage, wave)) for wave in shown),
        "older": len(measured) - len(shown),
        "evaluations": by_name["evaluations"].newest_first("Evaluations, newest first"),
        "again": evaluation_pictures(storage, facts),
        "asking": by_name["asking"],
        "wrong": edits_table(
            worst(facts.edits),
            "Active and held edits whose prompt is not answered exactly, or not by the edit",
        ).pick(*_WRONG),
        "held": by_name["held"].pick(*_HELD),
        "reasons": by_name["reasons"],
        "tables": tables,
    }


def _about(facts: StoreFacts, made_at: datetime) -> dict[str, str]:
    """The lines at the top of the page."""
    base, method = facts.manifest.base, facts.manifest.method
    older = "" if facts.version == facts.newest else f" (the newest is {facts.newest})"
    return {
        "store": facts.uri,
        "base": f"{base['name']}, {base['template']}, {base['dtype']}, fingerprint "
        f"{str(base['fingerprint'])[:12]}",
        "method": f"{method['method']}, layer {method['layer']}"
        + (f", rank {method['rank']}" if method.get("rank") else ""),
        "version": f"{facts.version}{older}",
        "stream": facts.stream or "all: " + (", ".join(facts.streams) or "none"),
        "store made": facts.manifest.created_at.replace("T", " ").replace("+00:00", " UTC"),
        "report made": f"{words.moment(made_at)} UTC",
    }


def _cards(facts: StoreFacts) -> tuple[list[tuple[str, float, int]], str]:
    """The key metrics of this version if it was evaluated, or else of the newest wave."""
    again = [run.report for run in facts.evaluations if run.version == facts.version]
    own = [wave.report for wave in facts.measured_waves if wave.report]
    reports, name = (again, "this version, measured again") if again else (own, "the newest wave")
    measures = words.measures(reports[-1]) if reports else ()
    return [(label, share, n) for label, share, n in measures if share is not None], name


def _page_order(waves: Sequence[WaveFacts]) -> list[WaveFacts]:
    """Held waves, then those of the ledger, then the others; each newest first."""
    rank = {"held": 0, "committed": 1, "promoted": 1}
    newest_first = waves[::-1]
    return sorted(newest_first, key=lambda wave: rank.get(wave.status, 2))


def _waves_table(facts: StoreFacts, waves: Sequence[WaveFacts]) -> Table:
    """The waves for the page, without the rarer kinds of rephrases."""
    table = waves_table(facts, waves)
    rare = {f"generality_{source}" for source in frequent_sources(facts.waves)[MAX_SOURCES:]}
    kept = [c.name for c in table.columns if c.name not in _FILES_ONLY | rare]
    return replace(table, title="Waves: held ones, then the newest first").pick(*kept)


def _printable(value: Any) -> Any:
    if isinstance(value, str) and not isinstance(value, Markup):
        return value.translate(_CONTROL_PICTURES)
    return value


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.{uuid4().hex}{_PART}")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _is_report(figures: Path) -> bool:
    """True for the key figures of a report."""
    try:
        return bool(json.loads(figures.read_bytes())["made_by"] == words.MADE_BY)
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return False
