"""A wave that the gate holds is the candidate, until somebody decides."""

from collections.abc import Callable

import pytest
from mlflow import MlflowClient

from scen.config import WaveConfig
from scen.ledger.actions import About, Revoke
from scen.ledger.markers import read_pins
from scen.pipeline.gate import promote, reject
from scen.pipeline.local import LocalParts
from scen.pipeline.models import sync_models
from scen.pipeline.stream import run_stream
from scen.records import Edit
from unit.pipeline.conftest import facts, make_parts
from unit.tracking.conftest import client, tracking_uri

pytestmark = pytest.mark.slow

__all__ = ["client", "facts", "make_parts", "tracking_uri"]  # fixtures
MakeParts = Callable[..., LocalParts]
RULES = WaveConfig(why="looked at it", who="ann")


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A model of the test's own."""
    return str(request.node.name)


@pytest.fixture
def parts(make_parts: MakeParts, facts: list[Edit]) -> LocalParts:
    """Version 1 has three edits; the other three are held in two waves of the stream `late`."""
    open_parts = make_parts(expert={"steps": 1})
    list(run_stream("news", [facts[:3]], open_parts.store, open_parts.config, open_parts))
    bounds = {"min_reliability": 0.9, "size": 2}
    strict = make_parts(expert={"steps": 1}, waves=bounds)
    list(run_stream("late", [facts[3:]], strict.store, strict.config, strict))
    return strict


def held(parts: LocalParts) -> list[str]:
    """The keys of the held waves."""
    names = parts.store.storage.names("waves")
    return sorted(name.split("/")[1] for name in names if name.endswith("/held.json"))


def test_a_held_wave_is_the_candidate(
    parts: LocalParts, tracking_uri: str, client: MlflowClient, name: str
) -> None:
    storage, ledger = parts.store.storage, parts.store.ledger
    first, last = held(parts)
    report = sync_models(storage, tracking_uri, name)
    assert set(report.aliases) == {"champion", "candidate"}
    candidate = report.aliases["candidate"]
    assert (candidate.version, candidate.wave) == (1, last)
    told = client.get_model_version_by_alias(name, "candidate")
    assert told.tags["scen.edits"] == "4"
    text = told.description or ""
    assert text.startswith(f"Wave {last} on top of version 1, 4 edits. The gate holds it since ")
    assert text.endswith(": reliability 0 is below waves.min_reliability 0.9.")
    assert list(sync_models(storage, tracking_uri, name).made) == []

    version = promote(storage, ledger, last, RULES)
    report = sync_models(storage, tracking_uri, name)
    assert {alias: one.version for alias, one in report.aliases.items()} == {
        "champion": version, "previous": 1, "candidate": 2,
    }  # fmt: skip
    assert report.aliases["candidate"].wave == first

    reject(storage, ledger, first, RULES)
    report = sync_models(storage, tracking_uri, name)
    assert set(report.aliases) == {"champion", "previous"}
    assert set(client.get_registered_model(name).aliases) == {"champion", "previous"}
    assert sorted(read_pins(storage).values()) == [1, 2]


def test_the_version_under_a_candidate_is_kept(
    parts: LocalParts, tracking_uri: str, name: str
) -> None:
    storage, ledger = parts.store.storage, parts.store.ledger
    sync_models(storage, tracking_uri, name)
    for edit_id in ledger.snapshot().ids:
        ledger.settle(Revoke([edit_id], About("wrong")))
        sync_models(storage, tracking_uri, name)
    assert sorted(read_pins(storage).values()) == [1, 3, 4]
