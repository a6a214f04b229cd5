"""A store's versions in the model registry of a real MLflow server, loaded from there."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from e2e.mlflow_server import mlflow_server
from scen.ledger.actions import About, Revoke
from scen.pipeline.models import sync_models
from scen.snapshot.open import OpenStore
from unit.serve.conftest import store
from unit.tracking.test_logged_model import engine, in_a_fresh_process

__all__ = ["store"]  # a fixture
pytestmark = pytest.mark.e2e


def test_a_fresh_process_gets_the_engine_s_answers(store: OpenStore, tmp_path: Path) -> None:
    with mlflow_server(tmp_path / "mlflow", tmp_path / "server.log") as url:
        assert sync_models(store.storage, url).model == "scen-store"
        store.ledger.settle(Revoke(["edit-0"], About("wrong")))
        report = sync_models(store.storage, url)
        assert {name: one.number for name, one in report.aliases.items()} == {
            "champion": 2, "previous": 1,
        }  # fmt: skip
        assert sync_models(store.storage, url).made == []
        client = MlflowClient(url)
        assert client.get_model_version("scen-store", "2").tags["scen.version"] == "3"
        champion, previous = engine(store, 3), engine(store, 2)
        found = in_a_fresh_process(store, url, "scen-store", tmp_path)
    assert found["champion"] == champion
    assert found["previous"] == previous
