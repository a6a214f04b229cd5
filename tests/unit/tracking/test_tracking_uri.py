"""Where the history lives, and the command that shows it."""

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scen.tracking.tracker import NullTracker
from scen.tracking.tracking_uri import default_tracking_uri, sqlite_path, ui_command
from scen.tracking.wave_record import WaveRecord


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
        "import scen.tracking.tracking_uri, scen.tracking.tracker, scen.tracking.mlflow_tracker\n"
        "assert 'mlflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
