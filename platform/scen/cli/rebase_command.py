"""`scen rebase`: the active edits of a store, trained anew on another base, or without some."""

import argparse
from collections.abc import Iterator, Sequence
from functools import partial

from scen.cli.apply import EditJob, apply_streams, make_validator
from scen.cli.edit_command import show
from scen.cli.output import say, show_warnings
from scen.cli.settings import read_config
from scen.errors import ConfigError
from scen.fs import Storage
from scen.ingest import QuarantineFile, Rejection
from scen.ingest.rows import RawRow
from scen.records import Edit, edit_to_dict
from scen.registry.entry import LedgerEntry
from scen.registry.ledger import open_ledger
from scen.waves.local import LocalParts

_BATCH = 1000


def run(args: argparse.Namespace) -> None:
    """Read the old ledger, fill the new store. Raises ScenError."""
    show_warnings()
    old, new = Storage(args.old), Storage(args.store)
    if old.uri == new.uri:
        raise ConfigError("--store: the edits need a store of their own, not the one they are in")
    ledger = open_ledger(old)
    snapshot = ledger.snapshot(args.version)
    for edit_id in args.without:
        ledger.history(edit_id)  # a wrong id must not leave anybody in the belief that it is erased
    entries = [entry for entry in snapshot.entries if entry.edit_id not in set(args.without)]
    if not entries:
        raise ConfigError(f"{args.old}: no edit to take is active at version {snapshot.version}")
    say(f"{len(entries)} edits of {old.uri} at version {snapshot.version} are taken")
    held: dict[str, list[LedgerEntry]] = {}
    for entry in entries:
        held.setdefault(entry.stream, []).append(entry)
    streams = {name: partial(_read, entries) for name, entries in held.items()}
    job = EditJob(args.old, locality=args.locality, is_tracked=not args.no_tracking)
    summary, _ = apply_streams(streams, job, new, read_config(args, args.method))
    show(summary, args.json)


def _read(
    entries: Sequence[LedgerEntry],
    parts: LocalParts,
    quarantine: QuarantineFile,
    rows: dict[str, int],
) -> Iterator[list[Edit]]:
    """The edits that the other base can learn; the others go to quarantine."""
    validator = make_validator(parts)
    for begin in range(0, len(entries), _BATCH):
        fine: list[Edit] = []
        for number, entry in enumerate(entries[begin : begin + _BATCH], begin + 1):
            values = edit_to_dict(entry.edit)
            checked = validator.check(RawRow(number, values, fields=values))
            if isinstance(checked, Rejection):
                quarantine.add([checked])
                continue
            rows[checked.id] = number
            fine.append(checked)
        yield fine
