"""The history of a stream in MLflow: a run per wave, and a run with the curves over all waves."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scen.errors import ScenError
from scen.tracking.mlflow_client import default_artifact_root, open_client, open_experiment
from scen.tracking.run_content import (
    finite_metrics,
    log_content,
    log_metrics,
    run_name,
    run_tags,
)
from scen.tracking.wave_record import WaveRecord


class MlflowTracker:
    """Tells an MLflow store about waves. One tracker per stream may write at a time.

    Figures and tables go under `artifact_root`, else beside a sqlite file, else where the server
    keeps them. Raises ConfigError where the store cannot be opened.
    """

    def __init__(self, tracking_uri: str, artifact_root: str | Path | None = None) -> None:
        self.tracking_uri = tracking_uri
        self._client = open_client(tracking_uri)
        self._artifact_root = artifact_root or default_artifact_root(tracking_uri)

    def track_wave(self, record: WaveRecord) -> str:
        """Keep a committed wave and its point on the stream's curves; the id of its run.

        A wave that is there already is left as it is; a half-told one is told again from the
        start. Raises ScenError where MLflow refuses.
        """
        with self._translated(record):
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
            self._client.set_terminated(run_id)  # last: only a whole run is finished
            return run_id

    def _experiment_id(self, stream: str) -> str:
        name = f"stream/{stream}"
        location = None
        if self._artifact_root is not None:
            location = f"{str(self._artifact_root).rstrip('/')}/{stream}"
        return open_experiment(self._client, name, location)

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
        self._client.set_terminated(run_id)  # a stream has no end; a run that "runs" looks stuck

    def _has_point(self, run_id: str, name: str, step: int) -> bool:
        return any(point.step == step for point in self._client.get_metric_history(run_id, name))

    def _runs_tagged(self, experiment_id: str, tag: str, value: str) -> list[tuple[str, str]]:
        found = self._client.search_runs(
            [experiment_id], f"tags.`{tag}` = '{value}'", order_by=["attributes.start_time ASC"]
        )
        return [(str(run.info.run_id), str(run.info.status)) for run in found]

    @contextmanager
    def _translated(self, record: WaveRecord) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, OSError) as err:
            raise ScenError(
                f"tracking: MLflow at {self.tracking_uri} did not take wave {record.wave} of "
                f"{record.stream!r}: {err}. The wave itself is safe in the ledger; track it again"
            ) from err
