"""What waves need of a tracker, and the connection to MLflow. Loads nothing heavy."""

import json
import logging
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from scen.errors import ConfigError, ScenError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric


# Read by MLflow: no telemetry, no printing into our output, and timeouts of seconds, not minutes,
# for a server that is down.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_UV_AUTO_DETECT": "false",  # else a uv.lock of the cwd would go into each logged model
}
_METRICS_PER_CALL, _PARAMS_PER_CALL = 1000, 100  # limits of log_batch

ExperimentKind = Literal["training", "traces"]
# Decides which page MLflow opens. Without it MLflow guesses, and may open an empty trace overview.
_KIND_TAG = "mlflow.experimentKind"
_KINDS: dict[ExperimentKind, str] = {
    "training": "custom_model_development",  # "Machine learning": opens on runs
    "traces": "genai_development",
}


def default_tracking_uri(store_path: Path | None) -> str:
    """MLFLOW_TRACKING_URI if set, else a sqlite file in the local store, else in the cwd."""
    from_environment = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if from_environment:
        return from_environment
    if store_path is None:
        return "sqlite:///mlflow.db"
    return f"sqlite:///{store_path.resolve() / 'mlflow' / 'mlflow.db'}"


def is_server(tracking_uri: str) -> bool:
    """True for the address of an MLflow server, which may be down now and up later."""
    return tracking_uri.startswith(("http://", "https://"))


def sqlite_path(uri: str) -> Path | None:
    """The database file of a sqlite URI; None for every other kind, and for one in memory."""
    scheme, _, rest = uri.partition(":///")
    if scheme.partition("+")[0] != "sqlite":
        return None
    name = rest.partition("?")[0]
    return Path(name) if name not in ("", ":memory:") else None


def ui_command(uri: str) -> str:
    """The shell command that shows the history in a browser."""
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    command = f"{shlex.quote(str(python))} -m"
    if is_server(uri):
        return f"{command} webbrowser {shlex.quote(uri)}"
    # Job execution starts seven more processes that this page never uses.
    return (
        f"MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false {command} mlflow ui"
        f" --backend-store-uri {shlex.quote(uri)} --host 127.0.0.1 --port 5000 --workers 1"
    )


def open_client(tracking_uri: str) -> "MlflowClient":
    """A client of the tracking store at this URI; a missing sqlite file is created.

    Raises ConfigError if MLflow cannot open it.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        database = sqlite_path(tracking_uri)
        if database is not None:
            database.parent.mkdir(parents=True, exist_ok=True)
        with quiet("alembic", "mlflow"):
            client = MlflowClient(tracking_uri)
            client.search_experiments(max_results=1)  # creates or migrates the database
    except (MlflowException, OSError) as err:
        raise ConfigError(
            f"tracking.uri: MLflow cannot open {tracking_uri!r}: {str(err).rstrip('.')}. "
            "Give sqlite:///FILE, or the http:// address of an MLflow server"
        ) from err
    return client


def default_artifact_root(tracking_uri: str) -> Path | None:
    """A folder next to a sqlite file; None if a server decides."""
    database = sqlite_path(tracking_uri)
    return None if database is None else database.resolve().parent / "mlruns"


def open_experiment(
    client: "MlflowClient", name: str, location: str | None, kind: ExperimentKind = "training"
) -> str:
    """The id of an experiment, created or restored if needed; a new one keeps its artifacts at
    `location`. `kind` selects the view that its page opens, unless one is already set."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        tags = {_KIND_TAG: _KINDS[kind]}
        return str(client.create_experiment(name, artifact_location=location, tags=tags))
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    if _KIND_TAG not in experiment.tags:
        client.set_experiment_tag(experiment.experiment_id, _KIND_TAG, _KINDS[kind])
    return str(experiment.experiment_id)


@contextmanager
def mlflow_errors(failure: str, remedy: str = "") -> Iterator[None]:
    """Turns errors of MLflow into a ScenError with the text `FAILURE: ERROR. REMEDY`."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as err:
        raise ScenError(f"{failure}: {err}{remedy and f'. {remedy}'}") from err


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Hides messages below warnings of these loggers while the block runs."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def log_params(
    client: "MlflowClient", run_id: str, params: Mapping[str, str | int | float | bool]
) -> None:
    """Log parameters, in as few calls as MLflow allows."""
    from mlflow.entities import Param

    entities = [Param(name, str(value)) for name, value in params.items()]
    for start in range(0, len(entities), _PARAMS_PER_CALL):
        client.log_batch(run_id, params=entities[start : start + _PARAMS_PER_CALL])


def log_metrics(
    client: "MlflowClient", run_id: str, steps: Sequence[Mapping[str, float]], first_step: int
) -> None:
    """Log metrics of consecutive steps, all with the current time."""
    from mlflow.entities import Metric

    now_ms = int(time.time() * 1000)
    metrics = [
        Metric(name, value, now_ms, step)
        for step, values in enumerate(steps, start=first_step)
        for name, value in values.items()
    ]
    log_batches(client, run_id, metrics)


def log_batches(client: "MlflowClient", run_id: str, metrics: "Sequence[Metric]") -> None:
    """Log metrics, in as few calls as MLflow allows."""
    for start in range(0, len(metrics), _METRICS_PER_CALL):
        client.log_batch(run_id, metrics=metrics[start : start + _METRICS_PER_CALL])


def log_tables(
    client: "MlflowClient", run_id: str, tables: Mapping[str, Sequence[Mapping[str, object]]]
) -> None:
    """Log tables as files by path, and set the tag by which the run's page shows them as tables."""
    for path, rows in tables.items():
        client.log_text(run_id, table_json(rows), path)
    if tables:
        shown = [{"path": path, "type": "table"} for path in tables]
        client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps(shown))


def table_json(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows in MLflow's table format. Unlike MLflow's own writer, this keeps integers as integers.

    Columns are in order of first appearance; missing values and NaN become null.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = {"columns": columns, "data": [[row.get(name) for name in columns] for row in rows]}
    plain = json.loads(json.dumps(table, default=str), parse_constant=lambda _: None)
    return json.dumps(plain, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class WaveRecord:
    """One committed wave of a stream, as a tracker receives it.

    `wave_key` identifies the wave: it is tracked once, however often it is submitted.
    `loss_curves` holds one curve per trained edit, step by step; they differ in length because
    training stops early. `per_edit` is a table, one row per probe of the edits (see `summaries`).
    `threshold` is the score above which an edit of the store answers. `system` holds samples of the
    process that ran the wave, in order: `at` (seconds since 1970) and figures by name. Records of
    earlier releases have neither.
    """

    stream: str
    wave: int
    wave_key: str
    ledger_version: int
    base_name: str
    params: Mapping[str, str | int | float | bool]
    metrics: Mapping[str, float]
    loss_curves: Sequence[Sequence[float]]
    per_edit: Sequence[Mapping[str, object]]
    dataset_digest: str
    num_edits: int
    threshold: float | None = None
    system: Sequence[Mapping[str, float]] = field(default_factory=list)


class Tracker(Protocol):
    """Keeps the history of waves."""

    def track_wave(self, record: WaveRecord) -> str | None:
        """Track a committed wave once; returns the id of its run, if any. Raises ScenError."""
        ...


class NullTracker:
    """Keeps nothing."""

    def track_wave(self, record: WaveRecord) -> str | None:
        """Does nothing."""
        return None
