"""`scen gc`: delete what no version needs that is to stay."""

import argparse
from datetime import UTC, datetime

from scen.cli.life import about_of
from scen.cli.output import out, say, write_json
from scen.fs import Storage
from scen.ledger.collect import Keep, collect, plan_collection
from scen.ledger.ledger import open_ledger


def run(args: argparse.Namespace) -> None:
    """Collect, or with --dry-run tell what would be deleted. Raises ConfigError, IntegrityError."""
    storage = Storage(args.store)
    ledger = open_ledger(storage)
    keep = Keep.for_days(datetime.now(UTC), args.keep_days, args.keep_versions)
    plan = plan_collection(storage, ledger, keep)
    version = ledger.version()
    if not args.dry_run:
        version = collect(storage, ledger, plan, about_of(args))
    if args.json:
        write_json(
            {
                "version": version,
                "dry_run": args.dry_run,
                "kept_versions": plan.kept,
                "edit_ids": plan.edit_ids,
                "files": [file.path for file in plan.files],
                "bytes": plan.num_bytes,
            }
        )
        return
    done = "would be deleted" if args.dry_run else "are deleted"
    out.print(f"{len(plan.files)} files, {plan.num_bytes:,} bytes, {done}")
    if plan.edit_ids:
        out.print(f"{len(plan.edit_ids)} edits that are not active cannot be rolled back to")
    kept = f"{len(plan.kept)} versions" if len(plan.kept) > 8 else ", ".join(map(str, plan.kept))
    out.print(f"still there: {kept} of 0 to {version}")
    if args.dry_run:
        say("nothing was written (--dry-run)")
