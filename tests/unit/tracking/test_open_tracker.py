"""A server may be down when a run begins; a file may not be wrong."""

import socket
from collections.abc import Callable

import pytest

from scen.errors import ConfigError, ScenError
from scen.tracking.mlflow_tracker import MlflowTracker
from scen.tracking.open_tracker import open_tracker
from scen.tracking.wave_record import WaveRecord

RecordOf = Callable[..., WaveRecord]


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
