"""Events as rows of the table: reading them, and appending a commit by compare-and-set."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError

from scen.errors import ConflictError, IntegrityError
from scen.ledger.actions import About
from scen.ledger.events import (
    Activated,
    Committed,
    Dropped,
    Event,
    Expired,
    LedgerEntry,
    Recalibrated,
    Restored,
    Revoked,
    Scheduled,
    Superseded,
)
from scen.ledger.state import State
from scen.ledger.table import ROW, EditTexts, edit_text, read_columns
from scen.ledger.view import NOTE, LogEntry, note_of
from scen.records import digest_json

# In the order of the fields of `LedgerEntry`, without the first.
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
_SIMPLE: dict[str, type[Scheduled | Activated | Revoked | Expired | Restored | Dropped]] = {
    kind.kind: kind for kind in (Scheduled, Activated, Revoked, Expired, Restored, Dropped)
}


def read_events(table: DeltaTable, texts: EditTexts, after: int = 0) -> Iterator[Event]:
    """The events of a table after version `after`, in order. Raises IntegrityError for a row of
    unknown kind."""
    return _read(table, texts, f"version > {int(after)}")


def read_edit_events(table: DeltaTable, texts: EditTexts, edit_id: str) -> list[Event]:
    """The events of one edit, in order. Raises IntegrityError."""
    quoted = edit_id.replace("'", "''")
    return list(_read(table, texts, f"edit_id = '{quoted}'"))


def _read(table: DeltaTable, texts: EditTexts, where: str) -> Iterator[Event]:
    columns = read_columns(table, _COLUMNS, where)
    for kind, by, *values in zip(*columns, strict=True):
        if kind == Committed.kind:
            entry = LedgerEntry(texts, *values)
            yield Committed(entry, entry.version)
        elif kind == Recalibrated.kind:
            yield Recalibrated(values[_ENTRY.index("version")], values[_ENTRY.index("bundle")])
        else:
            yield _other_event(kind, by, values[0], values[_ENTRY.index("version")])


def event_rows(events: Sequence[Event], at: datetime) -> pa.Table:
    """The rows of the events of one commit."""
    rows = [_row(event) | {"seq": seq, "at": at} for seq, event in enumerate(events)]
    return pa.Table.from_pylist(rows, schema=ROW)


def rows_digest(rows: Sequence[Mapping[str, Any]]) -> str:
    """sha256 (hex) over rows as Python values; unchanged by a round trip through storage."""
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
        "edit_id": event.edit_id or None,
        "by": event.by if isinstance(event, Superseded) else None,
    }
    if isinstance(event, Recalibrated):
        return row | {"bundle": event.router}
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


_EPOCH_APP = "epoch"  # the table keeps the largest epoch of its writers under this name


def largest_epoch(table: DeltaTable) -> int | None:
    """The largest epoch of a writer; None if no writer had one."""
    return table.transaction_version(_EPOCH_APP)


def require_version(table: DeltaTable, expected_version: int) -> None:
    """Raises ConflictError if the table is at another version."""
    if table.version() != expected_version:
        raise ConflictError(f"ledger: expected version {expected_version}, found {table.version()}")


def log_entry(
    action: str, about: About, state: State, events: Sequence[Event], at: datetime
) -> LogEntry:
    """The log entry of an action; `state` is the state after it."""
    counts = Counter(event.kind for event in events)
    changes = [event for event in events if not isinstance(event, Recalibrated)]
    streams = dict.fromkeys(state.entries[event.edit_id].stream for event in changes)
    return LogEntry(
        version=events[0].version,
        committed_at=at,
        action=action,
        stream=", ".join(streams),
        num_edits=counts[Committed.kind] or len(changes),
        who=about.who,
        why=about.why,
        counts=dict(counts),
        epoch=about.epoch,
    )


def append(table: DeltaTable, app: str, events: Sequence[Event], note: LogEntry) -> None:
    """Write the events of one action on top of the version that `table` was opened at.

    `app` identifies the action: the table records under it the version that holds the action.
    Raises ConflictError if another commit came first; nothing is written then.
    """
    rows = event_rows(events, note.committed_at)
    transactions = [Transaction(app, note.version)]
    if note.epoch is not None:
        transactions.append(Transaction(_EPOCH_APP, note.epoch))
    properties = CommitProperties(
        max_commit_retries=0,
        app_transactions=transactions,
        custom_metadata={NOTE: note_of(replace(note, rows=rows_digest(rows.to_pylist())))},
    )
    try:
        write_deltalake(table, rows, mode="append", commit_properties=properties)
    except CommitFailedError as err:
        raise ConflictError(f"ledger: another commit came first ({err})") from err
