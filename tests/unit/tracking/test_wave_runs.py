"""Waves in a real MLflow store: written once, whole, and resumable."""

import json
import math
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from scen.errors import ConfigError, ScenError
from scen.tracking.client import WaveRecord
from scen.tracking.wave_runs import MlflowTracker, open_tracker

RecordOf = Callable[..., WaveRecord]


def experiment_id_of(client: MlflowClient, stream: str) -> str:
    experiment = client.get_experiment_by_name(f"stream/{stream}")
    assert experiment is not None
    return str(experiment.experiment_id)


def runs_of(client: MlflowClient, stream: str, kind: str) -> list[Run]:
    experiment_id = experiment_id_of(client, stream)
    return list(client.search_runs([experiment_id], f"tags.`edit.kind` = '{kind}'"))


def points(client: MlflowClient, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run_id, name)]


def test_a_run_says_what_the_wave_was(
    tracker: MlflowTracker, client: MlflowClient, record_of: RecordOf
) -> None:
    record = record_of(wave=42)
    run = client.get_run(tracker.track_wave(record))
    assert run.info.run_name == "wave-0042"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"method": "scen-lr", "expert.rank": "4", "expert.lr": "0.02"}
    expected = {
        "edit.stream": record.stream,
        "edit.wave": "42",
        "edit.wave_key": record.wave_key,
        "edit.ledger_version": "43",
        "edit.base": "smollm2",
        "mlflow.source.name": "scen",
    }
    assert expected.items() <= run.data.tags.items()
    assert run.data.metrics["eval/efficacy_after"] == pytest.approx(1.32)
    assert run.data.metrics["wave/num_edits"] == 2
    assert run.inputs is not None
    [dataset] = run.inputs.dataset_inputs
    assert record.dataset_digest.startswith(dataset.dataset.digest)
    assert json.loads(dataset.dataset.source)["digest"] == record.dataset_digest


def test_training_loss_has_a_point_per_step(
    tracker: MlflowTracker, client: MlflowClient, record_of: RecordOf
) -> None:
    run_id = tracker.track_wave(record_of())
    assert points(client, run_id, "train/loss_mean") == [(0, 3.5), (1, 1.25), (2, 0.75)]
    assert points(client, run_id, "train/loss_max") == [(0, 4.0), (1, 2.0), (2, 1.0)]
    assert points(client, run_id, "train/loss_median") == [(0, 3.5), (1, 1.25), (2, 0.75)]


def test_the_table_and_the_figures_are_there(
    tracker: MlflowTracker, client: MlflowClient, record_of: RecordOf, tmp_path: Path
) -> None:
    run_id = tracker.track_wave(record_of())
    folder = Path(client.download_artifacts(run_id, "", str(tmp_path)))
    for name in ("loss_curves", "before_after"):
        assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "per_edit.json").read_text()) == {
        "columns": ["id", "tokens", "exact", "loss"],
        "data": [["a", 3, True, None], ["b", None, None, 0.5]],
    }
    shown_as = json.loads(client.get_run(run_id).data.tags["mlflow.loggedArtifacts"])
    assert shown_as == [{"path": "per_edit.json", "type": "table"}]


def probe_of(kind: str, edit_id: str | None, routed_to: str | None) -> dict[str, object]:
    """The outcome of a probe, with the answer that its route gives."""
    score, target = (0.8, "x") if routed_to else (0.2, None)
    return {
        "kind": kind, "prompt": "?", "source": "orig", "edit_id": edit_id, "target": target,
        "before": "", "after": "x", "identical": None,
        "routed_to": routed_to, "nearest": "a", "score": score,
    }  # fmt: skip


PROBES = [
    probe_of("reliability", "a", "a"),
    probe_of("generality", "a", "a"),
    probe_of("near_miss", "a", "a"),
    probe_of("locality", None, None),
    probe_of("retention", "old", "a") | {"after": "y"},
    probe_of("retention", "a", "a"),
]


def test_probes_are_shown_as_tables_and_figures(
    tracker: MlflowTracker, client: MlflowClient, record_of: RecordOf, tmp_path: Path
) -> None:
    run_id = tracker.track_wave(record_of(per_edit=PROBES, threshold=0.5))
    folder = Path(client.download_artifacts(run_id, "", str(tmp_path)))
    for name in ("routing_operating_curve", "routes", "retention_by_age"):
        assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    routes = json.loads((folder / "routes.json").read_text())
    assert routes["columns"][:5] == ["probes", "asked", "own edit", "another edit", "base"]
    assert routes["data"][0][:5] == ["prompts", 1, 1, 0, 0]
    curve = json.loads((folder / "routing_operating_curve.json").read_text())
    assert [0.5, 1.0, 1.0, 0.5, 1.0, 0.0] in curve["data"]
    shown_as = json.loads(client.get_run(run_id).data.tags["mlflow.loggedArtifacts"])
    assert shown_as == [
        {"path": path, "type": "table"}
        for path in ("per_edit.json", "routes.json", "routing_operating_curve.json")
    ]
    assert points(client, run_id, "eval/retention_by_age") == [(1, 0.0), (2, 1.0)]


