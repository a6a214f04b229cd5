"""Run a stream, drain, evaluation or calibration job from its spec, locally or on a worker."""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from scen.calibration.calibrate import Calibration, calibrate
from scen.calibration.figures import HeldFigures
from scen.calibration.fit_router import RouterPlan
from scen.calibration.quick import (
    QUICK,
    SAMPLES,
    QuickPlan,
    Recalibration,
    Sample,
    calibrate_quick,
    calibrate_store,
)
from scen.config import Config
from scen.data.files import locate_input
from scen.data.read import read_prompts
from scen.data.stream import ReadOptions, describe_rejections, read_edits
from scen.errors import ConfigError
from scen.fs import Storage
from scen.ledger.actions import About, Recalibrate, os_user
from scen.ledger.manifest import stored_method
from scen.ledger.tensors import save_bundle
from scen.model.base import Base, load_base
from scen.model.weights import EMBEDDED_NAME
from scen.pipeline.apply import EditJob, EditReport, apply_edits
from scen.pipeline.change import guard
from scen.pipeline.drain import Drained, DrainJob, drain_inbox
from scen.pipeline.evaluate import EvalJob, Evaluation, Measure, evaluate
from scen.pipeline.gate import broken_bounds
from scen.pipeline.job_spec import CalibrateSpec, DrainSpec, EvalSpec, StreamSpec
from scen.pipeline.runtime import Runtime, Steps
from scen.records import Edit, digest_json
from scen.samples import sample_path
from scen.snapshot.method import save_profile, summarise_figures
from scen.snapshot.open import OpenStore, Say, open_store
from scen.tracking.client import default_tracking_uri
from scen.tracking.studies import CalibrationRecord, track_calibration


def job_config(spec: StreamSpec | DrainSpec | EvalSpec) -> Config:
    """The settings of a job, with the method of its store. Raises ConfigError."""
    return spec.config(stored_method(Storage(spec.store)))


def edit_job(spec: StreamSpec) -> EditJob:
    """The source of a spec and how to read it."""
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
    """Train, evaluate and commit. Raises ScenError, also if no row is a usable edit."""
    job = edit_job(spec)
    report, store = apply_edits(job, Storage(spec.store), config, runtime)
    report.require_edits(job.name)
    return report, store


def run_drain_spec(
    spec: DrainSpec, config: Config, runtime: Runtime, show: Callable[[Drained], None]
) -> OpenStore:
    """Run waves of the edits that arrive, and show each. Raises ScenError."""
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
    """Evaluate a version and show it; roll back if the spec says so and a bound is broken.
    `measure` runs the probes; without `weights` they run elsewhere, and the base's weights are not
    loaded here. Raises ScenError, also after a rollback."""
    store = open_store(Storage(spec.store), config.base, say, weights=weights)
    snapshot = store.ledger.snapshot(spec.version)
    job = EvalJob(
        snapshot.version,
        spec.edits,
        spec.limit,
        spec.locality,
        spec.asking,
        spec.data_format,
        spec.allow_null_text,
    )
    evaluation = evaluate(store, config, job, measure)
    if evaluation.rejections:
        say(describe_rejections(evaluation.rejections, Path(spec.edits or "").name))
    show(evaluation)
    if spec.else_rollback is not None:
        reasons = broken_bounds(evaluation.to_dict(), config.waves)
        guard(store.ledger, reasons, snapshot, spec.else_rollback)
    return store


@dataclass(frozen=True)
class Calibrated:
    """A calibration, the path of its profile, and where it is tracked (None: nowhere)."""

    calibration: Calibration
    path: Path
    tracking_uri: str | None


def calibrate_base(
    spec: CalibrateSpec, say: Say, steps: Callable[[], AbstractContextManager[Steps]]
) -> Calibrated:
    """Load the base, calibrate it on the edits, write the profile and track it. Raises ConfigError,
    InputError, BaseError."""
    assert spec.out is not None
    path = profile_path(spec.out)
    for name in (*spec.edits, *([spec.locality] if spec.locality else [])):
        locate_input(name)  # before the base is loaded
    name = spec.base.name or EMBEDDED_NAME
    say(f"loading base {name}")
    base = load_base(
        name,
        template=spec.base.template,
        dtype=spec.base.dtype,
        device=spec.base.device,
        say=say,
    )
    edits, sources = _read_edits(spec, say)
    plan = RouterPlan(searches_places=spec.search_places)
    if spec.max_false_activation is not None:
        plan = replace(plan, bound=spec.max_false_activation)
    unrelated = read_prompts(spec.locality or sample_path("nq_neutral.jsonl"))
    with steps() as bars:
        if spec.quick:
            own = [edit for part in edits for edit in part]
            bound = spec.max_false_activation or QUICK.bound
            quick = QuickPlan.of(base, own)
            calibration = calibrate_quick(base, quick, replace(QUICK, bound=bound), bars)
        else:
            calibration = calibrate(base, edits, unrelated, {"edits": sources}, plan, bars)
    save_profile(calibration.profile, path)
    tracking_uri = default_tracking_uri(None) if spec.tracking else None
    if tracking_uri:
        track_calibration(tracking_uri, _record(base, calibration, sources, path))
    return Calibrated(calibration, path, tracking_uri)


