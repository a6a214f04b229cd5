"""`scen export`: edits in the forms of other tools."""

import argparse
from pathlib import Path

from scen.cli.output import out, say, step_progress, write_json
from scen.config import BaseConfig
from scen.errors import ConfigError
from scen.export.adapters import INDEX, Exporter
from scen.fs import Storage
from scen.ledger.ledger import open_ledger
from scen.snapshot.open import load_store_base


def run(args: argparse.Namespace) -> None:
    """Write the edits of the arguments, or all that are active. Raises NotFoundError, ConfigError,
    IntegrityError."""
    storage = Storage(args.store)
    ledger = open_ledger(storage)
    snapshot = ledger.snapshot(args.version)
    wanted = args.edits or snapshot.ids
    if not wanted:
        raise ConfigError(f"{args.store}: no edit is active at version {snapshot.version}")
    entries = [ledger.find(edit_id, snapshot.version) for edit_id in dict.fromkeys(wanted)]
    folder, template = Path(args.out), None
    if args.format == "alora":
        base = load_store_base(storage, BaseConfig(), say, weights=False)
        ledger.manifest.require_base(base.describe())
        template = base.template
    with step_progress() as bars:
        for _ in Exporter(storage, ledger, template).write(entries, folder):
            bars("export", 1, len(entries))
    told = {"version": snapshot.version, "adapters": len(entries), "index": str(folder / INDEX)}
    if args.json:
        write_json(told)
    else:
        out.print(f"{len(entries)} adapters of version {snapshot.version}, {folder / INDEX}")
