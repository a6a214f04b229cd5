"""Calibrations (`calibration/BASE`) and benchmarks (`benchmark/NAME`) as MLflow runs.

A benchmark is a run with charts, and below it a run per method, so that MLflow can compare them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scen.tracking.client import (
    default_artifact_root,
    log_metrics,
    log_params,
    log_tables,
    mlflow_errors,
    open_client,
    open_experiment,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True, slots=True)
class CalibrationRecord:
    """A calibration of `base_name`.

    `curve` holds points (false-positive rate on hard negatives, share of rephrases that reach their
    edit); `bound` is the false-positive rate that was requested. `top1_by_depth` maps a kind of key
    (mean, last) to its share of right answers by layer; it is empty if the search over key
    places was skipped, as is `places` (sets of keys with their top-1 shares). `trials` are the
    expert settings that were tried; both are rows of tables. `files` are kept as artifacts.
    """

    base_name: str
    params: Mapping[str, str | int | float | bool]
    metrics: Mapping[str, float]
    curve: Sequence[tuple[float, float]]
    bound: float | None
    top1_by_depth: Mapping[str, Mapping[int, float]]
    places: Sequence[Mapping[str, object]]
    trials: Sequence[Mapping[str, object]]
    files: Sequence[Path]


@dataclass(frozen=True, slots=True)
class MethodRecord:
    """A method on `size` edits: its settings, its metrics by name, and its reliability by tenth of
    the stream (shares; empty if not measured)."""

    method: str
    size: int
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    retention: Sequence[float]


@dataclass(frozen=True, slots=True)
class BenchmarkRecord:
    """A benchmark of `base_name`. `files` are texts by path, kept as artifacts; `tables` are rows
    of tables by path."""

    name: str
    base_name: str
    params: Mapping[str, str]
    methods: Sequence[MethodRecord]
    files: Mapping[str, str]
    tables: Mapping[str, Sequence[Mapping[str, object]]]


def track_calibration(tracking_uri: str, record: CalibrationRecord) -> str:
    """Log a calibration with its figures, tables and files; returns the id of its run.

    Raises ConfigError if the store cannot be opened, ScenError for an error of MLflow.
    """
    from scen.tracking.study_figures import calibration_figures

    client = open_client(tracking_uri)
    with mlflow_errors(f"tracking: MLflow at {tracking_uri} did not take it"):
        root = default_artifact_root(tracking_uri)
        location = None if root is None else str(root / "calibration")
        experiment_id = open_experiment(client, f"calibration/{record.base_name}", location)
        tags = _tags("calibration", record.base_name)
        run_id = _create_run(client, experiment_id, "calibration", tags)
        log_params(client, run_id, record.params)
        log_metrics(client, run_id, [record.metrics], first_step=0)
        places = {"places.json": record.places} if record.places else {}
        log_tables(client, run_id, places | {"expert_trials.json": record.trials})
        for name, figure in calibration_figures(record).items():
            client.log_figure(run_id, figure, f"figures/{name}.png")
        for file in record.files:
            client.log_artifact(run_id, str(file), "profile")
        client.set_terminated(run_id)
        return run_id


def track_benchmark(tracking_uri: str, record: BenchmarkRecord) -> str:
    """Log a benchmark; returns the id of its run.

    Raises ConfigError if the store cannot be opened, ScenError for an error of MLflow.
    """
    from scen.tracking.study_figures import benchmark_figures

    client = open_client(tracking_uri)
    with mlflow_errors(f"tracking: MLflow at {tracking_uri} did not take it"):
        root = default_artifact_root(tracking_uri)
        location = None if root is None else str(root / "benchmark" / record.name)
        experiment_id = open_experiment(client, f"benchmark/{record.name}", location)
        tags = _tags("benchmark", record.base_name)
        run_id = _create_run(client, experiment_id, record.name, tags)
        log_params(client, run_id, record.params)
        log_tables(client, run_id, record.tables)
        for path, text in record.files.items():
            client.log_text(run_id, text, path)
        for name, figure in benchmark_figures(record.methods).items():
            client.log_figure(run_id, figure, f"figures/{name}.png")
        client.set_terminated(run_id)
        below = _tags("method", record.base_name) | {"mlflow.parentRunId": run_id}
        for method in record.methods:
            _log_method(client, experiment_id, below, method)
        return run_id


def _log_method(
    client: "MlflowClient", experiment_id: str, tags: dict[str, str], method: MethodRecord
) -> None:
    name = f"{method.method}, T={method.size}"
    run_id = _create_run(client, experiment_id, name, tags)
    about = {"method": method.method, "edits": str(method.size)}
    log_params(client, run_id, about | dict(method.params))
    log_metrics(client, run_id, [method.metrics], first_step=method.size)
    steps = [{"retention_by_tenth": share} for share in method.retention]
    log_metrics(client, run_id, steps, first_step=1)
    client.set_terminated(run_id)


def _create_run(client: "MlflowClient", experiment_id: str, name: str, tags: dict[str, str]) -> str:
    return str(client.create_run(experiment_id, run_name=name, tags=tags).info.run_id)


def _tags(kind: str, base_name: str) -> dict[str, str]:
    return {"edit.kind": kind, "edit.base": base_name, "mlflow.source.name": "scen"}
