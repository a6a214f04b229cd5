"""Between the events of a ledger and the rows of its table."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

from scen.errors import IntegrityError
from scen.records import digest_json
from scen.registry.edit_texts import EditTexts, edit_text
from scen.registry.entry import LedgerEntry
from scen.registry.events import (
    Committed,
    Dropped,
    Event,
    Expired,
    Restored,
    Revoked,
    Superseded,
)
from scen.registry.table import ROW, read_columns

# In the order of the fields of `LedgerEntry`, less the first.
_ENTRY = (
    "edit_id",
    "edit_digest",
    "prompt_key",
    "fact_key",
    "target_key",
    "valid_until",
    "stream",
    "wave",
    "wave_key",
    "bundle",
    "row",
    "version",
    "at",
)
_COLUMNS = ("event", "by", *_ENTRY)
_SIMPLE: dict[str, type[Revoked | Expired | Restored | Dropped]] = {
    kind.kind: kind for kind in (Revoked, Expired, Restored, Dropped)
}


def read_events(table: DeltaTable, texts: EditTexts, after: int = 0) -> Iterator[Event]:
    """The events of a table up to its version that came after a version, in their order. Raises
    IntegrityError where a row is of no known kind."""
    return _read(table, texts, f"version > {int(after)}")


def read_edit_events(table: DeltaTable, texts: EditTexts, edit_id: str) -> list[Event]:
    """The events of one edit, in their order. Raises IntegrityError."""
    quoted = edit_id.replace("'", "''")
    return list(_read(table, texts, f"edit_id = '{quoted}'"))


def _read(table: DeltaTable, texts: EditTexts, where: str) -> Iterator[Event]:
    columns = read_columns(table, _COLUMNS, where)
    for kind, by, *values in zip(*columns, strict=True):
        if kind == Committed.kind:
            entry = LedgerEntry(texts, *values)
            yield Committed(entry, entry.version)
        else:
            yield _other_event(kind, by, values[0], values[_ENTRY.index("version")])


def event_rows(events: Sequence[Event], at: datetime) -> pa.Table:
    """The rows of the events of one commit."""
    rows = [_row(event) | {"seq": seq, "at": at} for seq, event in enumerate(events)]
    return pa.Table.from_pylist(rows, schema=ROW)


def rows_digest(rows: Sequence[Mapping[str, Any]]) -> str:
    """sha256 (hex) over rows as Python values, the same after they were stored and read."""
    return digest_json([{name: _plain(value) for name, value in row.items()} for row in rows])


def _plain(value: Any) -> Any:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value


def _other_event(kind: str, by: str | None, edit_id: str, version: int) -> Event:
    if kind == Superseded.kind and by is not None:
        return Superseded(edit_id, version, by)
    if kind not in _SIMPLE:
        raise IntegrityError(
            f"ledger: version {version} holds {kind!r} of edit {edit_id!r}, which this release of "
            "scen-platform does not know"
        )
    return _SIMPLE[kind](edit_id, version)


def _row(event: Event) -> dict[str, Any]:
    row: dict[str, Any] = {
        "version": event.version,
        "event": event.kind,
        "edit_id": event.edit_id,
        "by": event.by if isinstance(event, Superseded) else None,
    }
    if not isinstance(event, Committed):
        return row
    entry, edit = event.entry, event.entry.edit
    return row | {
        "stream": entry.stream,
        "wave": entry.wave,
        "wave_key": entry.wave_key,
        "bundle": entry.bundle,
        "row": entry.row,
        "edit_digest": entry.digest,
        "edit_json": edit_text(edit),
        "prompt": edit.prompt,
        "target": edit.target,
        "subject": edit.subject,
        "author": edit.author,
        "source": edit.source,
        "prompt_key": entry.prompt_key,
        "fact_key": entry.fact_key,
        "target_key": entry.target_key,
        "valid_until": entry.valid_until,
    }
