"""Versions, keys, edits and figures of a server, over real HTTP."""

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import openai
import pytest

from e2e.serving import Server, chat, client, scen, service, store, url
from scen.data import Rejection
from scen.data.inbox import Inbox
from scen.snapshot.open import OpenStore
from scen_serve.api.access import AppSettings
from scen_serve.api.app import create_app
from scen_serve.service import Service
from unit.serve.conftest import alone, commit_wave, prepare_wave, serve_edits, unrelated

__all__ = ["client", "service", "store", "url"]  # fixtures

pytestmark = pytest.mark.e2e


def test_a_version_and_no_routing_may_be_asked_for(
    client: openai.OpenAI,
    store: OpenStore,
) -> None:
    edit = serve_edits(1, 25)[0]  # committed by version 2
    base = alone(store, edit.prompt, edited=False)
    off = chat(client, edit.prompt, scen={"route": "off"})
    assert off.choices[0].message.content == base
    assert scen(off) == {"version": 2, "edit_id": None, "score": None}
    old = chat(client, edit.prompt, scen={"version": 1})
    assert old.choices[0].message.content == base
    assert scen(old)["version"] == 1
    pinned = chat(client, edit.prompt, scen={"version": "pin"})
    commit_wave(store, serve_edits(1, 32), 2)
    again = chat(client, edit.prompt, scen={"version": scen(pinned)["version"]})
    assert again.choices[0].message.content == alone(store, edit.prompt, 2)
    with pytest.raises(openai.NotFoundError):
        chat(client, edit.prompt, scen={"version": 99})


def test_keys_scopes_and_rates(url: str, client: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError, match="missing or wrong"):
        chat(client.with_options(api_key="sk-reader-2"), "Who?")
    assert httpx.get(f"{url}/v1/models").status_code == 401
    activate = f"{url}/v1/snapshots/1:activate"
    told = httpx.post(activate, headers={"Authorization": "Bearer sk-reader-1"})
    assert (told.status_code, "scope admin" in told.text) == (403, True)
    slow = client.with_options(api_key="sk-slow-123")
    for _ in range(2):
        chat(slow, "Who?")
    with pytest.raises(openai.RateLimitError) as caught:
        chat(slow, "Who?")
    assert int(caught.value.response.headers["retry-after"]) in range(20, 31)
    assert httpx.get(f"{url}/healthz").status_code == 200  # needs no key


def test_versions_are_activated_by_hand(url: str, client: openai.OpenAI, store: OpenStore) -> None:
    root = {"Authorization": "Bearer sk-root-123"}
    edit = serve_edits(1, 25)[0]
    told = httpx.post(f"{url}/v1/snapshots/1:activate", headers=root).json()
    assert (told["served"], told["held"], told["edits"]) == (1, 1, 20)
    commit_wave(store, serve_edits(1, 32), 2)
    time.sleep(0.3)  # the follower has looked: it must not move on
    assert scen(chat(client, edit.prompt))["version"] == 1
    httpx.post(f"{url}/v1/snapshots/latest:activate", headers=root)
    now = scen(chat(client, edit.prompt))
    assert (now["version"], now["edit_id"]) == (3, edit.id)
    listed = httpx.get(f"{url}/v1/snapshots", headers=root).json()
    assert (listed["newest"], listed["served"], listed["held"]) == (3, 3, None)
    wrong = httpx.post(f"{url}/v1/snapshots/nine:activate", headers=root)
    assert wrong.status_code == 404


