"""A report as files: made as a whole, then put where it is wanted."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from scen.errors import ConfigError
from scen.fs import Storage
from scen.report import sections, tables
from scen.report.page import page
from scen.report.read_store import StoreFacts, Wanted
from scen.report.trouble_section import files, troubles
from scen.report.verdict import concerns, measures, verdict

INDEX, FIGURES = "index.html", "report.json"
_MADE_BY = "scen report"
_PART = ".part"


@dataclass(frozen=True)
class Report:
    """The files of a report by name, and its key figures."""

    files: Mapping[str, bytes]
    figures: Mapping[str, Any]


def make_report(storage: Storage, facts: StoreFacts, wanted: Wanted) -> Report:
    """The report of a store, from what was read of it. Raises NotFoundError, IntegrityError where
    a file of the store is gone or damaged."""
    made_at = datetime.now(UTC)
    whole = [
        tables.commits_table(facts),
        tables.waves_table(facts),
        tables.evaluations_table(facts),
        tables.asking_table(facts),
        tables.edits_table(facts, facts.edits, "Edits"),
        tables.held_table(facts),
        tables.quarantine_table(facts),
        tables.reasons_table(facts),
    ]
    parts = [
        sections.in_short(facts),
        sections.life(facts, wanted.limit),
        sections.waves(storage, facts, wanted),
        sections.measured_again(storage, facts, wanted.limit),
        sections.asking(facts),
        troubles(facts, wanted.limit),
        files(whole),
    ]
    title = f"Report of {facts.uri.rpartition('/')[2]}, version {facts.version}"
    figures = key_figures(facts, made_at)
    found = {FIGURES: (json.dumps(figures, indent=1) + "\n").encode()}
    for table in whole:
        found |= {f"{table.name}.csv": table.to_csv(), f"{table.name}.json": table.to_json()}
    found[INDEX] = page(title, sections.head(facts, made_at), parts)
    return Report(found, figures)


def key_figures(facts: StoreFacts, made_at: datetime) -> dict[str, Any]:
    """What a program may want to know of a store, as JSON types."""
    found: dict[str, Any] = {
        "made_by": _MADE_BY,
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
        found["newest_wave"] = {"wave": wave.key, "version": wave.version} | {
            name: {"share": share, "asked": n} for name, share, n in measures(wave.report)
        }
    return found


def require_place(folder: Path) -> None:
    """Raises ConfigError for a folder with something else in it than an earlier report."""
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
    """Put a report in its place, each file whole and the page last: where there is a page, the
    report is whole. Raises ConfigError where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / INDEX).unlink(missing_ok=True)
        for name, data in report.files.items():
            _replace(folder / name, data)
    except OSError as err:
        raise ConfigError(f"--out: {folder} cannot be written ({err})") from err


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.{uuid4().hex}{_PART}")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _is_report(figures: Path) -> bool:
    """True where a file has the key figures of a report."""
    try:
        return bool(json.loads(figures.read_bytes())["made_by"] == _MADE_BY)
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return False
