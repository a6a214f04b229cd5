"""Opens MLflow. It is imported here on first use, because that alone takes seconds."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from scen.errors import ConfigError
from scen.tracking.tracking_uri import sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Read by MLflow: no reports to its makers, nothing printed among our own output, and a server that
# is down costs seconds, not minutes.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_UV_AUTO_DETECT": "false",  # else a uv.lock of the cwd would go into each logged model
}

ExperimentKind = Literal["training", "traces"]
# What MLflow's pages read and write. Without it they guess, and may open on an empty overview of
# traces.
_KIND_TAG = "mlflow.experimentKind"
_KINDS: dict[ExperimentKind, str] = {
    "training": "custom_model_development",  # "Machine learning": opens on runs
    "traces": "genai_development",
}


def open_client(tracking_uri: str) -> "MlflowClient":
    """A client of the store at this URI; a sqlite file is made where there is none.

    Raises ConfigError where MLflow cannot open it.
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
            client.search_experiments(max_results=1)  # makes or migrates the database
    except (MlflowException, OSError) as err:
        raise ConfigError(
            f"tracking.uri: MLflow cannot open {tracking_uri!r}: {str(err).rstrip('.')}. "
            "Give sqlite:///FILE, or the http:// address of an MLflow server"
        ) from err
    return client


def default_artifact_root(tracking_uri: str) -> Path | None:
    """Beside a sqlite file; None where a server knows."""
    database = sqlite_path(tracking_uri)
    return None if database is None else database.resolve().parent / "mlruns"


def open_experiment(
    client: "MlflowClient", name: str, location: str | None, kind: ExperimentKind = "training"
) -> str:
    """The id of an experiment, made or brought back from the dead where needed; a new one keeps its
    artifacts at `location`. `kind` is what its page opens on, unless somebody chose otherwise."""
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
def quiet(*names: str) -> Iterator[None]:
    """Hides the routine messages of these loggers for as long as the block lasts."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
