"""Replay of events: the state of all edits, snapshots and their differences. Pure functions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property

from scen.errors import ConfigError
from scen.ledger.events import (
    Activated,
    Committed,
    Dropped,
    EditEvent,
    Event,
    Expired,
    LedgerEntry,
    Recalibrated,
    Restored,
    Revoked,
    Scheduled,
    Superseded,
)


@dataclass(frozen=True, slots=True)
class Gone:
    """Why an edit is not active: `status` is scheduled, superseded, revoked or expired, since a
    version. `is_dropped`: its expert is deleted."""

    status: str
    version: int
    by: str | None = None
    is_dropped: bool = False

    @property
    def is_scheduled(self) -> bool:
        """True if the edit is not active yet."""
        return self.status == Scheduled.kind

    def __str__(self) -> str:
        by = f" by {self.by}" if self.by else ""
        return f"{self.status}{by} in version {self.version}"


@dataclass(frozen=True)
class State:
    """`entries` holds all edits ever committed, in commit order; `gone` those of them that are not
    active; `routers` every change of the router, in commit order."""

    entries: Mapping[str, LedgerEntry] = field(default_factory=dict)
    gone: Mapping[str, Gone] = field(default_factory=dict)
    routers: tuple[Recalibrated, ...] = ()

    @property
    def router(self) -> str | None:
        """The bundle of the router (sha256 in hex); None for the one that the store was created
        with."""
        return self.routers[-1].router if self.routers else None

    @cached_property
    def active(self) -> tuple[LedgerEntry, ...]:
        """The active edits in commit order, then row order."""
        gone = self.gone
        return tuple(entry for entry in self.entries.values() if entry.edit_id not in gone)

    @cached_property
    def scheduled(self) -> tuple[LedgerEntry, ...]:
        """The edits that are not active yet, in the same order."""
        names = [name for name, gone in self.gone.items() if gone.is_scheduled]
        return tuple(self.entries[name] for name in sorted(names, key=self.order.__getitem__))

    @cached_property
    def order(self) -> Mapping[str, int]:
        """The position of each edit among all ever committed."""
        return {edit_id: place for place, edit_id in enumerate(self.entries)}

    @cached_property
    def reverses(self) -> Mapping[tuple[str, str], tuple[str, ...]]:
        """The ids of active edits by (subject, target), both normalised."""
        ids: dict[tuple[str, str], tuple[str, ...]] = {}
        for entry in self.active:
            if entry.subject_key is not None:
                pair = (entry.subject_key, entry.target_key)
                ids[pair] = (*ids.get(pair, ()), entry.edit_id)
        return ids

    @cached_property
    def next_due(self) -> datetime | None:
        """When the next edit starts or ends to be valid; None if none will."""
        waiting = [*self.active, *self.scheduled]
        ends = [entry.valid_until for entry in waiting if entry.valid_until]
        starts = [entry.valid_from for entry in self.scheduled if entry.valid_from]
        return min([*ends, *starts], default=None)

    def active_about(self, keys: Iterable[str]) -> list[LedgerEntry]:
        """The active edits that have one of these keys (see `LedgerEntry.keys`)."""
        return _with_keys(self._active_by_key, keys)

    def scheduled_about(self, keys: Iterable[str]) -> list[LedgerEntry]:
        """The scheduled edits that have one of these keys."""
        return _with_keys(self._scheduled_by_key, keys)

    @cached_property
    def _active_by_key(self) -> Mapping[str, list[LedgerEntry]]:
        return _by_key(self.active)

    @cached_property
    def _scheduled_by_key(self) -> Mapping[str, list[LedgerEntry]]:
        return _by_key(self.scheduled)

    def is_active(self, edit_id: str) -> bool:
        """True if the edit is committed and neither scheduled nor deactivated."""
        return edit_id in self.entries and edit_id not in self.gone

    def describe(self, edit_id: str) -> str:
        """`active`, the reason why it is not, or `not in the ledger`."""
        if edit_id not in self.entries:
            return "not in the ledger"
        return str(self.gone[edit_id]) if edit_id in self.gone else "active"


def _by_key(entries: Iterable[LedgerEntry]) -> dict[str, list[LedgerEntry]]:
    by_key: dict[str, list[LedgerEntry]] = {}
    for entry in entries:
        for key in entry.keys:
            by_key.setdefault(key, []).append(entry)
    return by_key


def _with_keys(by_key: Mapping[str, list[LedgerEntry]], keys: Iterable[str]) -> list[LedgerEntry]:
    entries = (entry for key in keys for entry in by_key.get(key, ()))
    return list({entry.edit_id: entry for entry in entries}.values())


def apply(state: State, event: Event) -> State:
    """The state after one more event. Raises ConfigError if it is not allowed."""
    return fold(state, [event])


def fold(state: State, events: Iterable[Event]) -> State:
    """The state after more events, in order. Raises ConfigError if one is not allowed."""
    entries, gone, routers = dict(state.entries), dict(state.gone), list(state.routers)
    for event in events:
        if isinstance(event, Recalibrated):
            routers.append(event)
        else:
            _step(entries, gone, event)
    return State(entries, gone, tuple(routers))


def _step(entries: dict[str, LedgerEntry], gone: dict[str, Gone], event: EditEvent) -> None:
    edit_id = event.edit_id
    if isinstance(event, Committed):
        if edit_id in entries:
            raise ConfigError(f"edits: {edit_id!r} is in the ledger already")
        entries[edit_id] = event.entry
        return
    if edit_id not in entries:
        raise ConfigError(f"edit: {edit_id!r} is not in the ledger, so it cannot be {event.kind}")
    inactive = gone.get(edit_id)
    _require_allowed(event, inactive)
    if isinstance(event, Restored | Activated):
        del gone[edit_id]
    elif isinstance(event, Dropped):
        assert inactive is not None
        gone[edit_id] = replace(inactive, is_dropped=True)
    elif isinstance(event, Superseded):
        _require_successor(entries, gone, event)
        gone[edit_id] = Gone(event.kind, event.version, event.by)
    else:
        gone[edit_id] = Gone(event.kind, event.version)


def _require_allowed(event: EditEvent, inactive: Gone | None) -> None:
    """Raises ConfigError for an event that is not allowed; `inactive` is why the edit is not
    active, None if it is."""
    is_scheduled = inactive is not None and inactive.is_scheduled
    if isinstance(event, Superseded | Revoked | Expired):
        is_allowed = inactive is None or is_scheduled
    elif isinstance(event, Activated):
        is_allowed = is_scheduled
    else:  # scheduled by a rollback, restored, dropped
        is_allowed = not is_scheduled and (inactive is not None or isinstance(event, Scheduled))
        if is_allowed and inactive is not None and inactive.is_dropped:
            raise ConfigError(
                f"edit: the expert of {event.edit_id!r} was deleted by `scen gc`, so it cannot be "
                f"{event.kind}; commit the edit again under another id"
            )
    if not is_allowed:
        why = "active" if inactive is None else inactive
        raise ConfigError(f"edit: {event.edit_id!r} is {why}, so it cannot be {event.kind}")


def _require_successor(
    entries: Mapping[str, LedgerEntry], gone: Mapping[str, Gone], event: Superseded
) -> None:
    """Raises ConfigError if an edit is superseded by one that is not active; of two scheduled
    edits, either may supersede the other."""
    by = gone.get(event.by)
    are_scheduled = by is not None and by.is_scheduled and event.edit_id in gone
    if event.by == event.edit_id or event.by not in entries or not (by is None or are_scheduled):
        raise ConfigError(
            f"edit: {event.edit_id!r} cannot be superseded by {event.by!r}, which is not another "
            "active edit"
        )


@dataclass(frozen=True)
class Snapshot:
    """A version of the ledger and the state after all events up to it."""

    version: int
    state: State = field(default_factory=State)

    @property
    def entries(self) -> tuple[LedgerEntry, ...]:
        """The active edits, in commit order, then row order."""
        return self.state.active

    @cached_property
    def ids(self) -> list[str]:
        """The ids of the active edits, in order: the names of the experts in a bank."""
        return [entry.edit_id for entry in self.entries]


@dataclass(frozen=True, slots=True)
class Diff:
    """The edits that are active only after (`added`) or only before (`removed`), and the pairs
    `replaced` (older id, newer id) of them in which one superseded the other."""

    added: tuple[LedgerEntry, ...]
    removed: tuple[LedgerEntry, ...]
    replaced: tuple[tuple[str, str], ...]


def diff_snapshots(before: Snapshot, after: Snapshot) -> Diff:
    """The difference between two snapshots; either may be the older one."""
    added = tuple(e for e in after.entries if not before.state.is_active(e.edit_id))
    removed = tuple(e for e in before.entries if not after.state.is_active(e.edit_id))
    is_forward = before.version <= after.version
    gone = (after if is_forward else before).state.gone
    older, newer = (removed, added) if is_forward else (added, removed)
    newer_ids = {entry.edit_id for entry in newer}
    successors = [(entry.edit_id, _successor(gone, entry.edit_id)) for entry in older]
    pairs = [(old, new) for old, new in successors if new in newer_ids]
    return Diff(added, removed, tuple(pairs if is_forward else [(new, old) for old, new in pairs]))


def _successor(gone: Mapping[str, Gone], edit_id: str) -> str:
    """The last edit in the chain of those that superseded an edit."""
    while edit_id in gone and (by := gone[edit_id].by) is not None:
        edit_id = by
    return edit_id
