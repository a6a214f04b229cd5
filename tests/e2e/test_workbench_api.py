"""The routes behind the workbench, over real HTTP: keys, explanations, lists, history, rollback."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from e2e.serving import KEYS, Server, service, store, url
from scen.data.inbox import Inbox
from scen.ledger.actions import About, Drop, Revoke
from scen.snapshot.open import OpenStore
from scen_serve.api.access import ApiKey, AppSettings
from scen_serve.api.app import create_app
from scen_serve.service import Service
from unit.serve.conftest import NEW, alone, serve_edits, unrelated

__all__ = ["service", "store", "url"]  # fixtures

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


class Caller:
    """Asks a server with one key."""

    def __init__(self, url: str, key: str | None) -> None:
        self._url = url
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}

    def __call__(self, method: str, path: str, status: int = 200, **more: Any) -> Any:
        """The JSON of an answer with this status."""
        answer = httpx.request(method, self._url + path, headers=self._headers, timeout=60, **more)
        assert answer.status_code == status, answer.text
        return answer.json()


@pytest.fixture
def root(url: str) -> Caller:
    return Caller(url, "sk-root-123")


@pytest.fixture
def reader(url: str) -> Caller:
    return Caller(url, "sk-reader-1")


@pytest.fixture
def news(url: str) -> Caller:
    """May edit, in one stream."""
    return Caller(url, "sk-news-123")


def explain(caller: Caller, prompt: str, status: int = 200, **more: Any) -> Any:
    messages = [{"role": "user", "content": prompt}]
    return caller("POST", "/v1/explain", status, json={"messages": messages, **more})


def test_a_key_learns_what_it_may_do(
    url: str, root: Caller, reader: Caller, news: Caller, service: Service
) -> None:
    error = Caller(url, None)("GET", "/v1/whoami", 401)["error"]
    assert "missing or wrong" in error["message"]
    told = root("GET", "/v1/whoami")
    assert (told["name"], told["scopes"]) == ("root", ["read", "edit", "admin"])
    assert (told["needs_key"], told["streams"]) == (True, None)
    assert (told["model"], told["has_roles"], told["max_context"]) == ("tiny", False, 256)
    assert told["threshold"] == pytest.approx(0.95)
    assert reader("GET", "/v1/whoami")["scopes"] == ["read"]
    told = news("GET", "/v1/whoami")
    assert (told["scopes"], told["streams"]) == (["edit"], ["news"])


def test_without_keys_anyone_may_do_all(service: Service) -> None:
    server = Server(create_app(service, AppSettings("tiny")))
    told = Caller(server.start(), None)("GET", "/v1/whoami")
    assert (told["needs_key"], told["scopes"]) == (False, ["read", "edit", "admin"])
    server.stop()


def test_a_route_is_explained_as_the_platform_does(
    root: Caller, reader: Caller, news: Caller, store: OpenStore
) -> None:
    edit, other = serve_edits(1, 5)[0], unrelated(1)[0]
    known = store.at(store.ledger.snapshot()).ask(edit.prompt, 1, num_likely=3)
    told = explain(root, edit.prompt, count=3)
    assert (told["version"], told["edit_id"], told["threshold"]) == (2, edit.id, known.threshold)
    assert [near["edit_id"] for near in told["nearest"]] == [
        one.edit_id for one in known.likely_edits
    ]
    for near, one in zip(told["nearest"], known.likely_edits, strict=True):
        assert near["score"] == pytest.approx(one.score, abs=1e-4)
        assert near["similarities"] == pytest.approx(dict(one.similarities), abs=1e-4)
    first, second, _ = told["nearest"]
    assert (first["answers"], second["answers"]) == (True, False)
    assert (first["prompt"], first["target"]) == (edit.prompt, edit.target)
    assert (first["stream"], first["version"]) == ("stream", 1)
    assert first["span"] == told["spans"][0]
    told = explain(root, other)
    assert told["edit_id"] is None
    assert len(told["nearest"]) == 5
    assert not any(near["answers"] for near in told["nearest"])
    empty = explain(root, edit.prompt, version=0)
    assert (empty["version"], empty["edit_id"], empty["nearest"]) == (0, None, [])
    near = explain(reader, edit.prompt)["nearest"][0]
    assert (near["edit_id"], near["answers"], near["prompt"]) == (edit.id, True, None)
    explain(news, edit.prompt, 403)


def test_what_cannot_be_explained_is_refused(reader: Caller) -> None:
    explain(reader, "Who?", 404, version=99)
    explain(reader, "Who?", 400, count=0)
    explain(reader, "Who?", 400, temperature=0)
    error = explain(reader, "Who? " * 200, 400)["error"]["message"]
    assert "shorten the conversation" in error
    answer = {"role": "assistant", "content": "Ann"}
    error = reader("POST", "/v1/explain", 400, json={"messages": [answer]})["error"]["message"]
    assert "the last message must be the user's" in error


def test_explaining_leaves_running_answers_as_they_are(reader: Caller, store: OpenStore) -> None:
    prompts = [edit.prompt for edit in serve_edits(6)]
    expected = [alone(store, prompt) for prompt in prompts]

    def chat(prompt: str) -> str:
        body = {"model": "tiny", "messages": [{"role": "user", "content": prompt}]}
        told = reader("POST", "/v1/chat/completions", json=body | {"max_tokens": NEW})
        return str(told["choices"][0]["message"]["content"])

    with ThreadPoolExecutor(12) as pool:
        explained = [pool.submit(explain, reader, prompt) for prompt in prompts]
        said = list(pool.map(chat, prompts))
    assert said == expected
    assert [one.result()["edit_id"] for one in explained] == [f"edit-{i}" for i in range(6)]


def test_another_streams_edits_are_not_named_unless_they_answer(service: Service) -> None:
    key = ApiKey(name="both", scopes=("read", "edit"), key="sk-both-123", streams=("news",))
    server = Server(create_app(service, AppSettings("tiny"), [*KEYS, key]))
    both = Caller(server.start(), "sk-both-123")
    first, second = explain(both, serve_edits(1, 5)[0].prompt, count=2)["nearest"]
    assert (first["edit_id"], first["prompt"], first["stream"]) == ("edit-5", None, None)
    assert (second["edit_id"], second["prompt"]) == (None, None)
    assert both("GET", "/v1/edits")["total"] == 0
    assert both("GET", "/v1/snapshots/log")["data"] == []
    assert "edit-5" in both("GET", "/v1/edits/edit-5/history", 404)["error"]["message"]
    server.stop()


def test_edits_are_listed_searched_and_paged(
    root: Caller, reader: Caller, news: Caller, store: OpenStore
) -> None:
    page = root("GET", "/v1/edits?limit=20")
    assert (page["total"], page["next"]) == (32, 20)
    assert [row["id"] for row in page["data"][:2]] == ["edit-31", "edit-30"]
    assert {row["status"] for row in page["data"]} == {"served"}
    rest = root("GET", "/v1/edits?limit=20&offset=20")
    assert (rest["data"][-1]["id"], rest["next"]) == ("edit-0", None)
    assert rest["data"][-1]["edit"]["target"] == "name 0"
    found = root("GET", "/v1/edits", params={"q": "NUMBER amber"})
    assert [row["id"] for row in found["data"]] == ["edit-24", "edit-16", "edit-8", "edit-0"]
    assert root("GET", "/v1/edits?q=edit-7")["total"] == 1
    assert news("GET", "/v1/edits")["total"] == 0
    reader("GET", "/v1/edits", 403)
    root("GET", "/v1/edits?limit=0", 400)


def test_an_edit_is_followed_from_pending_to_revoked(
    root: Caller, news: Caller, store: OpenStore
) -> None:
    body = {"id": "new-1", "prompt": "Who leads Rome?", "target": "Ann", "stream": "news"}
    news("POST", "/v1/edits", 202, json=body)
    [row] = news("GET", "/v1/edits?show=pending")["data"]
    assert (row["id"], row["status"], row["edit"]["author"]) == ("new-1", "queued", "news")
    inbox = Inbox(store.storage, "news")
    inbox.cut(0, inbox.waiting())
    assert news("GET", "/v1/edits")["data"][0]["status"] == "training"
    news("GET", "/v1/edits/new-1/history", 404)  # nothing happened to it in the ledger
    root("DELETE", "/v1/edits/edit-3?stream=stream&why=outdated")
    [gone] = root("GET", "/v1/edits?show=gone")["data"]
    assert (gone["id"], gone["status"], gone["left"]) == ("edit-3", "revoked", 3)
    assert root("GET", "/v1/edits?show=active")["total"] == 31
    history = root("GET", "/v1/edits/edit-3/history")
    events = [(event["kind"], event["version"], event["why"]) for event in history["events"]]
    assert events == [("committed", 1, ""), ("revoked", 3, "outdated")]
    assert (history["stream"], history["span"]) == ("stream", None)


def test_the_log_has_each_version_newest_first(root: Caller, reader: Caller, news: Caller) -> None:
    root("DELETE", "/v1/edits/edit-3?stream=stream&why=outdated")
    page = root("GET", "/v1/snapshots/log?limit=2")
    rows = [(row["version"], row["action"], row["counts"], row["why"]) for row in page["data"]]
    assert rows == [(3, "revoke", {"revoked": 1}, "outdated"), (2, "commit", {"committed": 12}, "")]
    assert page["next"] == 2
    [first] = root("GET", "/v1/snapshots/log?before=2")["data"]
    assert (first["version"], first["edits"], first["stream"]) == (1, 20, "stream")
    assert {(row["who"], row["why"]) for row in reader("GET", "/v1/snapshots/log")["data"]} == {
        (None, None)
    }
    news("GET", "/v1/snapshots/log", 403)


def test_a_rollback_is_planned_and_then_done(
    root: Caller, reader: Caller, store: OpenStore
) -> None:
    path = "/v1/snapshots/1:rollback"
    plan = root("POST", path, json={"dry_run": True})
    assert plan["revoked"] == [f"edit-{i}" for i in range(20, 32)]
    assert (plan["restored"], plan["version"], store.ledger.version()) == ([], 2, 2)
    reader("POST", path, 403, json={})
    root("POST", "/v1/snapshots/9:rollback", 404, json={})
    root("POST", path, 400, json={"force": True})
    error = root("POST", path, 409, json={"newest": 1, "why": "bad wave"})["error"]["message"]
    assert "the ledger is at version 2 now" in error
    done = root("POST", path, json={"newest": 2, "why": " bad wave "})
    assert (done["version"], done["to"], done["dry_run"]) == (3, 1, False)
    last = store.ledger.log()[-1]
    assert (last.action, last.who, last.why, last.to) == ("rollback", "root", "bad wave", 1)
    while root("GET", "/v1/snapshots")["served"] != 3:
        time.sleep(0.05)
    assert explain(root, serve_edits(1, 25)[0].prompt)["edit_id"] is None


def test_a_rollback_brings_revoked_edits_back_only_where_that_is_meant(
    root: Caller, store: OpenStore
) -> None:
    store.ledger.settle(Revoke(["edit-3", "edit-4"], About("wrong", "ann")))
    path = "/v1/snapshots/2:rollback"
    plan = root("POST", path, json={"dry_run": True})
    assert plan["restored"] == plan["unwanted"] == ["edit-3", "edit-4"]
    error = root("POST", path, 409, json={"why": "back"})["error"]["message"]
    assert re.search("would bring back .*: edit-3, edit-4", error)
    assert root("POST", path, json={"bring_back": True})["version"] == 4
    store.ledger.settle(Revoke(["edit-3"], About()))
    store.ledger.settle(Drop(["edit-3"], About()))
    error = root("POST", path, 400, json={"bring_back": True})["error"]["message"]
    assert "deleted by `scen gc`" in error


def test_a_rollback_of_other_streams_is_refused(service: Service) -> None:
    key = ApiKey(name="head", scopes=("admin",), key="sk-head-123", streams=("news",))
    server = Server(create_app(service, AppSettings("tiny"), [key]))
    head = Caller(server.start(), "sk-head-123")
    error = head("POST", "/v1/snapshots/1:rollback", 403, json={"dry_run": True})["error"]
    assert "no access to the stream 'stream'" in error["message"]
    server.stop()


def test_the_page_needs_nothing_from_elsewhere(url: str) -> None:
    page = httpx.get(url)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "require-trusted-types-for 'script'" in policy
    assert not re.search(r"<style|<script(?![^>]* src=)|\son\w+=|\sstyle=|https?:", page.text)
    todo, seen = re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text), set[str]()
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        answer = httpx.get(url + path)
        assert answer.status_code == 200, path
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-content-type-options"] == "nosniff"
        if path.endswith(".js"):
            assert "javascript" in answer.headers["content-type"]
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|eval\(", answer.text)
            todo += re.findall(r'from "(/static/[^"]+)"', answer.text)
    assert seen >= {f"/static/{name}.js" for name in ("main", "chat", "why", "edits", "versions")}
    again = httpx.get(url + path, headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304
    for wrong in ("/static/", "/static/../workbench.py", "/static/%2e%2e/workbench.py"):
        assert httpx.get(url + wrong).status_code == 404
