"""What a wave's MLflow run holds: parameters, metrics, tables, figures and its data set."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from scen.tracking.loss_curves import loss_summary
from scen.tracking.probe_rows import by_age
from scen.tracking.wave_record import WaveRecord
from scen.tracking.wave_views import wave_figures, wave_tables

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

_DIGEST_LENGTH = 36  # what MLflow's database has room for
_METRICS_PER_CALL, _PARAMS_PER_CALL = 1000, 100  # limits of log_batch


def run_name(wave: int) -> str:
    """The name of a wave's run: wave-0042."""
    return f"wave-{wave:04d}"


def run_tags(record: WaveRecord) -> dict[str, str]:
    """The tags that a wave's run is found by and shown with."""
    return {
        "edit.kind": "wave",
        "edit.stream": record.stream,
        "edit.wave": str(record.wave),
        "edit.wave_key": record.wave_key,
        "edit.ledger_version": str(record.ledger_version),
        "edit.base": record.base_name,
        "mlflow.source.name": "scen",
    }


def finite_metrics(record: WaveRecord) -> dict[str, float]:
    """The wave's metrics that are numbers, and its size. NaN (nothing measured) is left out."""
    known = {name: float(value) for name, value in record.metrics.items() if math.isfinite(value)}
    return {"wave/num_edits": float(record.num_edits)} | known


def log_content(client: "MlflowClient", run_id: str, record: WaveRecord) -> None:
    """Everything about a wave into its run."""
    metrics = finite_metrics(record)
    log_params(client, run_id, record.params)
    log_metrics(client, run_id, [metrics], first_step=record.wave)
    log_metrics(client, run_id, loss_summary(record.loss_curves), first_step=0)
    ages = [{"eval/retention_by_age": group.share} for group in by_age(record.per_edit)]
    log_metrics(client, run_id, ages, first_step=1)
    _log_system(client, run_id, record.system)
    _log_dataset(client, run_id, record)
    _log_tables(client, run_id, wave_tables(record))
    for name, figure in wave_figures(record, metrics).items():
        client.log_figure(run_id, figure, f"figures/{name}.png")


def log_metrics(
    client: "MlflowClient", run_id: str, steps: Sequence[Mapping[str, float]], first_step: int
) -> None:
    """Metrics of consecutive steps, in as few calls as MLflow allows."""
    from mlflow.entities import Metric

    now_ms = int(time.time() * 1000)
    metrics = [
        Metric(name, value, now_ms, step)
        for step, values in enumerate(steps, start=first_step)
        for name, value in values.items()
    ]
    _log_batches(client, run_id, metrics)


def table_json(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows in the form of MLflow's tables. Unlike its own writer this keeps integers whole.

    Columns stand in order of first appearance; what a row lacks, and NaN, is null.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = {"columns": columns, "data": [[row.get(name) for name in columns] for row in rows]}
    plain = json.loads(json.dumps(table, default=str), parse_constant=lambda _: None)
    return json.dumps(plain, ensure_ascii=False)


def log_params(
    client: "MlflowClient", run_id: str, params: Mapping[str, str | int | float | bool]
) -> None:
    """Parameters, in as few calls as MLflow allows."""
    from mlflow.entities import Param

    entities = [Param(name, str(value)) for name, value in params.items()]
    for start in range(0, len(entities), _PARAMS_PER_CALL):
        client.log_batch(run_id, params=entities[start : start + _PARAMS_PER_CALL])


def _log_batches(client: "MlflowClient", run_id: str, metrics: "Sequence[Metric]") -> None:
    for start in range(0, len(metrics), _METRICS_PER_CALL):
        client.log_batch(run_id, metrics=metrics[start : start + _METRICS_PER_CALL])


def _log_system(
    client: "MlflowClient", run_id: str, samples: Sequence[Mapping[str, float]]
) -> None:
    """Samples as MLflow's own monitor would have logged them, each at its own time."""
    from mlflow.entities import Metric

    metrics = [
        Metric(f"system/{name}", value, int(1000 * sample["at"]), step)
        for step, sample in enumerate(samples)
        for name, value in sample.items()
        if name != "at"
    ]
    _log_batches(client, run_id, metrics)


def _log_tables(
    client: "MlflowClient", run_id: str, tables: Mapping[str, Sequence[Mapping[str, object]]]
) -> None:
    """Tables as files, and the tag that makes the page show them as tables."""
    for path, rows in tables.items():
        client.log_text(run_id, table_json(rows), path)
    if tables:
        shown = [{"path": path, "type": "table"} for path in tables]
        client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps(shown))


def _log_dataset(client: "MlflowClient", run_id: str, record: WaveRecord) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=f"{record.stream}-{run_name(record.wave)}",
        digest=record.dataset_digest[:_DIGEST_LENGTH],
        source_type="scen",
        source=json.dumps({"stream": record.stream, "digest": record.dataset_digest}),
        profile=json.dumps({"num_edits": record.num_edits}),
    )
    tag = InputTag("mlflow.data.context", "editing")
    client.log_inputs(run_id, datasets=[DatasetInput(dataset, [tag])])
