"""`scen drain`: edits that were handed in one by one become committed waves, as they come."""

import argparse
from dataclasses import asdict
from functools import partial

from scen.cli.output import out, show_warnings, write_json
from scen.cli.runtime import RUNTIME
from scen.cli.settings import read_config
from scen.config import Config
from scen.fs import Storage
from scen.ledger.manifest import stored_method
from scen.pipeline.drain import Drained, DrainJob, drain_inbox


def run(args: argparse.Namespace) -> None:
    """Make waves of what waits; for ever, but with --once."""
    show_warnings()
    storage = Storage(args.store)
    show = partial(show_wave, is_json=args.json)
    drain_inbox(drain_job(args), storage, drain_config(args, storage), show, RUNTIME)


def drain_job(args: argparse.Namespace) -> DrainJob:
    """The inbox of the arguments."""
    return DrainJob(args.stream, args.locality, not args.no_tracking, args.once)


def drain_config(args: argparse.Namespace, storage: Storage) -> Config:
    """The settings of the arguments; the method of a store that exists need not be named."""
    return read_config(args, args.method or stored_method(storage))


def show_wave(found: Drained, *, is_json: bool) -> None:
    """What became of a wave, for people, or as one JSON object."""
    if is_json:
        write_json(asdict(found))
        return
    committed = None if found.report is None else found.report.version
    version = "" if committed is None else f", version {committed}"
    out.print(
        f"wave {found.number}: {found.committed} edits committed, {found.superseded} older ones "
        f"superseded, {found.known} known before, {len(found.rejections)} rejected{version}"
    )
    for row in found.rejections:
        out.print(f"rejected   {row.id}: {row.field}: {row.reason}", soft_wrap=True)
    for remark in found.remarks:
        out.print(f"note       {remark}", soft_wrap=True)
