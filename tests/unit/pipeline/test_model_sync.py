"""MLflow's model registry after each thing that can happen to a ledger, and to MLflow by hand."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from mlflow import MlflowClient

from scen.errors import NotFoundError
from scen.ledger.actions import About, Revoke, Rollback
from scen.ledger.collect import Keep, collect, plan_collection
from scen.ledger.markers import pin, read_pins
from scen.pipeline.models import SyncReport, follow_ledger, sync_models
from unit.ledger.conftest import Shop, add_wave, shop
from unit.tracking.conftest import client, tracking_uri

__all__ = ["client", "shop", "tracking_uri"]  # fixtures
LATER = datetime.now(UTC) + timedelta(days=365)  # all that a test does is a year ago


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A model of the test's own."""
    return str(request.node.name)


@pytest.fixture
def sync(shop: Shop, tracking_uri: str, name: str) -> "Sync":
    return Sync(shop, tracking_uri, name)


class Sync:
    """Syncs of the shop, by what their aliases stand for."""

    def __init__(self, shop: Shop, uri: str, name: str) -> None:
        self.shop, self.uri, self.name = shop, uri, name
        self.said: list[str] = []

    def report(self, *versions: int) -> SyncReport:
        self.said.clear()
        return sync_models(self.shop.storage, self.uri, self.name, versions, self.said.append)

    def __call__(self, *versions: int) -> dict[str, int]:
        return {alias: one.version for alias, one in self.report(*versions).aliases.items()}

    def pinned(self) -> dict[str, int]:
        """Alias to version, of this model's pins."""
        return {owner.rsplit("-", 1)[1]: v for owner, v in read_pins(self.shop.storage).items()}


def test_aliases_follow_commits_revokes_and_rollbacks(sync: Sync) -> None:
    ledger = sync.shop.ledger
    assert sync() == {"champion": 3}
    add_wave(sync.shop, "d", 4)
    assert sync() == {"champion": 4, "previous": 3}
    ledger.settle(Revoke(["a-0"], About("wrong", "ann")))
    assert sync() == {"champion": 5, "previous": 4}
    ledger.settle(Rollback(2, About("worse", "ann")))
    assert sync() == {"champion": 6, "previous": 5} == sync.pinned()


def test_a_model_version_has_the_facts_of_its_commit(
    sync: Sync, client: MlflowClient, name: str
) -> None:
    sync.shop.ledger.settle(Revoke(["a-0"], About("the source was wrong", "ann")))
    sync()
    version = client.get_model_version_by_alias(name, "champion")
    told = {n: version.tags[f"scen.{n}"] for n in ("version", "action", "stream", "edits")}
    assert told == {"version": "4", "action": "revoke", "stream": "news", "edits": "5"}
    text = version.description or ""
    assert text.startswith("Version 4 of the ledger, 5 edits: revoke by ann, ")
    assert text.endswith(": the source was wrong.")
    tags = client.get_registered_model(name).tags
    assert tags["scen.fingerprint"] == "f" * 64
    assert tags["scen.store"] == sync.shop.storage.uri


def test_a_second_sync_changes_nothing(sync: Sync, client: MlflowClient, name: str) -> None:
    ledger = sync.shop.ledger
    sync(1)
    before = client.get_registered_model(name)
    files = sync.shop.storage.names("")
    report = sync.report(1)
    assert (report.made, sync.said) == ([], [])
    assert client.get_registered_model(name).last_updated_timestamp == before.last_updated_timestamp
    assert sync.shop.storage.names("") == files
    assert ledger.version() == 3


