"""`scen promote`: commit a wave that the gate holds."""

import argparse

from scen.cli.apply import tracking_uri_of
from scen.cli.output import out, show_warnings, write_json
from scen.cli.settings import read_config
from scen.fs import Storage
from scen.registry.ledger import Ledger, open_ledger
from scen.tracking.open_tracker import open_tracker
from scen.waves.gate import promote, read_candidate
from scen.waves.journal import Journal
from scen.waves.track_wave import WaveDiary


def run(args: argparse.Namespace) -> None:
    """Commit and track it. Raises NotFoundError, ConfigError, ConflictError."""
    show_warnings()
    storage = Storage(args.store)
    ledger = open_ledger(storage)
    version = promote(storage, ledger, args.wave, read_config(args).waves)
    if not args.no_tracking:
        _track(storage, ledger, args.wave, version)
    if args.json:
        write_json({"action": "promote", "wave": args.wave, "version": version})
    else:
        out.print(f"version    {version}")


def _track(storage: Storage, ledger: Ledger, key: str, version: int) -> None:
    journal = Journal(storage, key)
    tracker = open_tracker(tracking_uri_of(storage))
    diary = WaveDiary(storage, tracker, str(ledger.manifest.base["name"]))
    found = journal.read("evaluated") | {"losses": journal.read("trained")["losses"]}
    diary.track(read_candidate(storage, key).wave, journal, found, version)
