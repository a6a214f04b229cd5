"""Views of a ledger for readers: its commits as a log, and the active edits of some streams.

A view is updated by deltas; see `delta_of`.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scen.errors import ConflictError, IntegrityError
from scen.ledger.events import LedgerEntry
from scen.ledger.state import Snapshot

NOTE = "scen"  # key of the platform's entry in the commit info of the table
ACTIONS = ("commit", "revoke", "expire", "rollback", "gc", "calibrate")


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One commit of the log. `num_edits` counts the edits of the wave, or those that another action
    changed; `counts` has the events by kind, `to` the version of a rollback, `rows` a sha256 over
    the rows of the events. `stream` lists the streams of the changed edits, separated by commas."""

    version: int
    committed_at: datetime
    action: str
    stream: str
    num_edits: int
    who: str
    why: str
    wave_key: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    to: int | None = None
    epoch: int | None = None
    rows: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def streams(self) -> list[str]:
        """The streams whose edits it changed."""
        return [name for name in self.stream.split(", ") if name]


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which commits to keep; None matches all. `versions` are those of one edit."""

    stream: str | None = None
    action: str | None = None
    since: datetime | None = None
    versions: frozenset[int] | None = None

    def keep(self, entries: Iterable[LogEntry]) -> list[LogEntry]:
        """The commits that match, in the same order."""
        return [entry for entry in entries if self._matches(entry)]

    def _matches(self, entry: LogEntry) -> bool:
        return (
            (self.stream is None or self.stream in entry.streams)
            and (self.action is None or self.action == entry.action)
            and (self.since is None or entry.committed_at >= self.since)
            and (self.versions is None or entry.version in self.versions)
        )


def note_of(entry: LogEntry) -> str:
    """A log entry as JSON for the table, without the version, which the table has itself."""
    note = asdict(entry) | {"committed_at": entry.committed_at.isoformat()}
    del note["version"]
    return json.dumps(note, ensure_ascii=False)


def read_log(commits: Sequence[Mapping[str, Any]]) -> list[LogEntry]:
    """The log, oldest first, from the commits of a table. Raises IntegrityError if a note is
    damaged; commits of other tools, which have none, are skipped."""
    entries = [read_note(int(c["version"]), c[NOTE]) for c in commits if NOTE in c]
    return sorted(entries, key=lambda entry: entry.version)


def read_note(version: int, note: str) -> LogEntry:
    """The commit of a version from what `note_of` wrote. Raises IntegrityError."""
    try:
        fields = json.loads(note)
        moment = datetime.fromisoformat(fields.pop("committed_at"))
        return LogEntry(version=version, committed_at=moment.astimezone(UTC), **fields)
    except (ValueError, TypeError, KeyError, AttributeError) as err:
        raise IntegrityError(
            f"ledger: the note of version {version} cannot be read ({err}); `scen verify` says more"
        ) from err


Streams = Collection[str] | None  # None: all


@dataclass(frozen=True)
class View:
    """The active edits of a version in commit order: their ids, the bundles and rows of their
    experts (`bundle_N` are indices into `bundles`), and their positions `order_N` among all edits
    ever committed."""

    version: int
    id_N: NDArray[np.str_]
    bundles: tuple[str, ...]
    bundle_N: NDArray[np.int32]
    row_N: NDArray[np.int32]
    order_N: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.id_N)

    def rows(self) -> list[tuple[str, str, int, int]]:
        """Id, bundle, row and order of each edit."""
        columns: Any = (self.id_N, self.bundle_N, self.row_N, self.order_N)
        lists = [column.tolist() for column in columns]
        return [(i, self.bundles[b], r, o) for i, b, r, o in zip(*lists, strict=True)]


@dataclass(frozen=True)
class Delta:
    """The change from version `since` to that of `added`: ids to remove, then edits to add."""

    since: int
    removed_N: NDArray[np.str_]
    added: View


def view_of(snapshot: Snapshot, streams: Streams = None) -> View:
    """The active edits of some streams."""
    return _view(snapshot, [e for e in snapshot.entries if _is_visible(streams, e)])


def delta_of(before: Snapshot, after: Snapshot, streams: Streams = None) -> Delta:
    """The change for some streams."""
    gone = [
        e
        for e in before.entries
        if not after.state.is_active(e.edit_id) and _is_visible(streams, e)
    ]
    new = [
        e
        for e in after.entries
        if not before.state.is_active(e.edit_id) and _is_visible(streams, e)
    ]
    return Delta(before.version, _names([e.edit_id for e in gone]), _view(after, new))


def apply_delta(view: View, delta: Delta) -> View:
    """The view after a delta. Raises ConflictError if the delta starts at another version."""
    if view.version != delta.since:
        raise ConflictError(f"delta: it follows version {delta.since}, not {view.version}")
    gone = set(delta.removed_N.tolist())
    kept = [row for row in view.rows() if row[0] not in gone]
    rows = sorted([*kept, *delta.added.rows()], key=lambda row: row[3])
    return _build(delta.added.version, rows)


def _is_visible(streams: Streams, entry: LedgerEntry) -> bool:
    return streams is None or entry.stream in streams


def _view(snapshot: Snapshot, entries: list[LedgerEntry]) -> View:
    order = snapshot.state.order
    return _build(
        snapshot.version, [(e.edit_id, e.bundle, e.row, order[e.edit_id]) for e in entries]
    )


def _build(version: int, rows: list[tuple[str, str, int, int]]) -> View:
    bundles = {name: index for index, name in enumerate(dict.fromkeys(row[1] for row in rows))}
    return View(
        version,
        _names([row[0] for row in rows]),
        tuple(bundles),
        np.array([bundles[row[1]] for row in rows], np.int32),
        np.array([row[2] for row in rows], np.int32),
        np.array([row[3] for row in rows], np.int64),
    )


def _names(ids: list[str]) -> NDArray[np.str_]:
    return np.array(ids, np.str_)