def test_what_was_changed_by_hand_is_put_right(sync: Sync, client: MlflowClient, name: str) -> None:
    sync(1, 2)
    client.delete_registered_model_alias(name, "previous")
    client.set_registered_model_alias(name, "champion", "1")
    client.set_registered_model_alias(name, "candidate", "1")
    client.set_registered_model_alias(name, "mine", "1")
    client.set_registered_model_tag(name, "scen.base", "other")
    assert sync() == {"champion": 3, "previous": 2}
    assert sync.said[0] == "champion: model version 3 (it was 1)"
    model = client.get_registered_model(name)
    assert model.aliases == {"champion": 3, "previous": 2, "mine": 1}
    assert model.tags["scen.base"] == "tiny"
    client.delete_model_version(name, "3")
    assert sync() == {"champion": 3, "previous": 2}
    client.delete_registered_model(name)
    assert sync() == {"champion": 3}


def test_versions_of_a_run_are_all_registered(sync: Sync, shop: Shop) -> None:
    made = sync.report(2, 1, 3, 2).made
    assert [(one.number, one.version) for one in made] == [(1, 1), (2, 2), (3, 3)]
    assert sync(0) == {"champion": 3, "previous": 2}
    with pytest.raises(NotFoundError, match="9"):
        sync(9)


def test_whoever_commits_meanwhile_is_not_forgotten(sync: Sync, tracking_uri: str) -> None:
    shop = sync.shop

    def busy(said: str) -> None:
        if said.startswith("champion: model version 1 "):
            add_wave(shop, "d", 4)

    report = sync_models(shop.storage, tracking_uri, sync.name, say=busy)
    assert report.version == 4
    assert [one.version for one in report.made] == [3, 4]
    assert sync.report().made == []
    assert sync.pinned() == {"champion": 4, "previous": 3}


def test_gc_keeps_what_an_alias_needs_and_no_more(sync: Sync) -> None:
    shop = sync.shop
    sync()
    shop.ledger.settle(Revoke(["a-0", "a-1"], About("wrong")))
    assert sync() == {"champion": 4, "previous": 3}
    assert gc(shop) == []
    assert shop.bundle("a").exists()
    shop.ledger.settle(Revoke(["b-0", "b-1"], About("wrong")))
    assert sync() == {"champion": 5, "previous": 4} == sync.pinned()
    assert gc(shop) == ["a"]
    assert sync(1, 3) == {"champion": 6, "previous": 5}  # 6 is what gc told the ledger
    assert sync.report(1, 2, 3).made == []
    assert "version 1 is skipped: `scen gc` has deleted experts of it" in sync.said


def test_previous_is_a_version_that_can_be_asked(sync: Sync, client: MlflowClient) -> None:
    sync(1, 2)
    sync.shop.ledger.settle(Revoke(["a-0", "a-1", "b-0", "b-1"], About("wrong")))
    for owner in read_pins(sync.shop.storage):
        for file in sync.shop.storage.names(f"pins/{owner}"):
            sync.shop.storage.delete(file)
    assert gc(sync.shop) == ["a", "b"]
    assert sync() == {"champion": 5}


def gc(shop: Shop) -> list[str]:
    """Collect all that is not kept; the waves that lost their bundles."""
    names = {digest: name for name, digest in shop.bundles.items()}
    plan = plan_collection(shop.storage, shop.ledger, Keep.for_days(LATER, 30))
    collect(shop.storage, shop.ledger, plan, About("tidy"))
    return sorted(names[Path(file.path).stem] for file in plan.files)


def test_each_mlflow_has_pins_of_its_own(sync: Sync, name: str) -> None:
    sync()
    other = Sync(sync.shop, sync.uri, f"{name}-2")
    pin(sync.shop.storage, "server-1", 2)
    add_wave(sync.shop, "d", 4)
    assert other() == {"champion": 4}
    assert sorted(read_pins(sync.shop.storage).values()) == [2, 3, 4]


def test_a_server_that_is_down_fails_no_run(
    shop: Shop, tracking_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert follow_ledger(shop.storage, "http://127.0.0.1:9", [3]) is None
    assert "committed but not registered in MLflow yet" in caplog.text
    name = follow_ledger(shop.storage, tracking_uri, [3])
    assert name is not None
    assert name.startswith("scen-store")
