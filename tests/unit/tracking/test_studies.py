"""Calibrations and benchmarks in a real MLflow store."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from scen.errors import ScenError
from scen.tracking.studies import (
    BenchmarkRecord,
    CalibrationRecord,
    MethodRecord,
    track_benchmark,
    track_calibration,
)
from scen.tracking.study_figures import benchmark_figures


@pytest.fixture
def calibration(tmp_path: Path) -> CalibrationRecord:
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
    client: MlflowClient, tracking_uri: str, calibration: CalibrationRecord
) -> None:
    run_id = track_calibration(tracking_uri, calibration)
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
    client: MlflowClient, tracking_uri: str, calibration: CalibrationRecord
) -> None:
    again = replace(calibration, base_name="org/other", bound=None)
    first, second = (track_calibration(tracking_uri, again) for _ in range(2))
    assert first != second
    experiment_id = client.get_run(first).info.experiment_id
    assert client.get_run(second).info.experiment_id == experiment_id


def test_a_calibration_that_mlflow_refuses_raises(
    tracking_uri: str, calibration: CalibrationRecord
) -> None:
    missing = replace(calibration, base_name="org/lost", files=[Path("no/such/file.json")])
    with pytest.raises(ScenError, match=r"^tracking: MLflow at sqlite:.* did not take"):
        track_calibration(tracking_uri, missing)


METRICS = {
    "reliability": 0.9,
    "generality/orig": 0.8,
    "locality/unrelated": 1.0,
    "average": 0.9,
    "seconds_per_edit": 0.1,
    "bytes_per_edit": 2000.0,
}


def method(name: str, size: int = 20, **others: float) -> MethodRecord:
    return MethodRecord(name, size, {"editor": name}, METRICS | others, [1.0, 0.8])


def benchmark(name: str, *methods: MethodRecord) -> BenchmarkRecord:
    return BenchmarkRecord(
        name=name,
        base_name="tiny",
        params={"folds": "1"},
        methods=methods,
        files={"tables.md": "| a |"},
        tables={"table_1.json": [{"method": "a", "edits": "90.0"}]},
    )


def test_methods_are_runs_below_the_benchmark(client: MlflowClient, tracking_uri: str) -> None:
    told = benchmark("whole", method("base"), method("platform", reliability=1.0))
    run_id = track_benchmark(tracking_uri, told)
    run = client.get_run(run_id)
    assert client.get_experiment(run.info.experiment_id).name == "benchmark/whole"
    below = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    found = {run.data.params["method"]: run for run in below}
    assert set(found) == {"base", "platform"}
    assert found["platform"].data.metrics["reliability"] == 1.0
    history = client.get_metric_history(found["base"].info.run_id, "retention_by_tenth")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.8)]
    figures = {f.path: f.file_size for f in client.list_artifacts(run_id, "figures")}
    assert set(figures) == {f"figures/{n}.png" for n in ("quality", "retention", "cost")}
    assert all((size or 0) > 5000 for size in figures.values())
    table = json.loads(Path(client.download_artifacts(run_id, "table_1.json")).read_text())
    assert table == {"columns": ["method", "edits"], "data": [["a", "90.0"]]}
    assert Path(client.download_artifacts(run_id, "tables.md")).read_text() == "| a |"


def test_several_sizes_have_a_curve() -> None:
    found = benchmark_figures([method("a", 10), method("a", 100), method("b", 100)])
    assert set(found) == {"quality", "retention", "cost", "curve"}
    panels = found["curve"].axes
    assert [axes.get_title() for axes in panels][:1] == ["edits"]
    assert np.asarray(panels[0].lines[0].get_xdata()).tolist() == [10, 100]
    assert [bar.get_width() for bar in found["quality"].axes[0].containers[0]] == [90, 80, 100]


def test_passages_have_bars_of_perplexity() -> None:
    costs = {"seconds_per_edit": 1.0, "bytes_per_edit": 1.0}
    told = MethodRecord("a", 5, {}, costs | {"perplexity/near": 8.0, "perplexity/edited": 2.0}, [])
    found = benchmark_figures([told])
    assert set(found) == {"perplexity"}
    axes = found["perplexity"].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["edited", "near"]
    assert axes.get_xscale() == "log"


def test_a_benchmark_that_mlflow_refuses_raises(tracking_uri: str) -> None:
    told = benchmark("lost", MethodRecord("a", 1, {"not a name?": "1"}, METRICS, [1.0]))
    with pytest.raises(ScenError, match=r"^tracking: MLflow at sqlite:.* did not take"):
        track_benchmark(tracking_uri, told)
