"""`scen eval`: how well does a version of the store answer, at the end of the stream?"""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from scen.cli.output import out, say, show_warnings, step_progress, write_json
from scen.cli.render import asking_table, report_table
from scen.cli.settings import read_config, store_method
from scen.config import Config
from scen.errors import ConfigError, InputError, ScenError
from scen.evaluation.metrics import Outcome, summarise
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
from scen.waves.evaluation_work import (
    AskingShare,
    EvaluationTask,
    eval_limits,
    outcome_lines,
    task_probes,
)
from scen.waves.gate import broken_bounds
from scen.waves.plan import Wave

# The outcomes of a task on a store.
Measure = Callable[[OpenStore, Config, EvaluationTask], list[Outcome]]


def run(args: argparse.Namespace) -> None:
    """Measure a version of a store."""
    evaluate(args, measure_here)


def evaluate(args: argparse.Namespace, measure: Measure, *, weights: bool = True) -> OpenStore:
    """Measure a version of a store; `measure` says where the work is done, and needs no `weights`
    of the base here where that is elsewhere. Raises ScenError."""
    show_warnings()
    storage = Storage(args.store)
    config = read_config(args, store_method(storage))
    store = open_store(storage, config.base, say, weights=weights)
    snapshot = store.ledger.snapshot(args.version)
    edits = _wanted_edits(args, snapshot)
    locality_limit = config.evaluation.locality_limit if args.locality is None else None
    locality = read_prompts(args.locality or sample_path("nq_locality.jsonl"), locality_limit)
    wave = Wave("eval", snapshot.version, tuple(edits), {})
    ways: AskingShare = "all" if args.asking else "none"
    task = EvaluationTask(wave, None, tuple(locality), snapshot.version, asking=ways)
    outcomes = measure(store, config, task)
    lines = outcome_lines(outcomes)
    path = f"evaluations/v{snapshot.version}-{digest_bytes(lines)[:12]}.jsonl"
    storage.put_new(path, lines)
    report: dict[str, Any] = asdict(summarise(outcomes))
    report |= {"version": snapshot.version, "per_edit_path": storage.child_uri(path)}
    if args.json:
        write_json(report)
    else:
        out.print(report_table(report, f"Version {snapshot.version}: {len(edits)} edits"))
        if report["asking"]:
            out.print(asking_table(report["asking"]))
        out.print(f"every probe  {report['per_edit_path']}", soft_wrap=True)
    if args.else_rollback is not None:
        guard(store.ledger, broken_bounds(report, config.waves), snapshot, args.else_rollback)
    return store


def guard(ledger: Ledger, reasons: list[str], measured: Snapshot, to: int | str) -> None:
    """Roll back to a version, or to the previous one, where a bound is broken and nobody has
    committed since. Raises ScenError that tells of it."""
    if not reasons:
        return
    why = f"version {measured.version}: {'; '.join(reasons)}"
    try:
        target = to if isinstance(to, int) else previous_version(ledger, measured)
    except ConfigError as err:
        raise ScenError(f"{why}; not rolled back: {err}") from err
    done = ledger.act(Rollback(target, About(why)), measured.version)
    how = "already as at" if done.already_committed else "rolled back to"
    raise ScenError(f"{why}; {how} {target} as version {done.version}")


def previous_version(ledger: Ledger, measured: Snapshot) -> int:
    """The version before the newest wave of which an edit is active. Raises ConfigError where there
    is none, or where it would bring back what was taken away since for a reason of its own."""
    newest = max((entry.version for entry in measured.entries), default=0)
    if newest == 0:
        raise ConfigError("no edit is active")
    gone, plan = measured.state.gone, ledger.plan(Rollback(newest - 1))
    back = [event.edit_id for event in plan if event.kind == "restored" and event.edit_id in gone]
    unwanted = [name for name in back if gone[name].status != "superseded"]
    if unwanted:
        raise ConfigError(
            f"version {newest - 1} would bring back {unwanted[:5]}, revoked or expired since; "
            "`scen revoke` the newest edits, or `scen rollback` to a version of your choice"
        )
    return newest - 1


def measure_here(store: OpenStore, config: Config, task: EvaluationTask) -> list[Outcome]:
    """Measure in this process."""
    snapshot, probes = store.ledger.snapshot(task.version), task_probes(task, config, store)
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
