"""Views of the ledger: one edit, the difference of two versions, commits as an audit table."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from scen.errors import ConfigError
from scen.ledger.events import Committed, Event, LedgerEntry, Superseded
from scen.ledger.ledger import Ledger
from scen.ledger.state import Diff, Snapshot
from scen.ledger.view import LogEntry, LogFilter
from scen.records import edit_to_dict

if TYPE_CHECKING:
    from scen.snapshot.open import OpenStore


def edit_facts(ledger: Ledger, edit_id: str) -> dict[str, Any]:
    """An edit as JSON types, with its status, storage location and `history`. Raises
    NotFoundError."""
    history = edit_history(ledger, edit_id)
    state = ledger.snapshot().state
    entry = state.entries[edit_id]
    return edit_to_dict(entry.edit) | {
        "status": state.describe(edit_id),
        "active_since": active_since(history),
        "version": entry.version,
        "committed_at": entry.committed_at.isoformat(timespec="seconds"),
        "stream": entry.stream,
        "wave": entry.wave_key,
        "bundle": entry.bundle,
        "row": entry.row,
        "history": history,
    }


def edit_history(ledger: Ledger, edit_id: str) -> list[dict[str, Any]]:
    """The events of an edit, oldest first. Raises NotFoundError."""
    return [
        {
            "version": event.version,
            "event": event.kind,
            "by": event.by if isinstance(event, Superseded) else None,
            "at": commit.committed_at.isoformat(timespec="seconds"),
            "who": commit.who,
            "why": commit.why,
        }
        for event, commit in ledger.history(edit_id)
    ]


def active_since(history: list[dict[str, Any]]) -> str | None:
    """When an edit was last activated; None if it is not active."""
    since = None
    for row in history:
        since = row["at"] if row["event"] in ("committed", "activated", "restored") else None
    return since


def diff_facts(diff: Diff) -> dict[str, Any]:
    """A difference as JSON types."""
    return {
        "added": [_facts(entry) for entry in diff.added],
        "removed": [_facts(entry) for entry in diff.removed],
        "replaced": [{"edit_id": older, "by": newer} for older, newer in diff.replaced],
    }


def changed_answers(
    store: "OpenStore", diff: Diff, versions: Sequence[Snapshot], max_new_tokens: int
) -> list[dict[str, Any]]:
    """The prompts of the edits in `diff` to which the two versions give different answers."""
    entries = [*diff.removed, *diff.added]
    prompts = list(dict.fromkeys(entry.edit.prompt for entry in entries))
    models = [store.at(snapshot) for snapshot in versions] if prompts else []
    answers = [[model.ask(p, max_new_tokens).answer for p in prompts] for model in models]
    return [
        {"prompt": prompt, "before": before, "after": after}
        for prompt, before, after in zip(prompts, *answers, strict=True)
        if before != after
    ] if prompts else []  # fmt: skip


def _facts(entry: LedgerEntry) -> dict[str, Any]:
    edit = entry.edit
    return {
        "edit_id": edit.id,
        "prompt": edit.prompt,
        "target": edit.target,
        "stream": entry.stream,
    }


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
    """The commits that match all filters, oldest first; of these the newest `last`. Raises
    NotFoundError for an unknown edit."""
    versions = None
    if edit_id is not None:
        versions = frozenset(entry.version for _, entry in ledger.history(edit_id))
    commits = LogFilter(stream, action, since, versions).keep(ledger.log())
    return commits[-last:] if last else commits


def write_audit(path: str, events: Sequence[Event], entries: Sequence[LogEntry]) -> int:
    """Write the events of these commits to a Parquet file and return their number. Raises
    ConfigError if it cannot be written."""
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
