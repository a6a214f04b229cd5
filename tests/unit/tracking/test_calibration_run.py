"""A calibration in a real MLflow store."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from scen.errors import ScenError
from scen.tracking.calibration_record import CalibrationRecord
from scen.tracking.calibration_run import track_calibration


@pytest.fixture
def record(tmp_path: Path) -> CalibrationRecord:
    profile = tmp_path / "tiny.json"
    profile.write_text("{}")
    return CalibrationRecord(
        base_name="org/tiny",
        params={"expert.layer": 3, "router.places": "mean@1 last@4"},
        metrics={"calibration/auc": 0.99},
        curve=[(0.0, 0.5), (0.01, 0.8), (0.1, 0.95)],
        bound=0.02,
        top1_by_depth={"mean": {1: 0.5, 3: 0.6}, "last": {1: 0.4, 3: 0.9}},
        places=[{"keys": "mean@1", "found": 0.5}],
        trials=[
            {"layer": 3, "lr": 0.02, "reliability": 1.0, "generality": 0.9},
            {"layer": 4, "lr": 0.02, "reliability": 0.9, "generality": 0.9},
        ],
        files=[profile],
    )


def test_figures_tables_and_the_profile_are_kept(
    client: MlflowClient, tracking_uri: str, record: CalibrationRecord
) -> None:
    run_id = track_calibration(tracking_uri, record)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"expert.layer": "3", "router.places": "mean@1 last@4"}
    assert run.data.metrics == {"calibration/auc": 0.99}
    experiment = client.get_experiment(run.info.experiment_id)
    assert experiment.name == "calibration/org/tiny"
    figures = {f.path: f.file_size for f in client.list_artifacts(run_id, "figures")}
    assert len(figures) == 3
    assert all((size or 0) > 5000 for size in figures.values())
    assert [f.path for f in client.list_artifacts(run_id, "profile")] == ["profile/tiny.json"]
    table = json.loads(Path(client.download_artifacts(run_id, "expert_trials.json")).read_text())
    assert table["columns"] == ["layer", "lr", "reliability", "generality"]
    assert table["data"][1] == [4, 0.02, 0.9, 0.9]


def test_a_second_calibration_is_a_run_beside_it(
    client: MlflowClient, tracking_uri: str, record: CalibrationRecord
) -> None:
    again = replace(record, base_name="org/other", bound=None)
    first, second = (track_calibration(tracking_uri, again) for _ in range(2))
    assert first != second
    experiment_id = client.get_run(first).info.experiment_id
    assert client.get_run(second).info.experiment_id == experiment_id


def test_what_cannot_be_kept_is_told(tracking_uri: str, record: CalibrationRecord) -> None:
    missing = replace(record, base_name="org/lost", files=[Path("no/such/file.json")])
    with pytest.raises(ScenError, match=r"^tracking: MLflow at sqlite:.* did not take"):
        track_calibration(tracking_uri, missing)
