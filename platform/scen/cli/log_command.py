"""`scen log`: the commits of a store."""

import argparse
from dataclasses import asdict

from scen.cli.output import out, write_json
from scen.cli.render import log_table
from scen.fs import Storage
from scen.registry.ledger import open_ledger


def run(args: argparse.Namespace) -> None:
    """List the commits, oldest first."""
    ledger = open_ledger(Storage(args.store))
    entries = [asdict(entry) for entry in ledger.log()]
    base = ledger.manifest.base
    if args.json:
        write_json({"version": ledger.version(), "base": dict(base), "commits": entries})
        return
    out.print(f"base {base['name']}, fingerprint {base['fingerprint'][:12]}", soft_wrap=True)
    out.print(log_table(entries))
