"""`scen eval`: how well does a version of the store answer, at the end of the stream?"""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from scen.cli.output import out, say, show_warnings, step_progress, write_json
from scen.cli.render import report_table
from scen.cli.settings import read_config, store_method
from scen.config import Config
from scen.errors import InputError, ScenError
from scen.evaluation.metrics import Outcome, summarise
from scen.evaluation.probes import edit_probes, locality_probes
from scen.evaluation.run_eval import run_eval
from scen.fs import Storage
from scen.ingest import Validator, ingest
from scen.ingest.prompts import read_prompts
from scen.records import Edit, digest_bytes
from scen.registry.actions import About, Rollback
from scen.registry.ledger import Ledger
from scen.registry.snapshot import Snapshot
from scen.samples import sample_path
from scen.snapshot.open import OpenStore, open_store
from scen.waves.evaluation_work import eval_limits, outcome_lines
from scen.waves.gate import broken_bounds

# The outcomes of edits and locality prompts on a snapshot of a store.
Measure = Callable[[OpenStore, Config, Snapshot, list[Edit], list[str]], list[Outcome]]


def run(args: argparse.Namespace) -> None:
    """Measure a version of a store."""
    evaluate(args, measure_here)


def evaluate(args: argparse.Namespace, measure: Measure) -> None:
    """Measure a version of a store; `measure` says where the work is done. Raises ScenError."""
    show_warnings()
    storage = Storage(args.store)
    config = read_config(args, store_method(storage))
    store = open_store(storage, config.base, say)
    snapshot = store.ledger.snapshot(args.version)
    edits = _wanted_edits(args, snapshot)
    locality_limit = config.evaluation.locality_limit if args.locality is None else None
    locality = read_prompts(args.locality or sample_path("nq_locality.jsonl"), locality_limit)
    outcomes = measure(store, config, snapshot, edits, locality)
    lines = outcome_lines(outcomes)
    path = f"evaluations/v{snapshot.version}-{digest_bytes(lines)[:12]}.jsonl"
    storage.put_new(path, lines)
    report: dict[str, Any] = asdict(summarise(outcomes))
    report |= {"version": snapshot.version, "per_edit_path": storage.child_uri(path)}
    if args.json:
        write_json(report)
    else:
        out.print(report_table(report, f"Version {snapshot.version}: {len(edits)} edits"))
        out.print(f"every probe  {report['per_edit_path']}", soft_wrap=True)
    if args.else_rollback is not None:
        guard(store.ledger, broken_bounds(report, config.waves), snapshot, args.else_rollback)


def guard(ledger: Ledger, reasons: list[str], measured: Snapshot, to: int) -> None:
    """Roll back where a bound is broken, unless others have committed since. Raises ScenError that
    tells of it."""
    if not reasons:
        return
    why = f"version {measured.version}: {'; '.join(reasons)}"
    version = ledger.act(Rollback(to, About(why)), measured.version).version
    raise ScenError(f"{why}; rolled back to {to} as version {version}")


def measure_here(
    store: OpenStore, config: Config, snapshot: Snapshot, edits: list[Edit], locality: list[str]
) -> list[Outcome]:
    """Measure in this process."""
    probes = [*edit_probes(edits), *locality_probes(locality)]
    with step_progress() as bars:
        return run_eval(
            store.base,
            store.edited_model(snapshot),
            snapshot.ids,
            probes,
            eval_limits(config),
            lambda done: bars("evaluate", done, len(probes)),
        )


def _wanted_edits(args: argparse.Namespace, snapshot: Snapshot) -> list[Edit]:
    """Those of the file, else all of the version."""
    if args.edits is None:
        return [entry.edit for entry in snapshot.entries][: args.limit]
    found: list[Edit] = []
    rejected = 0
    for batch in ingest(args.edits, Validator(), limit=args.limit):
        found.extend(batch.edits)
        rejected += len(batch.rejections)
    if rejected:
        say(f"{rejected} rows of {args.edits} are not usable and are not measured")
    if not found:
        raise InputError(f"--edits: {args.edits} holds no usable edit")
    return found
