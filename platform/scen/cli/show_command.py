"""`scen show`: everything that is known of one edit."""

import argparse
from typing import Any

from scen.cli.output import out, write_json
from scen.cli.render import facts_table
from scen.fs import Storage
from scen.records import edit_to_dict
from scen.registry.ledger import open_ledger


def run(args: argparse.Namespace) -> None:
    """Show one edit."""
    entry = open_ledger(Storage(args.store)).find(args.edit_id)
    place = {
        "version": entry.version,
        "committed_at": entry.committed_at.isoformat(timespec="seconds"),
        "stream": entry.stream,
        "wave": entry.wave_key,
        "bundle": entry.bundle,
        "row": entry.row,
    }
    facts: dict[str, Any] = edit_to_dict(entry.edit) | place
    if args.json:
        write_json(facts)
    else:
        told = {name: value for name, value in facts.items() if value not in (None, [], {}, ())}
        out.print(facts_table(told))
