"""`scen edit`: a file of edits becomes committed waves."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from scen.cli.apply import EditJob, EditSummary, apply_edits
from scen.cli.dry_run import Look, forecast
from scen.cli.dry_run_view import show_forecast
from scen.cli.output import out, show_warnings, write_json
from scen.cli.render import report_table
from scen.cli.settings import read_config, store_method
from scen.config import Config
from scen.fs import Storage
from scen.tracking.tracking_uri import ui_command


def run(args: argparse.Namespace) -> None:
    """Apply a file of edits to a store; with --dry-run tell what would become of it."""
    show_warnings()
    storage = Storage(args.store)
    if args.dry_run:
        look = Look(has_keys=not args.no_base, answers=args.answers)
        found = forecast(edit_job(args), storage, edit_config(args, storage), look)
        if args.json:
            write_json(found.to_dict())
        else:
            show_forecast(found)
        return
    summary, _ = apply_edits(edit_job(args), storage, edit_config(args, storage))
    show(summary, args.json)


def edit_job(args: argparse.Namespace) -> EditJob:
    """The file of the arguments, and how it is to be read."""
    return EditJob(
        file=args.file,
        stream=args.stream,
        data_format=args.format,
        limit=args.limit,
        strict=args.strict,
        locality=args.locality,
        is_tracked=not args.no_tracking,
    )


def edit_config(args: argparse.Namespace, storage: Storage) -> Config:
    """The settings of the arguments; the method of a store that exists need not be named."""
    return read_config(args, args.method or store_method(storage))


def show(summary: EditSummary, is_json: bool) -> None:
    """The summary for people, or as one JSON object."""
    if is_json:
        write_json(asdict(summary))
    else:
        show_summary(summary)


def show_held(held: Mapping[str, Sequence[str]]) -> None:
    """The waves that the gate keeps from the ledger, and what to do."""
    for key, reasons in held.items():
        why = "; ".join(reasons) or "it was rejected"
        out.print(f"held       {key}: {why}", soft_wrap=True)
    if held:
        out.print("look at them: `scen candidates`; then `scen promote` or `scen reject`")


def show_summary(summary: EditSummary) -> None:
    """The figures of the last wave, and where everything is."""
    if summary.waves:
        out.print(report_table(summary.waves[-1]["evaluated"]["report"], "Last wave"))
    num_waves = len(summary.waves) - len(summary.held)
    out.print(
        f"{summary.committed} edits in {num_waves} waves committed, "
        f"{summary.superseded} older ones superseded, "
        f"{summary.known} known before, {summary.rejected} rejected, {summary.seconds} s"
    )
    show_held(summary.held)
    for remark in summary.remarks:
        out.print(f"note       {remark}", soft_wrap=True)
    out.print(f"store      {summary.store}  (version {summary.version})", soft_wrap=True)
    if summary.model:
        out.print(f"model      models:/{summary.model}@champion", soft_wrap=True)
    if summary.tracking_uri:
        out.print(f"MLflow     {ui_command(summary.tracking_uri)}", soft_wrap=True)