@dataclass(frozen=True)
class Recalibrated:
    """A store's router, fitted again, and the version that routes with it (None: a dry run)."""

    recalibration: Recalibration
    version: int | None

    def to_dict(self) -> dict[str, Any]:
        """The figures before and after, as JSON types."""
        about = self.recalibration
        return {
            "version": self.version,
            "profile": dict(about.profile),
            "before": about.before.to_dict(),
            "after": about.after.to_dict(),
        }


def recalibrate_store(
    spec: CalibrateSpec,
    say: Say,
    steps: Callable[[], AbstractContextManager[Steps]],
    fit: RouterPlan = QUICK,
    samples: Sequence[Sample] = SAMPLES,
) -> Recalibrated:
    """Fit the router of a store on its active edits, and move the store to it by a commit of its
    own, unless it is a dry run. The bound is that of the spec, else of the current router. Raises
    ConfigError, also if the new router is worse."""
    assert spec.store is not None
    for name in spec.edits:
        locate_input(name)  # before the base is loaded
    store = open_store(Storage(spec.store), spec.base, say)
    more = [edit for part in _read_edits(spec, say)[0] for edit in part]
    bound = spec.max_false_activation
    if bound is None and (router := store.loader_at(store.ledger.snapshot()).router) is not None:
        bound = router.bound
    with steps() as bars:
        about = calibrate_store(store, more, replace(fit, bound=bound), bars, samples)
    if spec.dry_run:
        return Recalibrated(about, None)
    if about.is_worse and not spec.force:
        raise ConfigError(
            f"--store: the new router is worse on these edits: {figures_line(about.after)}, now "
            f"{figures_line(about.before)}; --force takes it all the same, --dry-run shows all"
        )
    digest = save_bundle(store.storage, about.router.tensors())
    who = About(spec.why, spec.who or os_user())
    action = Recalibrate(digest, json.dumps(dict(about.profile)), who)
    return Recalibrated(about, store.ledger.settle(action).version)


def figures_line(figures: HeldFigures) -> str:
    """The summary of a router's figures in a line."""
    summary = summarise_figures(figures.to_dict())
    return ", ".join(f"{_NAMES[name]} {100 * share:.1f} %" for name, share in summary.items())


_NAMES = {
    "rephrases": "rephrases routed to their edit",
    "near_misses": "near misses routed to none",
    "same_kind": "questions without an edit routed to none",
}


def profile_path(text: str) -> Path:
    """The path of --out with the suffix .json. Raises ConfigError for another suffix."""
    path = Path(text)
    if path.suffix not in ("", ".json"):
        raise ConfigError(f"--out: {text} must end with .json")
    return path.with_suffix(".json")


def _read_edits(spec: CalibrateSpec, say: Say) -> tuple[list[list[Edit]], list[dict[str, Any]]]:
    """The edits of each file, and the description of each file for the profile (without folder)."""
    edits: list[list[Edit]] = []
    sources = []
    for file in spec.edits:
        stop = None if spec.limit is None else spec.skip + spec.limit
        valid, rejections = read_edits(
            file, ReadOptions(spec.data_format, stop, spec.allow_null_text)
        )
        chosen = valid[spec.skip :]
        say(f"{len(chosen)} edits of {file}")
        if rejections:
            say(describe_rejections(rejections, Path(file).name))
        digest = digest_json([edit.digest for edit in chosen])
        sources.append({"file": Path(file).name, "edits": len(chosen), "sha256": digest})
        edits.append(chosen)
    return edits, sources


def _record(
    base: Base, calibration: Calibration, sources: list[dict[str, Any]], path: Path
) -> CalibrationRecord:
    profile, figures, places = calibration.profile, calibration.figures, calibration.places
    top1: dict[str, dict[int, float]] = {}
    for place, value in places.top1.items() if places else ():
        top1.setdefault(place.kind, {})[place.layer] = value
    metrics = figures.metrics() | {
        f"calibration/expert_{name}": value for name, value in profile.calibration["expert"].items()
    }
    return CalibrationRecord(
        base_name=base.name,
        params={f"expert.{name}": value for name, value in profile.expert.items()}
        | {"router.places": " ".join(place.name for place in profile.router.encoder.places)}
        | {"router.max_false_activation": str(figures.bound)}
        | {f"edits.{source['file']}": source["edits"] for source in sources},
        metrics=metrics,
        curve=figures.curve,
        bound=figures.bound,
        top1_by_depth=top1,
        places=[
            {"keys": " ".join(place.name for place in step.places), "found": step.recall}
            for step in (places.steps if places else ())
        ],
        trials=[asdict(trial) for trial in calibration.trials],
        files=[path, path.with_suffix(".safetensors")],
    )
