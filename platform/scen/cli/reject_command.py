"""`scen reject`: never commit a wave that the gate holds."""

import argparse

from scen.cli.output import out, write_json
from scen.cli.settings import read_config
from scen.fs import Storage
from scen.ledger.ledger import open_ledger
from scen.pipeline.gate import reject


def run(args: argparse.Namespace) -> None:
    """Note it. Raises NotFoundError, ConfigError."""
    storage = Storage(args.store)
    reject(storage, open_ledger(storage), args.wave, read_config(args).waves)
    if args.json:
        write_json({"action": "reject", "wave": args.wave})
    else:
        out.print(f"rejected   {args.wave}")
