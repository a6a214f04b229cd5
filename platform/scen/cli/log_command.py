"""`scen log`: the commits of a store."""

import argparse
from dataclasses import asdict

from scen.cli.output import out, say, write_json
from scen.cli.render import log_table
from scen.fs import Storage
from scen.ledger.ledger import open_ledger
from scen.pipeline.audit import find_commits, write_audit


def run(args: argparse.Namespace) -> None:
    """List the commits that are asked for, oldest first."""
    ledger = open_ledger(Storage(args.store))
    entries = find_commits(
        ledger,
        edit_id=args.edit,
        stream=args.stream,
        action=args.action,
        since=args.since,
        last=args.last,
    )
    if args.parquet:
        num_rows = write_audit(args.parquet, ledger.events(), entries)
        say(f"{num_rows} events of {len(entries)} commits are in {args.parquet}")
    rows = [asdict(entry) for entry in entries]
    base = ledger.manifest.base
    if args.json:
        write_json({"version": ledger.version(), "base": dict(base), "commits": rows})
        return
    out.print(f"base {base['name']}, fingerprint {base['fingerprint'][:12]}", soft_wrap=True)
    out.print(log_table(rows))
