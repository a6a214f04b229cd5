"""`scen candidates`: the waves that the gate holds."""

import argparse
from typing import Any

from rich.table import Table

from scen.cli.output import out, write_json
from scen.fs import Storage
from scen.ledger.ledger import open_ledger
from scen.pipeline.gate import Candidate, candidates


def run(args: argparse.Namespace) -> None:
    """List them, with what was measured."""
    storage = Storage(args.store)
    rows = [_row(one) for one in candidates(storage, open_ledger(storage))]
    if args.json:
        write_json({"candidates": rows})
        return
    if not rows:
        out.print("no wave is held")
        return
    table = Table()
    for name in ("wave", "edits", "held since", "because"):
        table.add_column(name, overflow="fold")
    for row in rows:
        because = "\n".join(row["reasons"])
        table.add_row(row["wave"], str(len(row["edit_ids"])), row["held_at"], because)
    out.print(table)


def _row(one: Candidate) -> dict[str, Any]:
    return {
        "wave": one.wave.key,
        "edit_ids": [edit.id for edit in one.wave.edits],
        "held_at": one.held_at,
        "reasons": list(one.reasons),
        "report": dict(one.report),
    }
