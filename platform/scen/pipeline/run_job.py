"""From a job's spec to the work: what `scen edit`, `scen drain` and `scen eval` do here and
`python -m scen_jobs` does on a cluster."""

from collections.abc import Callable
from pathlib import Path

from scen.config import Config
from scen.fs import Storage
from scen.ledger.manifest import stored_method
from scen.pipeline.apply import EditJob, EditReport, apply_edits
from scen.pipeline.change import guard
from scen.pipeline.drain import Drained, DrainJob, drain_inbox
from scen.pipeline.evaluate import EvalJob, Evaluation, Measure, evaluate
from scen.pipeline.gate import broken_bounds
from scen.pipeline.job_spec import DrainSpec, EvalSpec, StreamSpec
from scen.pipeline.runtime import Runtime
from scen.snapshot.open import OpenStore, Say, open_store


def job_config(spec: StreamSpec | DrainSpec | EvalSpec) -> Config:
    """The settings of a job, with the method of its store. Raises ConfigError."""
    return spec.config(stored_method(Storage(spec.store)))


def edit_job(spec: StreamSpec) -> EditJob:
    """The file of a spec, and how it is to be read."""
    return EditJob(
        source=spec.edits,
        stream=spec.stream,
        data_format=spec.data_format,
        limit=spec.limit,
        strict=spec.strict,
        locality=spec.locality,
        is_tracked=spec.tracking,
        allow_null_text=spec.allow_null_text,
    )


def run_stream_spec(
    spec: StreamSpec, config: Config, runtime: Runtime
) -> tuple[EditReport, OpenStore]:
    """Train, evaluate and commit. Raises ScenError, also where no row is a usable edit."""
    job = edit_job(spec)
    report, store = apply_edits(job, Storage(spec.store), config, runtime)
    report.require_edits(job.name)
    return report, store


def run_drain_spec(
    spec: DrainSpec, config: Config, runtime: Runtime, show: Callable[[Drained], None]
) -> OpenStore:
    """Make waves of what arrives, and show each. Raises ScenError."""
    job = DrainJob(spec.stream, spec.locality, spec.tracking, spec.once)
    return drain_inbox(job, Storage(spec.store), config, show, runtime)


def run_eval_spec(
    spec: EvalSpec,
    config: Config,
    measure: Measure,
    show: Callable[[Evaluation], None],
    say: Say,
    *,
    weights: bool = True,
) -> OpenStore:
    """Evaluate a version and show it, then roll back where the spec says so and a bound is broken.
    `measure` says where the work is done; without `weights` that is elsewhere, and the base's are
    not loaded here. Raises ScenError, also after a rollback."""
    store = open_store(Storage(spec.store), config.base, say, weights=weights)
    snapshot = store.ledger.snapshot(spec.version)
    job = EvalJob(snapshot.version, spec.edits, spec.limit, spec.locality, spec.asking)
    evaluation = evaluate(store, config, job, measure)
    if evaluation.rejections:
        name = Path(spec.edits or "").name
        say(f"{len(evaluation.rejections)} rows of {name} cannot be used and are not evaluated")
    show(evaluation)
    if spec.else_rollback is not None:
        reasons = broken_bounds(evaluation.to_dict(), config.waves)
        guard(store.ledger, reasons, snapshot, spec.else_rollback)
    return store
