"""`scen gc` beside a server: what it answers from stays, over real HTTP."""

import time
from datetime import UTC, datetime

import httpx
import openai
import pytest

from e2e.serving import chat, client, scen, service, store, url
from scen.cli.main import main
from scen.ledger.actions import Revoke
from scen.ledger.markers import leased_versions
from scen.snapshot.open import OpenStore
from scen_serve.service import Service
from unit.serve.conftest import alone, serve_edits

__all__ = ["client", "service", "store", "url"]  # fixtures

pytestmark = pytest.mark.e2e
ROOT = {"Authorization": "Bearer sk-root-123"}


def gc(store: OpenStore) -> int:
    """Collect all but the newest version; how many bundles are left (one is the router)."""
    assert main(["gc", "--store", store.storage.uri, "--keep-days", "0"]) == 0
    return len(store.storage.names("bundles"))


def wait_until(store: OpenStore, version: int) -> None:
    """Until the server says that it answers from this version, and from no other."""
    until = time.monotonic() + 60
    while leased_versions(store.storage, datetime.now(UTC)) != {version}:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_version_that_was_activated_outlives_its_edits(
    url: str, client: openai.OpenAI, store: OpenStore
) -> None:
    edit = serve_edits(1, 3)[0]  # of version 1
    said = alone(store, edit.prompt)
    httpx.post(f"{url}/v1/snapshots/1:activate", headers=ROOT)
    wait_until(store, 1)
    store.ledger.settle(Revoke(store.ledger.snapshot().ids))
    assert gc(store) == 2  # the bundle of version 2 is gone
    answer = chat(client, edit.prompt)
    assert (scen(answer)["version"], answer.choices[0].message.content) == (1, said)
    httpx.post(f"{url}/v1/snapshots/latest:activate", headers=ROOT)
    wait_until(store, store.ledger.version())
    assert gc(store) == 1
    assert scen(chat(client, edit.prompt))["edit_id"] is None
    assert main(["verify", "--store", store.storage.uri]) == 0


def test_a_server_that_ends_keeps_nothing(service: Service, store: OpenStore) -> None:
    service.start()
    wait_until(store, 2)
    service.stop()
    assert store.storage.names("leases") == []


def test_a_version_asked_for_by_number_outlives_its_edits(
    url: str, client: openai.OpenAI, store: OpenStore
) -> None:
    """Its bundles stay for as long as requests may run on it, although nothing else needs them."""
    edit = serve_edits(1, 3)[0]  # of version 1
    expected = alone(store, edit.prompt)
    wait_until(store, 2)
    assert scen(chat(client, "Who?", scen={"version": 1}))["version"] == 1
    store.ledger.settle(Revoke(store.ledger.snapshot().ids))
    while leased_versions(store.storage, datetime.now(UTC)) != {1, 3}:
        time.sleep(0.02)
    assert gc(store) == 2  # the bundle of version 2 is gone
    answer = chat(client, edit.prompt, scen={"version": 1})
    assert (scen(answer)["version"], answer.choices[0].message.content) == (1, expected)
    with pytest.raises(openai.NotFoundError):
        chat(client, edit.prompt, scen={"version": 2})
