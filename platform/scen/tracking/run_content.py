"""What a wave's MLflow run holds: parameters, metrics, a table, figures and its data set."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from scen.tracking.figures import (
    before_after_figure,
    before_after_pairs,
    loss_figure,
)
from scen.tracking.loss_curves import finite_curves, loss_summary
from scen.tracking.wave_record import WaveRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient

TABLE_FILE = "per_edit.json"
_DIGEST_LENGTH = 36  # what MLflow's database has room for
_METRICS_PER_CALL, _PARAMS_PER_CALL = 1000, 100  # limits of log_batch


def run_name(wave: int) -> str:
    """The name of a wave's run: wave-0042."""
    return f"wave-{wave:04d}"


def run_tags(record: WaveRecord) -> dict[str, str]:
    """The tags that a wave's run is found by and shown with."""
    tags = {
        "edit.kind": "wave",
        "edit.stream": record.stream,
        "edit.wave": str(record.wave),
        "edit.wave_key": record.wave_key,
        "edit.ledger_version": str(record.ledger_version),
        "edit.base": record.base_name,
        "mlflow.source.name": "scen",
    }
    if record.per_edit:  # makes the page show the file as a table
        table = [{"path": TABLE_FILE, "type": "table"}]
        tags["mlflow.loggedArtifacts"] = json.dumps(table)
    return tags


def finite_metrics(record: WaveRecord) -> dict[str, float]:
    """The wave's metrics that are numbers, and its size. NaN (nothing measured) is left out."""
    known = {name: float(value) for name, value in record.metrics.items() if math.isfinite(value)}
    return {"wave/num_edits": float(record.num_edits)} | known


def log_content(client: "MlflowClient", run_id: str, record: WaveRecord) -> None:
    """Everything about a wave into its run."""
    log_params(client, run_id, record.params)
    log_metrics(client, run_id, [finite_metrics(record)], first_step=record.wave)
    log_metrics(client, run_id, loss_summary(record.loss_curves), first_step=0)
    _log_dataset(client, run_id, record)
    if record.per_edit:
        client.log_text(run_id, table_json(record.per_edit), TABLE_FILE)
    wave = f"{record.stream}, wave {record.wave}"
    if finite_curves(record.loss_curves):
        figure = loss_figure(record.loss_curves, f"Training loss: {wave}")
        client.log_figure(run_id, figure, "figures/loss_curves.png")
    pairs = before_after_pairs(finite_metrics(record))
    if pairs:
        figure = before_after_figure(pairs, f"Before and after: {wave}")
        client.log_figure(run_id, figure, "figures/before_after.png")


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
    for start in range(0, len(metrics), _METRICS_PER_CALL):
        client.log_batch(run_id, metrics=metrics[start : start + _METRICS_PER_CALL])


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
