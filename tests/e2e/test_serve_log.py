"""One line in the log for each request over HTTP, with all that is to be told and no text."""

import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from e2e.serving import chat, client, service, store, url
from scen.snapshot.open import OpenStore
from scen_serve.engine.engine import Engine
from scen_serve.service import Service
from scen_serve.telemetry import JsonLines
from unit.serve.conftest import NEW, alone, commit_wave, serve_edits, unrelated

__all__ = ["client", "service", "store", "url"]  # fixtures

pytestmark = pytest.mark.e2e
Lines = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    """So many lines of an event, once they are written."""
    caplog.set_level(logging.DEBUG, "scen_serve")

    def wait(count: int, event: str = "request") -> list[dict[str, Any]]:
        until = time.monotonic() + 20
        while True:
            records = [*caplog.get_records("setup"), *caplog.records]
            told = [json.loads(JsonLines().format(record)) for record in records]
            found = [line for line in told if line["event"] == event]
            found = [line for line in found if line.get("path") != "/readyz"]
            if len(found) >= count:
                assert len(found) == count, found
                return found
            assert time.monotonic() < until, told
            time.sleep(0.02)

    return wait


def test_an_answer_is_told_with_all_figures(
    lines: Lines, client: openai.OpenAI, store: OpenStore
) -> None:
    edit = serve_edits(1, 5)[0]
    raw = client.chat.completions.with_raw_response.create(
        model="tiny", messages=[{"role": "user", "content": edit.prompt}], max_tokens=NEW
    )
    usage = raw.parse().usage
    assert usage is not None
    [line] = lines(1)
    assert line["request_id"] == raw.headers["x-request-id"]
    assert 0 < line["first_token_seconds"] <= line["seconds"]
    wanted = {
        "key": "reader",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "route": "edit",
        "edit_id": edit.id,
        "version": 2,
        "answers": 1,
        "prompt_tokens": usage.prompt_tokens,
        "new_tokens": usage.completion_tokens,
        "reason": "length",
    }
    assert {name: line[name] for name in wanted} == wanted
    assert line["score"] > 0.95
    text = json.dumps(line)
    assert edit.prompt not in text
    assert alone(store, edit.prompt)[:8] not in text
    assert "sk-reader-1" not in text


def test_streams_choices_and_no_routing_are_told(lines: Lines, client: openai.OpenAI) -> None:
    prompt = unrelated(1)[0]
    stream = client.completions.create(model="tiny", prompt=prompt, max_tokens=5, stream=True)
    assert list(stream)
    [line] = lines(1)
    assert (line["route"], line["edit_id"], line["new_tokens"]) == ("base", None, 5)
    client.completions.create(
        model="tiny", prompt=["a", "b"], n=2, max_tokens=3, extra_body={"scen": {"route": "off"}}
    )
    line = lines(2)[1]
    assert (line["route"], line["answers"], line["new_tokens"]) == ("off", 4, 12)


def test_a_client_who_goes_away_is_told_with_its_tokens(
    lines: Lines, client: openai.OpenAI, service: Service
) -> None:
    stream = client.completions.create(model="tiny", prompt="Who?", max_tokens=200, stream=True)
    next(iter(stream))
    stream.close()
    [line] = lines(1)
    assert line["reason"] == "cancelled"
    assert 0 < line["new_tokens"] < 200


def test_refused_requests_are_told_too(
    lines: Lines, url: str, client: openai.OpenAI, service: Service
) -> None:
    post = f"{url}/v1/completions"
    httpx.post(post, json={"model": "tiny", "prompt": "Who?"})
    reader = {"Authorization": "Bearer sk-reader-1"}
    httpx.post(post, content="{", headers=reader | {"X-Request-Id": "mine-7"})
    httpx.post(f"{url}/v1/snapshots/1:activate", headers=reader)
    assert isinstance(service.engine, Engine)
    service.engine._waiting._limit = 0
    with pytest.raises(openai.InternalServerError):
        chat(client, "Who?")
    httpx.get(f"{url}/metrics", headers=reader)
    found = lines(5)
    assert [line["status"] for line in found] == [401, 400, 403, 503, 200]
    assert [line["key"] for line in found] == [None, "reader", "reader", "reader", "reader"]
    assert found[1]["request_id"] == "mine-7"
    assert found[3]["reason"] == "failed"
    assert found[3]["seconds"] < 1  # nothing was waited for
    assert [line["level"] for line in found[3:]] == ["info", "debug"]


def test_starts_and_swaps_are_told(lines: Lines, url: str, store: OpenStore) -> None:
    [start] = lines(1, "start")
    assert (start["model"], start["store"]) == ("tiny", store.storage.uri)
    [first] = lines(1, "swap")
    assert (first["version"], first["edits"]) == (2, 32)
    commit_wave(store, serve_edits(1, 32), 2)
    second = lines(2, "swap")[1]
    assert (second["version"], second["edits"], second["seconds"] > 0) == (3, 33, True)


def test_many_at_once_are_told_once_each(lines: Lines, client: openai.OpenAI) -> None:
    threads = [threading.Thread(target=chat, args=(client, prompt)) for prompt in unrelated(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = lines(12)
    assert len({line["request_id"] for line in found}) == 12
    assert all(line["prompt_tokens"] and line["new_tokens"] == NEW for line in found)
