"""One migrated sqlite store for all tests of this folder, because making it takes seconds."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from mlflow import MlflowClient

from scen.tracking.client import WaveRecord, open_client
from scen.tracking.wave_runs import MlflowTracker

RecordOf = Callable[..., WaveRecord]


@pytest.fixture(scope="session")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'new' / 'mlflow.db'}"


@pytest.fixture(scope="session")
def client(tracking_uri: str) -> MlflowClient:
    return open_client(tracking_uri)


@pytest.fixture(scope="session")
def tracker(tracking_uri: str) -> MlflowTracker:
    return MlflowTracker(tracking_uri)


@pytest.fixture
def record_of(request: pytest.FixtureRequest) -> RecordOf:
    """Waves of a stream of the test's own; keyword arguments replace fields."""
    stream = request.node.name.replace("_", "-").removeprefix("test-")

    def build(wave: int = 1, **fields: object) -> WaveRecord:
        record = WaveRecord(
            stream=stream,
            wave=wave,
            wave_key=f"{stream}/{wave}",
            ledger_version=wave + 1,
            base_name="smollm2",
            params={"method": "scen-lr", "expert.rank": 4, "expert.lr": 0.02},
            metrics={
                "eval/efficacy_before": 0.0,
                "eval/efficacy_after": 0.9 + wave / 100,
                "eval/locality": 1.0,
            },
            loss_curves=[[4.0, 2.0, 1.0], [3.0, 0.5]],
            per_edit=[{"id": "a", "tokens": 3, "exact": True}, {"id": "b", "loss": 0.5}],
            dataset_digest="ab" * 32,
            num_edits=2,
        )
        return replace(record, **fields)  # type: ignore[arg-type]

    return build
