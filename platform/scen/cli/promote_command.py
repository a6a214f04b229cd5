"""`scen promote`: commit a wave that the gate holds."""

import argparse

from scen.cli.output import out, show_warnings, write_json
from scen.cli.settings import read_config
from scen.fs import Storage
from scen.pipeline.apply import promote_wave


def run(args: argparse.Namespace) -> None:
    """Commit and track it. Raises NotFoundError, ConfigError, ConflictError."""
    show_warnings()
    rules, storage = read_config(args).waves, Storage(args.store)
    version = promote_wave(storage, args.wave, rules, is_tracked=not args.no_tracking)
    if args.json:
        write_json({"action": "promote", "wave": args.wave, "version": version})
    else:
        out.print(f"version    {version}")
