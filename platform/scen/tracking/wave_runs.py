"""The history of a stream in MLflow: a run per wave, and one run with the curves over all waves."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scen.tracking.client import (
    Tracker,
    WaveRecord,
    default_artifact_root,
    is_server,
    log_batches,
    log_metrics,
    log_params,
    log_tables,
    mlflow_errors,
    open_client,
    open_experiment,
)
from scen.tracking.summaries import (
    asking_table,
    by_age,
    loss_summary,
    operating_curve,
    record_outcomes,
    route_table,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

_DIGEST_LENGTH = 36  # the size of MLflow's database column


def open_tracker(tracking_uri: str) -> Tracker:
    """The tracker at a URI. A file is opened at once, which raises ConfigError on failure; a server
    is opened by the first wave, since it must not stop a run while it is down."""
    return ServerTracker(tracking_uri) if is_server(tracking_uri) else MlflowTracker(tracking_uri)


class ServerTracker:
    """An MLflow server that may be down now and up later."""

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = tracking_uri
        self._tracker: MlflowTracker | None = None

    def track_wave(self, record: WaveRecord) -> str:
        """As `MlflowTracker` does. Raises ScenError while the server does not answer."""
        if self._tracker is None:
            self._tracker = MlflowTracker(self.tracking_uri)
        return self._tracker.track_wave(record)


class MlflowTracker:
    """Writes waves to an MLflow store. One tracker per stream may write at a time.

    Figures and tables go under `artifact_root`, by default next to a sqlite file, or where the
    server keeps them. Raises ConfigError if the store cannot be opened.
    """

    def __init__(self, tracking_uri: str, artifact_root: str | Path | None = None) -> None:
        self.tracking_uri = tracking_uri
        self._client = open_client(tracking_uri)
        self._artifact_root = artifact_root or default_artifact_root(tracking_uri)

    def track_wave(self, record: WaveRecord) -> str:
        """Log a committed wave and its point on the stream's curves; returns the id of its run.

        A wave with a finished run is skipped; an unfinished run is deleted and written again.
        Raises ScenError for an error of MLflow.
        """
        failure = (
            f"tracking: MLflow at {self.tracking_uri} did not take wave {record.wave} of "
            f"{record.stream!r}"
        )
        with mlflow_errors(failure, "The wave itself is safe in the ledger; track it again"):
            experiment_id = self._experiment_id(record.stream)
            finished = self._finished_run(experiment_id, record.wave_key)
            if finished is not None:
                return finished
            run = self._client.create_run(
                experiment_id, run_name=run_name(record.wave), tags=run_tags(record)
            )
            run_id = str(run.info.run_id)
            log_content(self._client, run_id, record)
            self._extend_curves(experiment_id, record)
            self._client.set_terminated(run_id)  # last: only a complete run is finished
            return run_id

    def _experiment_id(self, stream: str) -> str:
        location = None
        if self._artifact_root is not None:
            location = f"{str(self._artifact_root).rstrip('/')}/{stream}"
        return open_experiment(self._client, f"stream/{stream}", location)

    def _finished_run(self, experiment_id: str, wave_key: str) -> str | None:
        finished = None
        for run_id, status in self._runs_tagged(experiment_id, "edit.wave_key", wave_key):
            if status == "FINISHED":
                finished = run_id
            else:
                self._client.delete_run(run_id)
        return finished

    def _extend_curves(self, experiment_id: str, record: WaveRecord) -> None:
        runs = self._runs_tagged(experiment_id, "edit.kind", "stream")
        if runs:
            run_id = runs[0][0]
        else:
            tags = {"edit.kind": "stream", "edit.stream": record.stream}
            tags |= {"edit.base": record.base_name, "mlflow.source.name": "scen"}
            run = self._client.create_run(experiment_id, run_name="stream", tags=tags)
            run_id = str(run.info.run_id)
        missing = {
            name: value
            for name, value in finite_metrics(record).items()
            if not self._has_point(run_id, name, record.wave)
        }
        log_metrics(self._client, run_id, [missing], first_step=record.wave)
        self._client.set_terminated(run_id)  # a stream has no end, but an active run looks stuck

    def _has_point(self, run_id: str, name: str, step: int) -> bool:
        return any(point.step == step for point in self._client.get_metric_history(run_id, name))

    def _runs_tagged(self, experiment_id: str, tag: str, value: str) -> list[tuple[str, str]]:
        runs = self._client.search_runs(
            [experiment_id], f"tags.`{tag}` = '{value}'", order_by=["attributes.start_time ASC"]
        )
        return [(str(run.info.run_id), str(run.info.status)) for run in runs]


def run_name(wave: int) -> str:
    """The name of a wave's run: wave-0042."""
    return f"wave-{wave:04d}"


def run_tags(record: WaveRecord) -> dict[str, str]:
    """The tags for finding and listing a wave's run."""
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
    """The finite metrics of a wave, and its size. NaN (not measured) is left out."""
    known = {name: float(value) for name, value in record.metrics.items() if math.isfinite(value)}
    return {"wave/num_edits": float(record.num_edits)} | known


def wave_tables(record: WaveRecord) -> dict[str, Sequence[Mapping[str, object]]]:
    """Rows by file name, of the tables that are not empty."""
    outcomes = record_outcomes(record)
    tables: dict[str, Sequence[Mapping[str, object]]] = {
        "per_edit.json": record.per_edit,
        "routes.json": route_table(outcomes),
        "routing_operating_curve.json": operating_curve(outcomes, record.threshold),
        "ways_of_asking.json": asking_table(outcomes),
    }
    return {name: table for name, table in tables.items() if table}


def log_content(client: "MlflowClient", run_id: str, record: WaveRecord) -> None:
    """Log everything about a wave to its run."""
    from scen.tracking.figures import wave_figures  # matplotlib takes a second to import

    metrics = finite_metrics(record)
    log_params(client, run_id, record.params)
    log_metrics(client, run_id, [metrics], first_step=record.wave)
    log_metrics(client, run_id, loss_summary(record.loss_curves), first_step=0)
    ages = [{"eval/retention_by_age": group.share} for group in by_age(record_outcomes(record))]
    log_metrics(client, run_id, ages, first_step=1)
    _log_system(client, run_id, record.system)
    _log_dataset(client, run_id, record)
    log_tables(client, run_id, wave_tables(record))
    for name, figure in wave_figures(record, metrics).items():
        client.log_figure(run_id, figure, f"figures/{name}.png")


def _log_system(
    client: "MlflowClient", run_id: str, samples: Sequence[Mapping[str, float]]
) -> None:
    """Log samples like MLflow's own system monitor, each with its own time."""
    from mlflow.entities import Metric

    metrics = [
        Metric(f"system/{name}", value, int(1000 * sample["at"]), step)
        for step, sample in enumerate(samples)
        for name, value in sample.items()
        if name != "at"
    ]
    log_batches(client, run_id, metrics)


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
