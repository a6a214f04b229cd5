"""Snapshot: which edits are active at one version of the ledger, in the order of their commits."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from scen.records import Edit, edit_from_dict


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One active edit: what it says, and where its expert and neuron lie."""

    edit: Edit
    stream: str
    wave: int
    wave_key: str
    bundle: str
    row: int
    committed_at: datetime
    version: int

    @property
    def edit_id(self) -> str:
        """The id of the edit."""
        return self.edit.id


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`entries` in the order of commits, then of rows."""

    version: int
    entries: tuple[LedgerEntry, ...]

    @property
    def ids(self) -> list[str]:
        """The ids of the active edits, in order: the names of the experts in a bank."""
        return [entry.edit_id for entry in self.entries]


def snapshot_from_rows(version: int, rows: Iterable[Mapping[str, Any]]) -> Snapshot:
    """The snapshot that ledger rows come to. Pure."""
    entries = [
        LedgerEntry(
            edit=edit_from_dict(json.loads(row["edit_json"])),
            stream=row["stream"],
            wave=row["wave"],
            wave_key=row["wave_key"],
            bundle=row["bundle"],
            row=row["row"],
            committed_at=row["committed_at"],
            version=row["version"],
        )
        for row in rows
    ]
    entries.sort(key=lambda entry: (entry.version, entry.row))
    return Snapshot(version, tuple(entries))
