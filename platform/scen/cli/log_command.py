"""`scen log`: the commits of a store."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scen.cli.output import out, say, write_json
from scen.cli.render import log_table
from scen.errors import ConfigError
from scen.fs import Storage
from scen.registry.events import Event, Superseded
from scen.registry.ledger import Ledger, open_ledger
from scen.registry.log import LogEntry, LogFilter

AUDIT = pa.schema(
    [
        ("version", pa.int64()),
        ("committed_at", pa.timestamp("us", tz="UTC")),
        ("action", pa.string()),
        ("event", pa.string()),
        ("edit_id", pa.string()),
        ("by", pa.string()),
        ("who", pa.string()),
        ("why", pa.string()),
        ("wave_key", pa.string()),
        ("epoch", pa.int64()),
    ]
)


def run(args: argparse.Namespace) -> None:
    """List the commits that are asked for, oldest first."""
    ledger = open_ledger(Storage(args.store))
    entries = wanted_commits(args, ledger)
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


def wanted_commits(args: argparse.Namespace, ledger: Ledger) -> list[LogEntry]:
    """The commits that the filters let through. Raises NotFoundError for an unknown edit."""
    versions = None
    if args.edit is not None:
        versions = frozenset(told.version for _, told in ledger.history(args.edit))
    found = LogFilter(args.stream, args.action, args.since, versions).keep(ledger.log())
    return found[-args.last :] if args.last else found


def write_audit(path: str, events: Sequence[Event], entries: Sequence[LogEntry]) -> int:
    """The events of some commits as a Parquet file; how many they are. Raises ConfigError where it
    cannot be written."""
    told = {entry.version: entry for entry in entries}
    rows = [_row(event, told[event.version]) for event in events if event.version in told]
    try:
        pq.write_table(pa.Table.from_pylist(rows, schema=AUDIT), Path(path))
    except OSError as err:
        raise ConfigError(f"--parquet: {path} cannot be written ({err})") from err
    return len(rows)


def _row(event: Event, told: LogEntry) -> dict[str, Any]:
    row = {name: getattr(told, name) for name in AUDIT.names if hasattr(told, name)}
    by = event.by if isinstance(event, Superseded) else None
    return row | {"event": event.kind, "edit_id": event.edit_id, "by": by}