def test_system_samples_stand_at_their_own_times(
    tracker: MlflowTracker, client: MlflowClient, record_of: RecordOf
) -> None:
    samples = [
        {"at": 1_700_000_000.25, "process_cpu_percentage": 90.0},
        {"at": 1_700_000_001.5, "process_cpu_percentage": 170.0, "gpu_memory_megabytes": 5.0},
    ]
    run_id = tracker.track_wave(record_of(system=samples))
    history = client.get_metric_history(run_id, "system/process_cpu_percentage")
    assert [(point.timestamp, point.step, point.value) for point in history] == [
        (1_700_000_000_250, 0, 90.0),
        (1_700_000_001_500, 1, 170.0),
    ]
    assert points(client, run_id, "system/gpu_memory_megabytes") == [(1, 5.0)]
    assert "system/at" not in client.get_run(run_id).data.metrics


def test_a_wave_is_tracked_once(
    tracker: MlflowTracker, client: MlflowClient, record_of: RecordOf
) -> None:
    record = record_of()
    first = tracker.track_wave(record)
    assert tracker.track_wave(record) == first
    assert len(runs_of(client, record.stream, "wave")) == 1
    [stream_run] = runs_of(client, record.stream, "stream")
    assert points(client, stream_run.info.run_id, "eval/locality") == [(1, 1.0)]


def test_an_unfinished_run_is_written_again(
    tracker: MlflowTracker, client: MlflowClient, record_of: RecordOf
) -> None:
    record = record_of()
    broken = tracker.track_wave(record)
    client.update_run(broken, status="RUNNING")  # as a killed process leaves it
    again = tracker.track_wave(record)
    [run] = runs_of(client, record.stream, "wave")
    assert run.info.run_id == again != broken
    [stream_run] = runs_of(client, record.stream, "stream")
    assert points(client, stream_run.info.run_id, "eval/efficacy_after") == [(1, 0.91)]


def test_the_stream_run_holds_the_curve(
    tracker: MlflowTracker, client: MlflowClient, record_of: RecordOf
) -> None:
    for wave in (1, 2, 3):
        tracker.track_wave(record_of(wave))
    [run] = runs_of(client, record_of().stream, "stream")
    assert run.info.run_name == "stream"
    curve = points(client, run.info.run_id, "eval/efficacy_after")
    assert curve == [(1, 0.91), (2, 0.92), (3, 0.93)]


def test_nothing_that_is_not_a_number_is_logged(
    tracker: MlflowTracker, client: MlflowClient, record_of: RecordOf
) -> None:
    record = record_of(
        metrics={"eval/empty": math.nan, "eval/locality": 1.0},
        loss_curves=[[2.0, math.inf], [math.nan], [1.0, 1.0]],
        per_edit=[{"id": "a", "loss": math.nan}],
    )
    run_id = tracker.track_wave(record)
    metrics = client.get_run(run_id).data.metrics
    assert "eval/empty" not in metrics
    assert all(math.isfinite(value) for value in metrics.values())
    assert points(client, run_id, "train/loss_mean") == [(0, 1.5), (1, 1.5)]
    table = Path(client.download_artifacts(run_id, "per_edit.json")).read_text()
    assert json.loads(table)["data"] == [["a", None]]


def test_a_wave_without_training_has_no_figures(
    tracker: MlflowTracker, client: MlflowClient, record_of: RecordOf
) -> None:
    record = record_of(metrics={}, loss_curves=[], per_edit=[], num_edits=0)
    run_id = tracker.track_wave(record)
    assert client.list_artifacts(run_id) == []


def test_artifacts_go_to_the_given_root(
    tracking_uri: str, client: MlflowClient, record_of: RecordOf, tmp_path: Path
) -> None:
    run_id = MlflowTracker(tracking_uri, tmp_path / "kept").track_wave(record_of())
    stream = record_of().stream
    assert (tmp_path / "kept" / stream / run_id / "artifacts" / "per_edit.json").is_file()


def test_a_deleted_experiment_comes_back(
    tracker: MlflowTracker, client: MlflowClient, record_of: RecordOf
) -> None:
    tracker.track_wave(record_of(1))
    experiment_id = experiment_id_of(client, record_of().stream)
    client.delete_experiment(experiment_id)
    tracker.track_wave(record_of(2))
    assert client.get_experiment(experiment_id).lifecycle_stage == "active"


def test_a_refused_wave_is_a_scen_error(tracker: MlflowTracker, record_of: RecordOf) -> None:
    with pytest.raises(ScenError, match=r"wave 1 of .* safe in the ledger"):
        tracker.track_wave(record_of(metrics={"no#such@name": 1.0}))


def test_an_unknown_store_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"tracking\.uri"):
        MlflowTracker("carrier-pigeon://coop")


def test_a_file_is_opened_at_once(tracking_uri: str) -> None:
    assert isinstance(open_tracker(tracking_uri), MlflowTracker)
    with pytest.raises(ConfigError, match="nosuch"):
        open_tracker("nosuch://x")


def test_a_server_that_is_down_refuses_records_only(record_of: RecordOf) -> None:
    with socket.socket() as some:  # bound, and nobody listens
        some.bind(("127.0.0.1", 0))
        tracker = open_tracker(f"http://127.0.0.1:{some.getsockname()[1]}")
        with pytest.raises(ScenError, match="cannot open"):
            tracker.track_wave(record_of())
