"""What the page of an experiment opens on, in a real sqlite store of MLflow."""

import pytest
from mlflow import MlflowClient

from scen.tracking.mlflow_client import open_experiment
from scen.tracking.mlflow_tracker import MlflowTracker
from scen.tracking.trace_store import TraceStore
from scen.tracking.wave_record import WaveRecord
from unit.tracking.conftest import RecordOf

TAG = "mlflow.experimentKind"


def kind_of(client: MlflowClient, name: str) -> str | None:
    """The tag that MLflow's pages read."""
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    found: str | None = experiment.tags.get(TAG)
    return found


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
