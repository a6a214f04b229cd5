"""A benchmark in MLflow: experiment `benchmark/NAME`, a run with charts, and one below it for each
method, so that MLflow can compare them."""

import json
from typing import TYPE_CHECKING

from scen.errors import ScenError
from scen.tracking.benchmark_figures import benchmark_figures
from scen.tracking.benchmark_record import BenchmarkRecord, MethodRecord
from scen.tracking.mlflow_client import default_artifact_root, open_client, open_experiment
from scen.tracking.run_content import log_metrics, log_params, table_json

if TYPE_CHECKING:
    from mlflow import MlflowClient


def track_benchmark(tracking_uri: str, record: BenchmarkRecord) -> str:
    """Keep a benchmark; the id of its run.

    Raises ConfigError where the store cannot be opened, ScenError where MLflow refuses.
    """
    client = open_client(tracking_uri)
    from mlflow.exceptions import MlflowException

    try:
        root = default_artifact_root(tracking_uri)
        location = None if root is None else str(root / "benchmark" / record.name)
        experiment_id = open_experiment(client, f"benchmark/{record.name}", location)
        run_id = _log_whole(client, experiment_id, record)
        for method in record.methods:
            _log_method(client, experiment_id, run_id, record, method)
    except (MlflowException, OSError) as err:
        raise ScenError(f"tracking: MLflow at {tracking_uri} did not take it: {err}") from err
    return run_id


def _log_whole(client: "MlflowClient", experiment_id: str, record: BenchmarkRecord) -> str:
    shown = [{"path": path, "type": "table"} for path in record.tables]
    tags = _tags("benchmark", record) | {"mlflow.loggedArtifacts": json.dumps(shown)}
    run = client.create_run(experiment_id, run_name=record.name, tags=tags)
    run_id = str(run.info.run_id)
    log_params(client, run_id, record.params)
    for path, rows in record.tables.items():
        client.log_text(run_id, table_json(rows), path)
    for path, text in record.files.items():
        client.log_text(run_id, text, path)
    for name, figure in benchmark_figures(record.methods).items():
        client.log_figure(run_id, figure, f"figures/{name}.png")
    client.set_terminated(run_id)
    return run_id


def _log_method(
    client: "MlflowClient",
    experiment_id: str,
    parent_id: str,
    record: BenchmarkRecord,
    method: MethodRecord,
) -> None:
    tags = _tags("method", record) | {"mlflow.parentRunId": parent_id}
    name = f"{method.method}, T={method.size}"
    run = client.create_run(experiment_id, run_name=name, tags=tags)
    run_id = str(run.info.run_id)
    about = {"method": method.method, "edits": str(method.size)}
    log_params(client, run_id, about | dict(method.params))
    log_metrics(client, run_id, [method.metrics], first_step=method.size)
    steps = [{"retention_by_tenth": share} for share in method.retention]
    log_metrics(client, run_id, steps, first_step=1)
    client.set_terminated(run_id)


def _tags(kind: str, record: BenchmarkRecord) -> dict[str, str]:
    return {"edit.kind": kind, "edit.base": record.base_name, "mlflow.source.name": "scen"}