def test_a_commit_while_requests_are_answered(
    client: openai.OpenAI, store: OpenStore, record_property: Callable[[str, object], None]
) -> None:
    """200 requests around a commit: all are answered, each as its version would alone. `-s` shows
    how soon the first new answer is there."""
    new = serve_edits(1, 40)[0]
    prompts = [new.prompt, serve_edits(1, 3)[0].prompt, unrelated(1)[0], unrelated(3)[2]]
    wave = prepare_wave(store, [new], 2)
    committed_at: list[float] = []
    new_at: list[float] = []

    def one(index: int) -> tuple[int, str, object, object]:
        if index == 60:
            store.ledger.commit(wave, 2)
            committed_at.append(time.monotonic())
        told = chat(client, prompts[index % 4])
        field = scen(told)
        if field["version"] == 3:
            new_at.append(time.monotonic())
        return (
            index % 4,
            told.choices[0].message.content or "",
            field["version"],
            field["edit_id"],
        )

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(one, range(200)))
    expected = {(i, v): alone(store, prompt, v) for i, prompt in enumerate(prompts) for v in (2, 3)}
    assert {version for _, _, version, _ in found} == {2, 3}
    delay_s = min(new_at) - committed_at[0]
    sys.stdout.write(f"first answer of the new version {delay_s:.2f} s after its commit\n")
    record_property("seconds_to_first_new_answer", round(delay_s, 3))
    assert delay_s < 10
    for index, text, version, edit_id in found:
        assert text == expected[index, int(str(version))]
        if index == 0:
            assert edit_id == (new.id if version == 3 else None)


def test_without_keys_other_host_names_are_refused(service: Service) -> None:
    server = Server(create_app(service, AppSettings("tiny")))
    url = server.start()
    body = {"model": "tiny", "prompt": "Who?", "max_tokens": 2}
    assert httpx.post(f"{url}/v1/completions", json=body).status_code == 200
    told = httpx.post(f"{url}/v1/completions", json=body, headers={"Host": "evil.example"})
    assert told.status_code == 400
    server.stop()


def test_an_open_server_answers_by_any_name(service: Service) -> None:
    server = Server(create_app(service, AppSettings("tiny", allow_open=True)))
    url = server.start()
    assert httpx.get(f"{url}/v1/models", headers={"Host": "models.example"}).status_code == 200
    server.stop()


def test_what_was_done_is_counted(url: str, client: openai.OpenAI) -> None:
    edit = serve_edits(1, 3)[0]
    prompts = (edit.prompt, edit.prompt, unrelated(1)[0])
    usages = [chat(client, prompt).usage for prompt in prompts]
    tokens = sum(usage.completion_tokens for usage in usages if usage is not None)
    assert httpx.get(f"{url}/metrics").status_code == 401
    text = httpx.get(f"{url}/metrics", headers={"Authorization": "Bearer sk-reader-1"}).text
    found = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    routed = {
        name.split('"')[3]: float(value)
        for name, value in found.items()
        if name.startswith("scen_requests_total") and name.split('"')[1] == "length"
    }
    assert routed == {"edit": 2, "base": 1}
    assert float(found['scen_tokens_total{kind="completion",version="2"}']) == tokens
    assert float(found["scen_serving_version"]) == 2
    assert float(found['scen_route_score_count{version="2"}']) == 3


def test_an_edit_is_handed_in(url: str, store: OpenStore) -> None:
    root = {"Authorization": "Bearer sk-root-123"}
    body = {"id": "new-1", "prompt": "Who leads Rome?", "target": "Ann", "stream": "news"}
    for _ in range(2):  # again is the same
        told = httpx.post(f"{url}/v1/edits", json=body, headers=root)
        assert (told.status_code, told.json()["status"]) == (202, "queued"), told.text
    inbox = Inbox(store.storage, "news")
    inbox.cut(0, inbox.waiting())
    [kept] = inbox.edits(0)
    assert (kept.prompt, kept.author) == ("Who leads Rome?", "root")
    other = httpx.post(f"{url}/v1/edits", json=body | {"target": "Bob"}, headers=root)
    assert other.status_code == 409
    waits = httpx.get(f"{url}/v1/edits/new-1?stream=news", headers=root).json()
    assert waits["status"] == "queued"
    reader = {"Authorization": "Bearer sk-reader-1"}
    assert httpx.post(f"{url}/v1/edits", json=body, headers=reader).status_code == 403
    for wrong in ({"target": ""}, {"prompt": 5}, {"stream": "../x"}, {"id": "a/b"}):
        told = httpx.post(f"{url}/v1/edits", json=body | wrong, headers=root)
        assert told.status_code == 400, (wrong, told.text)
    assert httpx.get(f"{url}/v1/edits/nobody", headers=root).status_code == 404


