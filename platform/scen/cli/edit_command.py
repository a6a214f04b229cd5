"""`scen edit`: a file of edits becomes committed waves."""

import argparse
from collections.abc import Mapping, Sequence

from scen.cli.dry_run_view import show_forecast
from scen.cli.output import out, say, show_warnings, write_json
from scen.cli.render import report_table
from scen.cli.runtime import RUNTIME
from scen.cli.settings import read_config
from scen.config import Config
from scen.fs import Storage
from scen.ledger.manifest import stored_method
from scen.pipeline.apply import EditJob, EditReport, apply_edits
from scen.pipeline.forecast import Look, forecast
from scen.tracking.client import ui_command


def run(args: argparse.Namespace) -> None:
    """Apply a file of edits to a store; with --dry-run tell what would become of it."""
    show_warnings()
    storage = Storage(args.store)
    job, config = edit_job(args), edit_config(args, storage)
    if args.dry_run:
        look = Look(has_keys=not args.no_base, answers=args.answers)
        found = forecast(job, storage, config, look, say)
        if args.json:
            write_json(found.to_dict())
        else:
            show_forecast(found)
        return
    report, _ = apply_edits(job, storage, config, RUNTIME)
    report.require_edits(job.name)
    show(report, args.json)


def edit_job(args: argparse.Namespace) -> EditJob:
    """The file of the arguments, and how it is to be read."""
    return EditJob(
        source=args.file,
        stream=args.stream,
        data_format=args.format,
        limit=args.limit,
        strict=args.strict,
        locality=args.locality,
        is_tracked=not args.no_tracking,
    )


def edit_config(args: argparse.Namespace, storage: Storage) -> Config:
    """The settings of the arguments; the method of a store that exists need not be named."""
    return read_config(args, args.method or stored_method(storage))


def show(report: EditReport, is_json: bool) -> None:
    """The report for people, or as one JSON object."""
    if is_json:
        write_json(report.to_dict())
    else:
        show_report(report)


def show_held(held: Mapping[str, Sequence[str]]) -> None:
    """The waves that the gate keeps from the ledger, and what to do."""
    for key, reasons in held.items():
        why = "; ".join(reasons) or "it was rejected"
        out.print(f"held       {key}: {why}", soft_wrap=True)
    if held:
        out.print("look at them: `scen candidates`; then `scen promote` or `scen reject`")


def show_report(report: EditReport) -> None:
    """The figures of the last wave, and where everything is."""
    if report.waves:
        out.print(report_table(report.waves[-1].evaluated["report"], "Last wave"))
    num_waves = len(report.waves) - len(report.held)
    out.print(
        f"{report.committed} edits in {num_waves} waves committed, "
        f"{report.superseded} older ones superseded, "
        f"{report.known} known before, {report.rejected} rejected, {report.seconds} s"
    )
    show_held(report.held)
    for remark in report.remarks:
        out.print(f"note       {remark}", soft_wrap=True)
    out.print(f"store      {report.store}  (version {report.version})", soft_wrap=True)
    if report.model:
        out.print(f"model      models:/{report.model}@champion", soft_wrap=True)
    if report.tracking_uri:
        out.print(f"MLflow     {ui_command(report.tracking_uri)}", soft_wrap=True)
