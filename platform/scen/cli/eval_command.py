"""`scen eval`: how well does a version of the store answer, at the end of the stream?"""

import argparse

from scen.cli.output import out, say, show_warnings, write_json
from scen.cli.render import asking_table, report_table
from scen.cli.runtime import RUNTIME
from scen.cli.settings import read_config
from scen.fs import Storage
from scen.ledger.manifest import stored_method
from scen.pipeline.change import guard
from scen.pipeline.evaluate import EvalJob, Evaluation, Measure, evaluate, measure_here
from scen.pipeline.gate import broken_bounds
from scen.snapshot.open import OpenStore, open_store


def run(args: argparse.Namespace) -> None:
    """Measure a version of a store."""
    measure_version(args, measure_here(RUNTIME))


def measure_version(
    args: argparse.Namespace, measure: Measure, *, weights: bool = True
) -> OpenStore:
    """Measure a version of a store; `measure` says where the work is done, and needs no `weights`
    of the base here where that is elsewhere. Raises ScenError."""
    show_warnings()
    storage = Storage(args.store)
    config = read_config(args, stored_method(storage))
    store = open_store(storage, config.base, say, weights=weights)
    snapshot = store.ledger.snapshot(args.version)
    job = EvalJob(snapshot.version, args.edits, args.limit, args.locality, args.asking)
    found = evaluate(store, config, job, measure)
    if found.rejections:
        say(f"{len(found.rejections)} rows of {args.edits} are not usable and are not measured")
    _show(found, args.json)
    if args.else_rollback is not None:
        reasons = broken_bounds(found.to_dict(), config.waves)
        guard(store.ledger, reasons, snapshot, args.else_rollback)
    return store


def _show(found: Evaluation, is_json: bool) -> None:
    report = found.to_dict()
    if is_json:
        write_json(report)
        return
    out.print(report_table(report, f"Version {found.version}: {found.figures.n_edits} edits"))
    if report["asking"]:
        out.print(asking_table(report["asking"]))
    out.print(f"every probe  {report['per_edit_path']}", soft_wrap=True)
