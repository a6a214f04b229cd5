"""`scen rebase`: the active edits of a store, trained anew on another base, or without some."""

import argparse

from scen.cli.edit_command import show
from scen.cli.output import show_warnings
from scen.cli.runtime import RUNTIME
from scen.cli.settings import read_config
from scen.fs import Storage
from scen.pipeline.rebase import RebaseJob, rebase


def run(args: argparse.Namespace) -> None:
    """Read the old ledger, fill the new store. Raises ScenError."""
    show_warnings()
    job = RebaseJob(args.old, args.version, args.without, args.locality, not args.no_tracking)
    report = rebase(job, Storage(args.store), read_config(args, args.method), RUNTIME)
    report.require_edits(args.old)
    show(report, args.json)
