"""Addresses of MLflow stores, and how their experiments are made."""

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from scen.tracking.client import (
    NullTracker,
    WaveRecord,
    default_tracking_uri,
    open_experiment,
    sqlite_path,
    ui_command,
)
from scen.tracking.traces import TraceStore
from scen.tracking.wave_runs import MlflowTracker
from unit.tracking.conftest import RecordOf


def test_the_environment_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert default_tracking_uri(tmp_path) == "http://mlflow:5000"


def test_a_local_store_keeps_its_own_history(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = default_tracking_uri(tmp_path)
    assert sqlite_path(uri) == tmp_path / "mlflow" / "mlflow.db"
    assert default_tracking_uri(None) == "sqlite:///mlflow.db"


@pytest.mark.parametrize("uri", ["http://mlflow:5000", "postgresql://h/db", "sqlite:///:memory:"])
def test_other_stores_have_no_file(uri: str) -> None:
    assert sqlite_path(uri) is None


def test_the_command_survives_a_folder_with_blanks() -> None:
    words = shlex.split(ui_command("sqlite:////a b/mlflow.db"))
    assert words[words.index("--backend-store-uri") + 1] == "sqlite:////a b/mlflow.db"
    assert words[-2:] == ["--workers", "1"]


def test_a_server_is_opened_in_a_browser() -> None:
    assert ui_command("http://mlflow:5000").endswith("-m webbrowser http://mlflow:5000")


def test_the_null_tracker_keeps_nothing(record_of: Callable[..., WaveRecord]) -> None:
    assert NullTracker().track_wave(record_of()) is None


def test_addresses_and_the_null_tracker_load_no_mlflow() -> None:
    code = (
        "import sys\n"
        "import scen.tracking.client, scen.tracking.client, scen.tracking.wave_runs\n"
        "assert 'mlflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


TAG = "mlflow.experimentKind"


def kind_of(client: MlflowClient, name: str) -> str | None:
    """The tag that MLflow's pages read."""
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    kind: str | None = experiment.tags.get(TAG)
    return kind


def test_a_stream_opens_on_its_runs(
    tracker: MlflowTracker, client: MlflowClient, record_of: RecordOf
) -> None:
    record: WaveRecord = record_of()
    tracker.track_wave(record)
    assert kind_of(client, f"stream/{record.stream}") == "custom_model_development"


def test_an_experiment_of_traces_opens_on_traces(client: MlflowClient, tracking_uri: str) -> None:
    TraceStore(tracking_uri, "serving/kind")
    assert kind_of(client, "serving/kind") == "genai_development"


@pytest.mark.parametrize("is_deleted", [False, True])
def test_an_experiment_that_was_there_gets_its_kind(client: MlflowClient, is_deleted: bool) -> None:
    name = f"stream/old-{is_deleted}"
    old = client.create_experiment(name)
    if is_deleted:
        client.delete_experiment(old)
    assert open_experiment(client, name, None) == old
    assert kind_of(client, name) == "custom_model_development"


def test_what_somebody_chose_stays(client: MlflowClient) -> None:
    chosen = client.create_experiment("stream/chosen", tags={TAG: "genai_development"})
    assert open_experiment(client, "stream/chosen", None) == chosen
    assert kind_of(client, "stream/chosen") == "genai_development"


def test_trackers_import_neither_mlflow_nor_matplotlib() -> None:
    """They take seconds, and a run without tracking needs neither."""
    names = ("client", "wave_runs", "studies", "models", "traces", "summaries")
    imports = "; ".join(f"import scen.tracking.{name}" for name in names)
    code = f"import sys; {imports}; print({{'mlflow', 'matplotlib', 'pandas'}} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True
    )
    assert done.stdout == "set()\n"
