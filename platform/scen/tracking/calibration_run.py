"""A calibration in MLflow: experiment `calibration/BASE`, a run each."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from scen.errors import ScenError
from scen.tracking.calibration_figures import depth_figure, efficacy_figure, operating_figure
from scen.tracking.calibration_record import CalibrationRecord
from scen.tracking.mlflow_client import default_artifact_root, open_client, open_experiment
from scen.tracking.run_content import log_metrics, log_params, table_json

if TYPE_CHECKING:
    from mlflow import MlflowClient


def track_calibration(tracking_uri: str, record: CalibrationRecord) -> str:
    """Keep a calibration with its figures, tables and files; the id of its run.

    Raises ConfigError where the store cannot be opened, ScenError where MLflow refuses.
    """
    client = open_client(tracking_uri)
    from mlflow.exceptions import MlflowException

    try:
        name = f"calibration/{record.base_name}"
        root = default_artifact_root(tracking_uri)
        location = None if root is None else str(root / "calibration")
        experiment_id = open_experiment(client, name, location)
        tables = {"expert_trials.json": record.trials}
        if record.places:
            tables = {"places.json": record.places, **tables}
        tags = {
            "edit.kind": "calibration",
            "edit.base": record.base_name,
            "mlflow.source.name": "scen",
            "mlflow.loggedArtifacts": json.dumps([{"path": p, "type": "table"} for p in tables]),
        }
        run = client.create_run(experiment_id, run_name="calibration", tags=tags)
        run_id = str(run.info.run_id)
        log_params(client, run_id, record.params)
        log_metrics(client, run_id, [record.metrics], first_step=0)
        for path, rows in tables.items():
            client.log_text(run_id, table_json(rows), path)
        _log_figures(client, run_id, record)
        for file in record.files:
            client.log_artifact(run_id, str(file), "profile")
        client.set_terminated(run_id)
    except (MlflowException, OSError) as err:
        raise ScenError(f"tracking: MLflow at {tracking_uri} did not take it: {err}") from err
    return run_id


def _log_figures(client: "MlflowClient", run_id: str, record: CalibrationRecord) -> None:
    short = Path(record.base_name).name
    figures = {
        "operating_curve": operating_figure(
            record.curve, record.bound, f"Routing of unseen edits: {short}"
        ),
        "efficacy_by_layer": efficacy_figure(record.trials, f"Experts by layer: {short}"),
    }
    if record.top1_by_depth:
        title = f"Keys by depth: {short}"
        figures["top1_by_depth"] = depth_figure(record.top1_by_depth, title)
    for name, figure in figures.items():
        client.log_figure(run_id, figure, f"figures/{name}.png")
