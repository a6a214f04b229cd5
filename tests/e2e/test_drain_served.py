"""An edit goes in over HTTP and comes out in the answers: server, inbox, wave, hot swap."""

import threading

import httpx
import openai
import pytest

from e2e.serving import chat, client, scen, service, store, url
from scen.cli.main import main
from scen.snapshot.open import OpenStore
from unit.serve.conftest import alone

__all__ = ["client", "service", "store", "url"]  # fixtures

pytestmark = pytest.mark.e2e
QUICK = ("--set", "evaluation.locality_limit=2", "--set", "evaluation.locality_tokens=4",
         "--set", "evaluation.max_new_tokens=8", "--no-tracking")  # fmt: skip


def test_an_edit_that_is_handed_in_is_trained_committed_and_served(
    url: str, client: openai.OpenAI, store: OpenStore
) -> None:
    edit = {"id": "rome", "prompt": "Who leads the old town of Rome today?", "target": "Ann Lee"}
    before = alone(store, edit["prompt"], edited=False)
    assert chat(client, edit["prompt"]).choices[0].message.content == before
    told: list[httpx.Response] = []

    def hand_in() -> None:
        root = {"Authorization": "Bearer sk-root-123"}
        told.append(httpx.post(f"{url}/v1/edits?wait=true", json=edit, headers=root, timeout=300))

    asking = threading.Thread(target=hand_in)
    asking.start()
    while not store.storage.names("inbox/online/waiting"):
        assert asking.is_alive()
    assert main(["drain", "--store", store.storage.uri, "--once", *QUICK]) == 0
    asking.join()
    assert (told[0].status_code, told[0].json()["status"]) == (200, "served")
    answer = chat(client, edit["prompt"])
    assert scen(answer)["edit_id"] == "rome"
    assert scen(answer)["version"] == told[0].json()["version"]
    assert answer.choices[0].message.content == alone(store, edit["prompt"]) != before


def test_an_edit_of_a_later_year_waits_for_the_timer(
    url: str, client: openai.OpenAI, store: OpenStore
) -> None:
    edit = {"id": "oslo", "prompt": "Who leads the old town of Oslo today?", "target": "Bo Lund",
            "valid_from": "2999-01-01", "valid_until": "3000-01-01"}  # fmt: skip
    root = {"Authorization": "Bearer sk-root-123"}
    before = chat(client, str(edit["prompt"])).choices[0].message.content
    assert httpx.post(f"{url}/v1/edits", json=edit, headers=root).json()["status"] == "queued"
    assert main(["drain", "--store", store.storage.uri, "--once", *QUICK]) == 0
    told = httpx.post(f"{url}/v1/edits?wait=true", json=edit, headers=root, timeout=300)
    status = told.json()
    assert (told.status_code, status["status"]) == (200, "scheduled")
    assert status["valid_from"] == "2999-01-01T00:00:00+00:00"
    assert status["valid_until"] == "3000-01-01T00:00:00+00:00"
    assert "activates it" in status["remarks"][0]
    assert chat(client, str(edit["prompt"])).choices[0].message.content == before
    assert main(["expire", "--store", store.storage.uri, "--at", "2999-01-01"]) == 0
    told = httpx.post(f"{url}/v1/edits?wait=true", json=edit, headers=root, timeout=300)
    assert told.json()["status"] == "served"
    assert scen(chat(client, str(edit["prompt"])))["edit_id"] == "oslo"
