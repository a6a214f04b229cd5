"""The ledger on Delta Lake: one row per event of an edit, one commit per action. Commits are
compare-and-set and idempotent.

The version that users see is the Delta version; 0 is a store without edits.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from scen.errors import ConfigError, ConflictError, IntegrityError, NotFoundError
from scen.fs import Storage
from scen.ledger.actions import (
    NAMES,
    About,
    Action,
    Recalibrate,
    Rollback,
    WaveCommit,
    action_events,
    check_key,
    check_wave,
    starts_after,
    wave_events,
)
from scen.ledger.events import Event, LedgerEntry, in_utc
from scen.ledger.manifest import StoreManifest, read_manifest, write_manifest
from scen.ledger.markers import newest_epoch, require_epoch
from scen.ledger.rows import (
    append,
    largest_epoch,
    log_entry,
    read_edit_events,
    read_events,
    require_version,
)
from scen.ledger.state import Snapshot, State, fold
from scen.ledger.table import EditTexts, create_table, open_table
from scen.ledger.view import LogEntry, read_log

__all__ = ["CommitResult", "Ledger", "WaveCommit", "create_or_open", "open_ledger"]
TRIES = 8


@dataclass(frozen=True, slots=True)
class CommitResult:
    """The version that holds the action. `already_committed`: nothing was written, because the
    action was committed before or has no effect."""

    version: int
    already_committed: bool


def create_or_open(storage: Storage, manifest: StoreManifest) -> "Ledger":
    """The ledger of a store, created if missing. Raises BaseError or ConfigError if the store is
    bound to another base or method, IntegrityError if `store.json` is damaged."""
    create_table(storage)
    bound = write_manifest(storage, manifest)
    bound.require_base(manifest.base)
    bound.require_method(manifest.method)
    return Ledger(storage, bound)


def open_ledger(storage: Storage) -> "Ledger":
    """The ledger of an existing store. Raises NotFoundError if there is none, IntegrityError if
    its log is damaged."""
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
        self._texts = EditTexts(storage)
        self._newest = Snapshot(0)  # the newest snapshot read; versions are immutable

    def version(self) -> int:
        """The newest version."""
        return open_table(self._storage).version()

    def epoch(self) -> int | None:
        """The newest epoch of a writer; None if no writer had one."""
        return self._epoch(open_table(self._storage)) or None

    def _epoch(self, table: DeltaTable) -> int:
        return max(newest_epoch(self._storage), largest_epoch(table) or 0)

    def is_committed(self, wave_key: str) -> int | None:
        """The version that holds a wave, or None."""
        return open_table(self._storage).transaction_version(_wave_app(wave_key))

    def commit(self, commit: WaveCommit, expected_version: int) -> CommitResult:
        """Append a wave on top of `expected_version`, the version that the caller has read.

        Raises ConflictError if another commit came first (reload, check, retry) or the writer's
        epoch has ended, ConfigError for an invalid commit; nothing is written then.
        """
        check_wave(commit)
        app, at = _wave_app(commit.wave_key), datetime.now(UTC)
        table = open_table(self._storage)
        if (done := table.transaction_version(app)) is not None:
            return CommitResult(done, True)
        require_version(table, expected_version)
        require_epoch(commit.epoch, self._epoch(table))
        before = self.snapshot(expected_version).state
        events = wave_events(commit, before, expected_version + 1, at)
        about = About(commit.why, commit.who, epoch=commit.epoch)
        starts = [in_utc(e.valid_from) for e in commit.edits if starts_after(e, commit.as_of or at)]
        schedule = {"scheduled_from": min(map(str, starts))} if starts else {}
        note = replace(
            log_entry("commit", about, fold(before, events), events, at),
            wave_key=commit.wave_key,
            metadata={"bundle": commit.bundle, **schedule, **commit.metadata},
        )
        append(table, app, events, note)
        return CommitResult(note.version, False)

    def act(self, action: Action, expected_version: int) -> CommitResult:
        """Commit any other action on top of `expected_version`.

        Raises ConflictError as `commit` does, NotFoundError for an unknown edit or version,
        ConfigError for an action that is not allowed; nothing is written then.
        """
        about, at = action.about, datetime.now(UTC)
        check_key("action_id", about.action_id)
        app = f"action/{about.action_id}"
        table = open_table(self._storage)
        if (done := table.transaction_version(app)) is not None:
            return CommitResult(done, True)
        require_version(table, expected_version)
        require_epoch(about.epoch, self._epoch(table))
        events, after = self._plan(action, self.snapshot(expected_version))
        if not events:
            return CommitResult(expected_version, True)
        note = log_entry(NAMES[type(action)], about, after, events, at)
        if isinstance(action, Rollback):
            note = replace(note, to=action.to)
        if isinstance(action, Recalibrate):
            note = replace(note, metadata={"router": action.router, "profile": action.profile})
        append(table, app, events, note)
        return CommitResult(note.version, False)

    def plan(self, action: Action) -> list[Event]:
        """The events that an action would commit now, without committing them. Raises as `act`."""
        return self._plan(action, self.snapshot())[0]

    def _plan(self, action: Action, before: Snapshot) -> tuple[list[Event], State]:
        target = self.snapshot(action.to) if isinstance(action, Rollback) else before
        events = action_events(action, before.state, before.version + 1, target.state)
        return events, fold(before.state, events)

    def settle(self, action: Action) -> CommitResult:
        """Commit an action on top of the newest version, planned again after each conflict. Raises
        ConflictError after 8 attempts, otherwise as `act`."""
        for _ in range(TRIES - 1):
            version = self.version()
            try:
                return self.act(action, version)
            except ConflictError:
                if self.version() == version:  # not a lost race: the action itself conflicts
                    raise
        return self.act(action, self.version())

    def snapshot(self, version: int | None = None) -> Snapshot:
        """The active edits at a version (None: the newest). Raises NotFoundError, or IntegrityError
        if the log contradicts itself."""
        table = open_table(self._storage, version)
        cached = self._newest if table.version() >= self._newest.version else Snapshot(0)
        if table.version() == cached.version:
            return cached
        snapshot = self._advance(table, cached)
        if snapshot.version > self._newest.version:
            self._newest = snapshot
        return snapshot

    def _advance(self, table: DeltaTable, cached: Snapshot) -> Snapshot:
        try:
            state = fold(cached.state, read_events(table, self._texts, cached.version))
        except ConfigError as err:
            raise IntegrityError(f"ledger: the log contradicts itself: {err}") from err
        return Snapshot(table.version(), state)

    def require_experts(self, snapshot: Snapshot) -> None:
        """Raises NotFoundError if `scen gc` has deleted, or is about to delete, an expert of a
        snapshot. Otherwise the experts are retained, if the version was leased before this call."""
        gone = self.snapshot().state.gone
        lost = [name for name in snapshot.ids if name in gone and gone[name].is_dropped]
        if lost:
            raise NotFoundError(
                f"version {snapshot.version}: `scen gc` deleted the experts of {len(lost)} of its "
                f"edits, {lost[0]!r} among them; ask a newer version"
            )

    def events(self, after: int = 0) -> list[Event]:
        """All events after a version, in order. Raises IntegrityError."""
        return list(read_events(open_table(self._storage), self._texts, after))

    def history(self, edit_id: str) -> list[tuple[Event, LogEntry]]:
        """The events of an edit, active or not, with their commits, oldest first. Raises
        NotFoundError naming similar ids."""
        events = read_edit_events(open_table(self._storage), self._texts, edit_id)
        if not events:
            raise self._unknown(edit_id, list(self.snapshot().state.entries), "the ledger")
        commits = {entry.version: entry for entry in self.log()}
        return [(event, commits[event.version]) for event in events]

    def log(self) -> list[LogEntry]:
        """All commits, oldest first."""
        return read_log(open_table(self._storage).history())

    def profile(self, snapshot: Snapshot) -> Mapping[str, Any]:
        """How the router of a snapshot was made (see `StoreManifest.profile`)."""
        router = snapshot.state.router
        if router is None:
            return self.manifest.profile
        made = [entry.metadata for entry in self.log() if entry.action == NAMES[Recalibrate]]
        facts = next((about["profile"] for about in made if about.get("router") == router), "{}")
        return dict(json.loads(facts))

    def find(self, edit_id: str, version: int | None = None) -> LedgerEntry:
        """An active edit. Raises NotFoundError, saying why it is not active or naming similar
        ids."""
        snapshot = self.snapshot(version)
        state, place = snapshot.state, f"version {snapshot.version}"
        if state.is_active(edit_id):
            return state.entries[edit_id]
        if (gone := state.gone.get(edit_id)) is not None:
            start = state.entries[edit_id].valid_from if gone.is_scheduled else None
            how = f"valid from {start.isoformat()} on, {gone}" if start else f"it was {gone}"
            raise NotFoundError(f"edit: {edit_id!r} is not active in {place}: {how}")
        raise self._unknown(edit_id, snapshot.ids, place)

    def _unknown(self, edit_id: str, ids: Sequence[str], place: str) -> NotFoundError:
        similar = difflib.get_close_matches(edit_id, ids)
        hint = f"; did you mean {', '.join(similar)}?" if similar else ""
        return NotFoundError(f"edit: {edit_id!r} is not in {place}{hint}")


def _wave_app(wave_key: str) -> str:
    return f"wave/{wave_key}"