def test_a_waiting_edit_is_withdrawn_and_a_served_one_revoked(
    url: str, client: openai.OpenAI, store: OpenStore
) -> None:
    root = {"Authorization": "Bearer sk-root-123"}
    body = {"id": "new-1", "prompt": "Who leads Rome?", "target": "Ann"}
    httpx.post(f"{url}/v1/edits", json=body, headers=root)
    told = httpx.delete(f"{url}/v1/edits/new-1", headers=root)
    assert told.json() == {"id": "new-1", "stream": "online", "status": "withdrawn"}
    assert httpx.delete(f"{url}/v1/edits/new-1", headers=root).status_code == 404
    edit, stream = serve_edits(1, 3)[0], store.ledger.snapshot().entries[0].stream
    one = f"{url}/v1/edits/{edit.id}?stream={stream}"
    assert httpx.get(one, headers=root).json()["status"] == "served"
    assert httpx.get(f"{url}/v1/edits/{edit.id}", headers=root).status_code == 404  # of `online`
    revoked = httpx.delete(f"{one}&why=wrong", headers=root).json()
    assert (revoked["status"], revoked["version"]) == ("revoked", store.ledger.version())
    assert (store.ledger.log()[-1].who, store.ledger.log()[-1].why) == ("root", "wrong")
    assert "revoked" in httpx.get(one, headers=root).json()["error"]["message"]
    while scen(answer := chat(client, edit.prompt))["version"] != revoked["version"]:
        time.sleep(0.05)
    assert answer.choices[0].message.content == alone(store, edit.prompt, edited=False)


def test_a_key_sees_the_edits_of_its_own_streams_only(url: str, store: OpenStore) -> None:
    mine = {"Authorization": "Bearer sk-news-123"}
    body = {"id": "new-1", "prompt": "Who leads Rome?", "target": "Ann", "stream": "news"}
    assert httpx.post(f"{url}/v1/edits", json=body, headers=mine).status_code == 202
    assert httpx.get(f"{url}/v1/edits/new-1?stream=news", headers=mine).status_code == 200
    entry = store.ledger.snapshot().entries[0]
    for stream in (entry.stream, "online"):
        for ask in (httpx.get, httpx.delete):
            told = ask(f"{url}/v1/edits/{entry.edit_id}?stream={stream}", headers=mine)
            assert (told.status_code, "no access to the stream" in told.text) == (403, True)
    told = httpx.get(f"{url}/v1/edits/{entry.edit_id}?stream=news", headers=mine)
    assert (told.status_code, entry.edit.prompt in told.text) == (404, False)
    other = httpx.post(f"{url}/v1/edits", json=body | {"stream": "online"}, headers=mine)
    assert other.status_code == 403


def test_waiting_for_an_edit_ends_when_it_is_served_or_rejected(url: str, store: OpenStore) -> None:
    root = {"Authorization": "Bearer sk-root-123"}
    edit = replace(serve_edits(1, 40)[0], author="root")
    stream = store.ledger.snapshot().entries[0].stream
    body = {"id": edit.id, "prompt": edit.prompt, "target": edit.target, "stream": stream}
    with ThreadPoolExecutor() as pool:
        asked = [
            pool.submit(httpx.post, f"{url}/v1/edits?wait=true", json=one, headers=root, timeout=60)
            for one in (body, body | {"id": "other", "target": "Bob"})
        ]
        inbox = Inbox(store.storage, stream)
        while len(inbox.waiting()) < 2:
            time.sleep(0.02)
        inbox.cut(0, inbox.waiting())
        commit_wave(store, [one for one in inbox.edits(0) if one.id == edit.id], 40)
        inbox.end(0, [Rejection(2, "other", "target", "edit says otherwise", "")])
        told = [one.result() for one in asked]
    assert [one.status_code for one in told] == [200, 200]
    served, rejected = (one.json() for one in told)
    again = httpx.post(f"{url}/v1/edits", json=body | {"stream": "online"}, headers=root)
    assert (again.status_code, again.json()) == (200, served)
    assert (served["status"], served["version"]) == ("served", store.ledger.version())
    assert (rejected["status"], rejected["field"]) == ("rejected", "target")
