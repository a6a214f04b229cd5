"""The commit log: which action each commit was, by whom, when and why."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from scen.errors import IntegrityError

NOTE = "scen"  # under this name the log of the table keeps what a commit was
ACTIONS = ("commit", "revoke", "expire", "rollback", "gc")


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One commit of the log. `num_edits` are those that a wave brought, or that another action took
    away or back; `counts` has the events by kind, `to` the version of a rollback, `rows` a sha256
    over the rows of the events. `stream` names those whose edits it touched, parted by commas."""

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
        """The streams whose edits it touched."""
        return [name for name in self.stream.split(", ") if name]


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which commits are wanted; None leaves a question open. `versions` are those of one edit."""

    stream: str | None = None
    action: str | None = None
    since: datetime | None = None
    versions: frozenset[int] | None = None

    def keep(self, entries: Iterable[LogEntry]) -> list[LogEntry]:
        """The commits that are wanted, in the same order."""
        return [entry for entry in entries if self._wants(entry)]

    def _wants(self, entry: LogEntry) -> bool:
        return (
            (self.stream is None or self.stream in entry.streams)
            and (self.action is None or self.action == entry.action)
            and (self.since is None or entry.committed_at >= self.since)
            and (self.versions is None or entry.version in self.versions)
        )


def note_of(entry: LogEntry) -> str:
    """What the log of the table keeps of a commit; its version is the table's own."""
    told = asdict(entry) | {"committed_at": entry.committed_at.isoformat()}
    del told["version"]
    return json.dumps(told, ensure_ascii=False)


def read_log(commits: Sequence[Mapping[str, Any]]) -> list[LogEntry]:
    """The log, oldest first, from the commits of a table. Raises IntegrityError where a commit is
    none of this platform's."""
    found = [read_note(int(c["version"]), c[NOTE]) for c in commits if NOTE in c]
    return sorted(found, key=lambda entry: entry.version)


def read_note(version: int, note: str) -> LogEntry:
    """The commit of a version from what `note_of` wrote. Raises IntegrityError."""
    try:
        told = json.loads(note)
        moment = datetime.fromisoformat(told.pop("committed_at"))
        return LogEntry(version=version, committed_at=moment.astimezone(UTC), **told)
    except (ValueError, TypeError, KeyError, AttributeError) as err:
        raise IntegrityError(
            f"ledger: what version {version} says of itself cannot be read ({err}); `scen verify` "
            "tells more"
        ) from err
