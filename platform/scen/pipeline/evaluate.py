"""Evaluate a version of a store, at the end of the stream."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from scen.config import Config
from scen.data import Rejection
from scen.data.read import Source, describe_source, read_prompts
from scen.data.stream import ReadOptions, describe_rejections, read_edits
from scen.errors import InputError
from scen.evaluation.metrics import EvalReport, Outcome, summarise
from scen.evaluation.run_eval import run_eval
from scen.ledger.state import Snapshot
from scen.pipeline.evaluation_work import (
    AskingShare,
    EvaluationTask,
    eval_limits,
    outcome_lines,
    task_probes,
)
from scen.pipeline.plan import Wave
from scen.pipeline.runtime import Runtime
from scen.records import Edit, digest_bytes
from scen.samples import sample_path
from scen.snapshot.open import OpenStore

# Runs a task on a store and returns its outcomes.
Measure = Callable[[OpenStore, Config, EvaluationTask], list[Outcome]]


@dataclass(frozen=True)
class EvalJob:
    """What to evaluate: a version (None: the newest) on its edits, or on those of a `source`, at
    most `limit` of them, and on the prompts of the file `locality` (None: a sample), which no edit
    may change. With `asking`, each edit is asked in all ways of asking. `data_format` and
    `allow_null_text` apply to the source (see `ReadOptions`)."""

    version: int | None = None
    source: Source | None = None
    limit: int | None = None
    locality: str | None = None
    asking: bool = False
    data_format: str = "auto"
    allow_null_text: bool = False


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of a version. `figures` are shares between 0 and 1 (see `EvalReport`),
    `outcomes` the probes behind them, which are also stored as JSON lines at `per_edit_path`.
    `rejections` are rows of the source that could not be used. `advice` says when fitting the
    router again is worth it."""

    version: int
    figures: EvalReport
    outcomes: list[Outcome]
    per_edit_path: str
    rejections: list[Rejection] = field(default_factory=list)
    advice: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, without the probes."""
        origin = {
            "version": self.version,
            "per_edit_path": self.per_edit_path,
            "advice": self.advice,
        }
        return asdict(self.figures) | origin


def evaluate(store: OpenStore, config: Config, job: EvalJob, measure: Measure) -> Evaluation:
    """Evaluate a version of a store; `measure` runs the probes. Raises ScenError."""
    snapshot = store.ledger.snapshot(job.version)
    edits, rejections = _select_edits(job, snapshot)
    limit = config.evaluation.locality_limit if job.locality is None else None
    locality = read_prompts(job.locality or sample_path("nq_locality.jsonl"), limit)
    wave = Wave("eval", snapshot.version, tuple(edits), {})
    ways: AskingShare = "all" if job.asking else "none"
    task = EvaluationTask(wave, None, tuple(locality), snapshot.version, asking=ways)
    outcomes = measure(store, config, task)
    lines = outcome_lines(outcomes)
    path = f"evaluations/v{snapshot.version}-{digest_bytes(lines)[:12]}.jsonl"
    store.storage.put_new(path, lines)
    uri = store.storage.child_uri(path)
    figures = summarise(outcomes)
    advice = advise(store, snapshot, figures)
    return Evaluation(snapshot.version, figures, outcomes, uri, rejections, advice)


_MANY_TIMES = 3  # as many edits as the router was fitted on
_LEAST = 50  # probes or edits below which a figure says little
_CLEARLY = 0.05  # below what was measured when the router was fitted


def advise(store: OpenStore, snapshot: Snapshot, figures: EvalReport) -> str | None:
    """Why the router of a store should be fitted on the store's own edits, and how; None if there
    is no reason."""
    if not store.method.kind.has_router:
        return None
    profile = store.ledger.profile(snapshot)
    own = sum(bool(entry.edit.rephrases) for entry in snapshot.entries)
    reasons = list(_shortfalls(profile.get("figures", {}), figures))
    if profile.get("how") == "none" and own >= _LEAST:
        reasons.append("its router was never calibrated")
    elif own >= max(_LEAST, _MANY_TIMES * int(profile.get("edits", 0))) and "edits" in profile:
        reasons.append(f"its router was fitted on {profile['edits']} edits")
    if not reasons or own < _LEAST:
        return None
    command = f"scen calibrate --store {store.storage.uri} --dry-run"
    return f"{'; '.join(reasons)}; the store has {own} edits with rephrases: try `{command}`"


def _shortfalls(expected: Mapping[str, float], figures: EvalReport) -> Iterator[str]:
    """Where the routing of rephrases and near misses is clearly worse than expected."""
    routing = figures.routing
    measured = {
        "rephrases": routing.get("rephrase_to_own_edit"),
        "near_misses": None
        if "false_activation_near_miss" not in routing
        else 1 - routing["false_activation_near_miss"],
    }
    rephrases = sum(n for name, n in figures.counts.items() if name.startswith("generality_"))
    counts = {"rephrases": rephrases, "near_misses": figures.counts["near_miss"]}
    for name, share in measured.items():
        if share is None or name not in expected or counts[name] < _LEAST:
            continue
        if share < expected[name] - _CLEARLY:
            what = name.replace("_", " ")
            yield (
                f"{100 * share:.1f} % of {what} are routed rightly, {100 * expected[name]:.1f} % "
                "were when the router was fitted"
            )


def measure_here(runtime: Runtime) -> Measure:
    """Measure in this process."""

    def measure(store: OpenStore, config: Config, task: EvaluationTask) -> list[Outcome]:
        snapshot, probes = store.ledger.snapshot(task.version), task_probes(task, config, store)
        with runtime.steps() as steps:
            return run_eval(
                store.base,
                store.edited_model(snapshot),
                snapshot.ids,
                probes,
                eval_limits(config),
                lambda done: steps("evaluate", done, len(probes)),
            )

    return measure


def _select_edits(job: EvalJob, snapshot: Snapshot) -> tuple[list[Edit], list[Rejection]]:
    """The edits of the source, else those of the version, and the rejected rows."""
    if job.source is None:
        return [entry.edit for entry in snapshot.entries][: job.limit], []
    options = ReadOptions(job.data_format, job.limit, job.allow_null_text)
    edits, rejections = read_edits(job.source, options)
    if not edits:
        name = describe_source(job.source)
        reason = f": {describe_rejections(rejections, name)}" if rejections else ""
        raise InputError(f"edits: {name} holds no usable edit{reason}")
    return edits, rejections
