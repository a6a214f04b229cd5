"""The commits of a store, as filtered, and as a table of events for auditors. Needs the ledger
alone."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scen.errors import ConfigError
from scen.ledger.events import Committed, Event, Superseded
from scen.ledger.ledger import Ledger
from scen.ledger.log import LogEntry, LogFilter

AUDIT = pa.schema(
    [
        ("version", pa.int64()),
        ("committed_at", pa.timestamp("us", tz="UTC")),
        ("action", pa.string()),
        ("event", pa.string()),
        ("edit_id", pa.string()),
        ("by", pa.string()),
        ("who", pa.string()),
        ("why", pa.string()),
        ("wave_key", pa.string()),
        ("epoch", pa.int64()),
        ("valid_from", pa.timestamp("us", tz="UTC")),
        ("valid_until", pa.timestamp("us", tz="UTC")),
    ]
)


def find_commits(
    ledger: Ledger,
    *,
    edit_id: str | None = None,
    stream: str | None = None,
    action: str | None = None,
    since: datetime | None = None,
    last: int | None = None,
) -> list[LogEntry]:
    """The commits that the filters let through, oldest first; of these the newest `last`. Raises
    NotFoundError for an unknown edit."""
    versions = None
    if edit_id is not None:
        versions = frozenset(entry.version for _, entry in ledger.history(edit_id))
    found = LogFilter(stream, action, since, versions).keep(ledger.log())
    return found[-last:] if last else found


def write_audit(path: str, events: Sequence[Event], entries: Sequence[LogEntry]) -> int:
    """The events of some commits as a Parquet file; how many they are. Raises ConfigError where it
    cannot be written."""
    commits = {entry.version: entry for entry in entries}
    rows = [_row(event, commits[event.version]) for event in events if event.version in commits]
    try:
        pq.write_table(pa.Table.from_pylist(rows, schema=AUDIT), Path(path))
    except OSError as err:
        raise ConfigError(f"--parquet: {path} cannot be written ({err})") from err
    return len(rows)


def _row(event: Event, commit: LogEntry) -> dict[str, Any]:
    row = {name: getattr(commit, name) for name in AUDIT.names if hasattr(commit, name)}
    by = event.by if isinstance(event, Superseded) else None
    row |= {"event": event.kind, "edit_id": event.edit_id, "by": by}
    if isinstance(event, Committed):
        entry = event.entry
        row |= {"valid_from": entry.valid_from, "valid_until": entry.valid_until}
    return row
