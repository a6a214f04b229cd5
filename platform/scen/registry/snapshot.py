"""Snapshot: which edits are active at one version of the ledger, in the order of their commits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from scen.registry.entry import LedgerEntry
from scen.registry.state import Gone, State


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
