"""`scen verify`: is all of a store there, and as it was written?"""

import argparse
from dataclasses import asdict

from rich.table import Table
from rich.text import Text

from scen.cli.output import out, step_progress, write_json
from scen.cli.trust_command import verify
from scen.errors import IntegrityError
from scen.fs import Storage
from scen.ledger.verify import Finding, verify_store


def run(args: argparse.Namespace) -> None:
    """Tell all findings. Raises IntegrityError after that where there is damage."""
    if args.signature is not None:
        verify(args)
        return
    with step_progress() as bars:
        found = list(
            verify_store(Storage(args.store), lambda done, total: bars("bundles", done, total))
        )
    damage = [finding for finding in found if finding.is_damage]
    if args.json:
        rows = [asdict(finding) for finding in found]
        write_json({"sound": not damage, "findings": rows})
    elif found:
        out.print(_table(found))
    else:
        out.print("all of the store is there and as it was written")
    if damage:
        raise IntegrityError(f"{len(damage)} things are damaged or missing; what to do stands with "
                             "each of them")  # fmt: skip


def _table(found: list[Finding]) -> Table:
    table = Table()
    for name in ("kind", "where", "what", "what to do"):
        table.add_column(name, overflow="fold")
    for finding in found:
        style = "red" if finding.is_damage else ""
        cells = (finding.kind, finding.where, finding.what, finding.fix)
        table.add_row(*(Text(cell, style=style) for cell in cells))
    return table
