"""`scen show`: everything that is known of one edit."""

import argparse
from typing import Any

from rich.table import Table
from rich.text import Text

from scen.cli.output import out, write_json
from scen.cli.render import facts_table
from scen.fs import Storage
from scen.ledger.events import Superseded
from scen.ledger.ledger import Ledger, open_ledger
from scen.records import edit_to_dict

_HISTORY = ("version", "event", "by", "at", "who", "why")


def run(args: argparse.Namespace) -> None:
    """Show one edit, whatever became of it. Raises NotFoundError."""
    ledger = open_ledger(Storage(args.store))
    history = edit_history(ledger, args.edit_id)
    state = ledger.snapshot().state
    entry = state.entries[args.edit_id]
    place = {
        "status": state.describe(args.edit_id),
        "active_since": active_since(history),
        "version": entry.version,
        "committed_at": entry.committed_at.isoformat(timespec="seconds"),
        "stream": entry.stream,
        "wave": entry.wave_key,
        "bundle": entry.bundle,
        "row": entry.row,
    }
    facts: dict[str, Any] = edit_to_dict(entry.edit) | place
    if args.json:
        write_json(facts | {"history": history})
        return
    out.print(facts_table({n: v for n, v in facts.items() if v not in (None, [], {}, ())}))
    out.print(_table(history))


def active_since(history: list[dict[str, Any]]) -> str | None:
    """When an edit became active last; None where it is not active."""
    since = None
    for row in history:
        since = row["at"] if row["event"] in ("committed", "activated", "restored") else None
    return since


def edit_history(ledger: Ledger, edit_id: str) -> list[dict[str, Any]]:
    """All that happened to an edit, oldest first. Raises NotFoundError."""
    return [
        {
            "version": event.version,
            "event": event.kind,
            "by": event.by if isinstance(event, Superseded) else None,
            "at": told.committed_at.isoformat(timespec="seconds"),
            "who": told.who,
            "why": told.why,
        }
        for event, told in ledger.history(edit_id)
    ]


def _table(history: list[dict[str, Any]]) -> Table:
    table = Table(title="History", title_justify="left", title_style="bold")
    for name in _HISTORY:
        table.add_column(name, overflow="fold")
    for row in history:
        table.add_row(*(Text(str(row[name] or "")) for name in _HISTORY))
    return table
