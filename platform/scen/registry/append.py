"""Writing one commit to the table of a ledger: on top of one version, or not at all."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError

from scen.errors import ConflictError
from scen.registry.actions import About
from scen.registry.events import Committed, Event
from scen.registry.log import NOTE, LogEntry, note_of
from scen.registry.rows import event_rows, rows_digest
from scen.registry.state import State

_EPOCH = "epoch"  # under this name the table keeps the largest epoch of its writers


def largest_epoch(table: DeltaTable) -> int | None:
    """The largest epoch of a writer so far."""
    return table.transaction_version(_EPOCH)


def require_version(table: DeltaTable, expected_version: int) -> None:
    """Raises ConflictError where the table is at another version."""
    if table.version() != expected_version:
        raise ConflictError(f"ledger: expected version {expected_version}, found {table.version()}")


def log_entry(
    action: str, about: About, state: State, events: Sequence[Event], at: datetime
) -> LogEntry:
    """What the log will say of an action. `state` is the one after it."""
    counts = Counter(event.kind for event in events)
    streams = dict.fromkeys(state.entries[event.edit_id].stream for event in events)
    return LogEntry(
        version=events[0].version,
        committed_at=at,
        action=action,
        stream=", ".join(streams),
        num_edits=counts[Committed.kind] or len(events),
        who=about.who,
        why=about.why,
        counts=dict(counts),
        epoch=about.epoch,
    )


def append(table: DeltaTable, app: str, events: Sequence[Event], told: LogEntry) -> None:
    """Write the events of one action on top of the version that `table` was opened at.

    `app` names the action for good: the table keeps under it the version that holds the action.
    Raises ConflictError where another commit came first; nothing is written then.
    """
    rows = event_rows(events, told.committed_at)
    transactions = [Transaction(app, told.version)]
    if told.epoch is not None:
        transactions.append(Transaction(_EPOCH, told.epoch))
    properties = CommitProperties(
        max_commit_retries=0,
        app_transactions=transactions,
        custom_metadata={NOTE: note_of(replace(told, rows=rows_digest(rows.to_pylist())))},
    )
    try:
        write_deltalake(table, rows, mode="append", commit_properties=properties)
    except CommitFailedError as err:
        raise ConflictError(f"ledger: another commit came first ({err})") from err
