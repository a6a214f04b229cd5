"""What events come to: the state of all edits, snapshots, and differences. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from scen.errors import ConfigError
from scen.ledger.events import (
    Committed,
    Dropped,
    Event,
    Expired,
    LedgerEntry,
    Restored,
    Revoked,
    Superseded,
)


@dataclass(frozen=True, slots=True)
class Gone:
    """How an edit left: `status` is superseded, revoked or expired, since a version."""

    status: str
    version: int
    by: str | None = None
    is_dropped: bool = False

    def __str__(self) -> str:
        by = f" by {self.by}" if self.by else ""
        return f"{self.status}{by} in version {self.version}"


@dataclass(frozen=True)
class State:
    """`entries` are all edits that were ever committed, in the order of their commits; `gone` those
    among them that are not active now."""

    entries: Mapping[str, LedgerEntry] = field(default_factory=dict)
    gone: Mapping[str, Gone] = field(default_factory=dict)

    @cached_property
    def active(self) -> tuple[LedgerEntry, ...]:
        """The active edits in the order of their commits, then of rows."""
        gone = self.gone
        return tuple(entry for entry in self.entries.values() if entry.edit_id not in gone)

    @cached_property
    def order(self) -> Mapping[str, int]:
        """The place of each edit among all that were ever committed."""
        return {edit_id: place for place, edit_id in enumerate(self.entries)}

    @cached_property
    def reverses(self) -> Mapping[tuple[str, str], tuple[str, ...]]:
        """The ids of active edits by (subject, target), both normalised."""
        found: dict[tuple[str, str], tuple[str, ...]] = {}
        for entry in self.active:
            if entry.subject_key is not None:
                pair = (entry.subject_key, entry.target_key)
                found[pair] = (*found.get(pair, ()), entry.edit_id)
        return found

    def active_about(self, keys: Iterable[str]) -> list[LedgerEntry]:
        """The active edits that have one of these keys (see `LedgerEntry.keys`)."""
        found = (entry for key in keys for entry in self._active_by_key.get(key, ()))
        return list({entry.edit_id: entry for entry in found}.values())

    @cached_property
    def _active_by_key(self) -> Mapping[str, list[LedgerEntry]]:
        found: dict[str, list[LedgerEntry]] = {}
        for entry in self.active:
            for key in entry.keys:
                found.setdefault(key, []).append(entry)
        return found

    def is_active(self, edit_id: str) -> bool:
        """True where the edit was committed and not taken away since."""
        return edit_id in self.entries and edit_id not in self.gone

    def describe(self, edit_id: str) -> str:
        """`active`, how the edit left, or `not in the ledger`."""
        if edit_id not in self.entries:
            return "not in the ledger"
        return str(self.gone[edit_id]) if edit_id in self.gone else "active"


def apply(state: State, event: Event) -> State:
    """The state after one more event. Raises ConfigError where it cannot follow."""
    return fold(state, [event])


def fold(state: State, events: Iterable[Event]) -> State:
    """The state after more events, in their order. Raises ConfigError where one cannot follow."""
    entries, gone = dict(state.entries), dict(state.gone)
    for event in events:
        _step(entries, gone, event)
    return State(entries, gone)


def _step(entries: dict[str, LedgerEntry], gone: dict[str, Gone], event: Event) -> None:
    edit_id = event.edit_id
    if isinstance(event, Committed):
        if edit_id in entries:
            raise ConfigError(f"edits: {edit_id!r} is in the ledger already")
        entries[edit_id] = event.entry
        return
    if edit_id not in entries:
        raise ConfigError(f"edit: {edit_id!r} is not in the ledger, so it cannot be {event.kind}")
    if isinstance(event, Restored | Dropped):
        _step_gone(gone, event)
        return
    if edit_id in gone:
        raise ConfigError(f"edit: {edit_id!r} is {gone[edit_id]}, so it cannot be {event.kind}")
    gone[edit_id] = _leave(entries, gone, event)


def _leave(
    entries: Mapping[str, LedgerEntry],
    gone: Mapping[str, Gone],
    event: Superseded | Revoked | Expired,
) -> Gone:
    if not isinstance(event, Superseded):
        return Gone(event.kind, event.version)
    if event.by == event.edit_id or event.by not in entries or event.by in gone:
        raise ConfigError(
            f"edit: {event.edit_id!r} cannot be superseded by {event.by!r}, which is not another "
            "active edit"
        )
    return Gone(event.kind, event.version, event.by)


def _step_gone(gone: dict[str, Gone], event: Restored | Dropped) -> None:
    edit_id = event.edit_id
    if edit_id not in gone:
        raise ConfigError(f"edit: {edit_id!r} is active, so it cannot be {event.kind}")
    left = gone[edit_id]
    if left.is_dropped:
        raise ConfigError(
            f"edit: the expert of {edit_id!r} was deleted by `scen gc`, so it cannot be "
            f"{event.kind}; commit the edit again under another id"
        )
    if isinstance(event, Restored):
        del gone[edit_id]
    else:
        gone[edit_id] = Gone(left.status, left.version, left.by, is_dropped=True)


@dataclass(frozen=True)
class Snapshot:
    """One version of the ledger, and what all events up to it come to."""

    version: int
    state: State = field(default_factory=State)

    @property
    def entries(self) -> tuple[LedgerEntry, ...]:
        """The active edits, in the order of commits, then of rows."""
        return self.state.active

    @cached_property
    def ids(self) -> list[str]:
        """The ids of the active edits, in order: the names of the experts in a bank."""
        return [entry.edit_id for entry in self.entries]


@dataclass(frozen=True, slots=True)
class Diff:
    """What is active after and was not before (`added`), the reverse (`removed`), and of these the
    pairs `replaced` (older id, newer id) in which one took the other's place."""

    added: tuple[LedgerEntry, ...]
    removed: tuple[LedgerEntry, ...]
    replaced: tuple[tuple[str, str], ...]


def diff_snapshots(before: Snapshot, after: Snapshot) -> Diff:
    """What is different after. Works in either direction of time."""
    added = tuple(e for e in after.entries if not before.state.is_active(e.edit_id))
    removed = tuple(e for e in before.entries if not after.state.is_active(e.edit_id))
    is_forward = before.version <= after.version
    gone = (after if is_forward else before).state.gone
    older, newer = (removed, added) if is_forward else (added, removed)
    there = {entry.edit_id for entry in newer}
    found = [(entry.edit_id, _successor(gone, entry.edit_id)) for entry in older]
    pairs = [(old, new) for old, new in found if new in there]
    return Diff(added, removed, tuple(pairs if is_forward else [(new, old) for old, new in pairs]))


def _successor(gone: Mapping[str, Gone], edit_id: str) -> str:
    """The last of those that took the place of an edit, one after the other."""
    while edit_id in gone and (by := gone[edit_id].by) is not None:
        edit_id = by
    return edit_id
