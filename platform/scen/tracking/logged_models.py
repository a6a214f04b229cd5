"""Logged models: a folder with code and a pointer, kept by MLflow beside the run that it came of,
else in experiment `models/NAME`."""

import json
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scen import __version__
from scen.tracking.mlflow_client import (
    default_artifact_root,
    open_experiment,
    quiet,
)
from scen.tracking.model_record import ModelRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

_EXAMPLE = "What is the capital of France?"
_MAX_NEW_TOKENS = 64


def log_model(client: "MlflowClient", registered_name: str, record: ModelRecord) -> "LoggedModel":
    """Keep a model with MLflow; it is READY where all of it is there. Raises MlflowException."""
    run = None if record.run is None else _wave_run(client, *record.run)
    # In the experiment of its run: the page of a run shows no models of others.
    model = client.create_logged_model(
        _experiment(client, registered_name) if run is None else run.info.experiment_id,
        name=record.name,
        source_run_id=None if run is None else run.info.run_id,
        tags=record.all_tags,
        params={name: str(value) for name, value in record.pointer["base"].items()},
        model_type="scen",
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        _save_files(path, record, model)
        client.log_model_artifacts(model.model_id, str(path))
    if run is not None:
        _show_in_run(client, run.info.run_id, model.model_id)
    return client.finalize_logged_model(model.model_id, "READY")


def _save_files(path: Path, record: ModelRecord, model: "LoggedModel") -> None:
    """The files of a model into a new folder. Its code is imported, and not asked."""
    import mlflow
    from mlflow.models import Model
    from pandas import DataFrame  # type: ignore[import-untyped]

    with tempfile.TemporaryDirectory() as folder, quiet("mlflow"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at its first use MLflow warns of types of its own
        pointer = Path(folder) / "snapshot.json"
        pointer.write_text(json.dumps(record.pointer, ensure_ascii=False), encoding="utf-8")
        mlflow.pyfunc.save_model(
            path,
            python_model=str(record.code),
            artifacts={"snapshot": str(pointer)},
            model_config=dict(record.places),
            signature=_signature(),
            input_example=DataFrame({"prompt": [_EXAMPLE]}),
            # Said here: MLflow would find out by loading the model.
            pip_requirements=[f"scen-platform=={__version__}", f"mlflow=={mlflow.__version__}"],
            mlflow_model=Model(model.artifact_location, model_id=model.model_id),
        )


def _wave_run(client: "MlflowClient", stream: str, wave_key: str) -> "Run | None":
    """The finished run of a wave, where the tracker has told of it."""
    experiment = client.get_experiment_by_name(f"stream/{stream}")
    if experiment is None:
        return None
    wanted = f"tags.`edit.wave_key` = '{wave_key}' AND attributes.status = 'FINISHED'"
    runs = client.search_runs([experiment.experiment_id], wanted, max_results=1)
    return runs[0] if runs else None


def _experiment(client: "MlflowClient", registered_name: str) -> str:
    root = default_artifact_root(client.tracking_uri)
    location = None if root is None else str(root / "models" / registered_name)
    return open_experiment(client, f"models/{registered_name}", location)


def _show_in_run(client: "MlflowClient", run_id: str, model_id: str) -> None:
    from mlflow.entities import LoggedModelOutput

    client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    # The column of the input has no name, so that a list of prompts will do.
    return ModelSignature(
        inputs=Schema([ColSpec("string")]),
        outputs=Schema(
            [
                ColSpec("string", "answer"),
                ColSpec("string", "edit_id", required=False),
                ColSpec("double", "score", required=False),
                ColSpec("long", "version"),
            ]
        ),
        params=ParamSchema([ParamSpec("max_new_tokens", "long", _MAX_NEW_TOKENS)]),
    )
