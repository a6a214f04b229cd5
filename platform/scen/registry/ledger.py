"""The ledger on Delta Lake: one row per edit, one commit per wave, compare-and-set, exactly once.

The version that users see is the Delta version; 0 is a store without edits.
"""

import difflib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, TableNotFoundError

from scen.errors import ConfigError, ConflictError, NotFoundError
from scen.fs import Storage
from scen.records import Edit, edit_to_dict
from scen.registry.manifest import StoreManifest, read_manifest, write_manifest
from scen.registry.snapshot import LedgerEntry, Snapshot, snapshot_from_rows
from scen.registry.table import ROW, create_table, open_table, read_rows

_NOTE = "wave"  # under this name the log keeps what a commit was
_KEY = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")


@dataclass(frozen=True)
class WaveCommit:
    """A wave as it is committed: edit i lies in row i of the bundle. `metadata` (why, metrics)
    goes to the log."""

    wave_key: str
    stream: str
    wave: int
    bundle: str
    edits: Sequence[Edit]
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CommitResult:
    """The version that holds the wave; `already_committed` where it held it before."""

    version: int
    already_committed: bool


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One commit of the log."""

    version: int
    committed_at: datetime
    wave_key: str
    stream: str
    num_edits: int
    metadata: Mapping[str, str]


def create_or_open(storage: Storage, manifest: StoreManifest) -> "Ledger":
    """The ledger of a store, made where there is none. Raises BaseError, ConfigError where the
    store is bound to another base or method, IntegrityError where `store.json` is damaged."""
    create_table(storage)
    bound = write_manifest(storage, manifest)
    bound.require_base(manifest.base)
    bound.require_method(manifest.method)
    return Ledger(storage, bound)


def open_ledger(storage: Storage) -> "Ledger":
    """The ledger of a store. Raises NotFoundError where there is none."""
    try:
        ledger = Ledger(storage, read_manifest(storage))
        ledger.version()
    except (NotFoundError, TableNotFoundError) as err:
        raise NotFoundError(
            f"store: there is no ledger at {storage.uri}; `scen edit FILE --store ...` makes one"
        ) from err
    return ledger


class Ledger:
    """The log of a store. Reads are of one version; writes are compare-and-set."""

    def __init__(self, storage: Storage, manifest: StoreManifest) -> None:
        self._storage = storage
        self.manifest = manifest

    def version(self) -> int:
        """The newest version."""
        return open_table(self._storage).version()

    def is_committed(self, wave_key: str) -> int | None:
        """The version that holds a wave, or None."""
        if open_table(self._storage).transaction_version(_app(wave_key)) is None:
            return None
        for entry in self.log():
            if entry.wave_key == wave_key:
                return entry.version
        return None

    def commit(self, commit: WaveCommit, expected_version: int) -> CommitResult:
        """Append a wave on top of the version that the caller has seen.

        Raises ConflictError where another commit came first (reload, check, retry), ConfigError
        for a commit that is wrong in itself. Nothing is written then.
        """
        _check(commit)
        done = self.is_committed(commit.wave_key)
        if done is not None:
            return CommitResult(done, True)
        table = open_table(self._storage)
        if table.version() != expected_version:
            raise ConflictError(
                f"ledger: expected version {expected_version}, found {table.version()}"
            )
        taken = {e.id for e in commit.edits} & set(self.snapshot(expected_version).ids)
        if taken:
            raise ConfigError(f"edits: {sorted(taken)[:5]} are in the ledger already")
        properties = CommitProperties(
            max_commit_retries=0,
            app_transactions=[Transaction(_app(commit.wave_key), commit.wave)],
            custom_metadata={_NOTE: _note(commit)},
        )
        rows = _rows(commit, expected_version + 1)
        try:
            write_deltalake(table, rows, mode="append", commit_properties=properties)
        except CommitFailedError as err:
            raise ConflictError(f"ledger: another commit came first ({err})") from err
        return CommitResult(expected_version + 1, False)

    def snapshot(self, version: int | None = None) -> Snapshot:
        """The active edits at a version (None: the newest). Raises NotFoundError."""
        table = open_table(self._storage, version)
        return snapshot_from_rows(table.version(), read_rows(table))

    def log(self) -> list[LogEntry]:
        """All commits of waves, oldest first."""
        found = [_log_entry(c) for c in open_table(self._storage).history() if _NOTE in c]
        return sorted(found, key=lambda entry: entry.version)

    def find(self, edit_id: str, version: int | None = None) -> LedgerEntry:
        """An active edit. Raises NotFoundError with the ids that look alike."""
        snapshot = self.snapshot(version)
        for entry in snapshot.entries:
            if entry.edit_id == edit_id:
                return entry
        near = difflib.get_close_matches(edit_id, snapshot.ids)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise NotFoundError(f"edit: {edit_id!r} is not in version {snapshot.version}{hint}")


def _app(wave_key: str) -> str:
    return f"wave/{wave_key}"


def _check(commit: WaveCommit) -> None:
    if not _KEY.fullmatch(commit.wave_key):
        raise ConfigError(f"wave_key: {commit.wave_key!r} must match {_KEY.pattern}")
    if not commit.edits:
        raise ConfigError(f"wave {commit.wave_key}: has no edits")
    twice = [edit_id for edit_id, count in Counter(e.id for e in commit.edits).items() if count > 1]
    if twice:
        raise ConfigError(f"wave {commit.wave_key}: {twice[:5]} are in it more than once")


def _rows(commit: WaveCommit, version: int) -> pa.Table:
    now = datetime.now(UTC)
    rows = [
        {
            "edit_id": edit.id,
            "stream": commit.stream,
            "wave": commit.wave,
            "wave_key": commit.wave_key,
            "status": "live",
            "bundle": commit.bundle,
            "row": index,
            "version": version,
            "edit_digest": edit.digest,
            "edit_json": json.dumps(edit_to_dict(edit), ensure_ascii=False),
            "prompt": edit.prompt,
            "target": edit.target,
            "subject": edit.subject,
            "author": edit.author,
            "source": edit.source,
            "committed_at": now,
        }
        for index, edit in enumerate(commit.edits)
    ]
    return pa.Table.from_pylist(rows, schema=ROW)


def _note(commit: WaveCommit) -> str:
    return json.dumps(
        {
            "wave_key": commit.wave_key,
            "stream": commit.stream,
            "num_edits": len(commit.edits),
            "metadata": {"bundle": commit.bundle, **commit.metadata},
        }
    )


def _log_entry(commit: Mapping[str, Any]) -> LogEntry:
    moment = datetime.fromtimestamp(commit["timestamp"] / 1000, UTC)
    return LogEntry(int(commit["version"]), moment, **json.loads(commit[_NOTE]))
