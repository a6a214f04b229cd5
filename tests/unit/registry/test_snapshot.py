"""The snapshot that ledger rows come to, whatever order storage gives them in."""

import json
import random
from datetime import UTC, datetime
from typing import Any

from scen.records import Edit, edit_to_dict
from scen.registry.snapshot import snapshot_from_rows


def ledger_row(version: int, row: int) -> dict[str, Any]:
    """A row as the ledger keeps it. Wave numbers go against the versions here."""
    edit = Edit(id=f"{version}/{row}", prompt=f"q {version} {row}", target="t")
    return {
        "edit_json": json.dumps(edit_to_dict(edit)),
        "stream": "s",
        "wave": 9 - version,
        "wave_key": f"w{version}",
        "bundle": f"{version:064x}",
        "row": row,
        "committed_at": datetime(2026, 1, version, tzinfo=UTC),
        "version": version,
    }


def test_entries_are_in_the_order_of_commits_then_rows() -> None:
    rows = [ledger_row(version, row) for version in (1, 2, 3) for row in range(11)]
    ordered = snapshot_from_rows(3, rows)
    assert ordered.ids == [f"{version}/{row}" for version in (1, 2, 3) for row in range(11)]
    random.Random(0).shuffle(rows)
    assert snapshot_from_rows(3, rows) == ordered


def test_no_rows_are_an_empty_snapshot() -> None:
    assert snapshot_from_rows(0, []).ids == []
