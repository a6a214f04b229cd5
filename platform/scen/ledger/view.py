"""A snapshot as plain arrays, for followers in other processes, and the delta between two.

Suffixes: N edits, B bundles.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scen.errors import ConflictError
from scen.ledger.events import LedgerEntry
from scen.ledger.state import Snapshot

Streams = Collection[str] | None  # None: all


@dataclass(frozen=True)
class View:
    """The active edits of a version in the order of their commits: their ids, where their experts
    lie (`bundle_N` points into `bundles`), and their places `order_N` among all ever committed."""

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
    """What leads a follower from version `since` to that of `added`: ids to take away, then edits
    to add."""

    since: int
    removed_N: NDArray[np.str_]
    added: View


def view_of(snapshot: Snapshot, streams: Streams = None) -> View:
    """The active edits of some streams."""
    return _view(snapshot, [e for e in snapshot.entries if _sees(streams, e)])


def delta_of(before: Snapshot, after: Snapshot, streams: Streams = None) -> Delta:
    """What changed for some streams."""
    gone = [e for e in before.entries if not after.state.is_active(e.edit_id) and _sees(streams, e)]
    new = [e for e in after.entries if not before.state.is_active(e.edit_id) and _sees(streams, e)]
    return Delta(before.version, _names([e.edit_id for e in gone]), _view(after, new))


def apply_delta(view: View, delta: Delta) -> View:
    """The view after a delta. Raises ConflictError where the delta starts at another version."""
    if view.version != delta.since:
        raise ConflictError(f"delta: it follows version {delta.since}, not {view.version}")
    gone = set(delta.removed_N.tolist())
    kept = [row for row in view.rows() if row[0] not in gone]
    rows = sorted([*kept, *delta.added.rows()], key=lambda row: row[3])
    return _build(delta.added.version, rows)


def _sees(streams: Streams, entry: LedgerEntry) -> bool:
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
