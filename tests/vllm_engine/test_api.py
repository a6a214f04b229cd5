"""The tests of the API, with a server on vLLM: a store served by name of the engine, over HTTP."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from e2e.serving import KEYS, Server, chat, scen
from e2e.test_serve_http import (
    test_a_broken_or_too_large_body,
    test_a_client_who_goes_away_frees_the_row,
    test_a_stream_tells_the_same,
    test_an_unknown_model_and_path,
    test_completions_and_chat,
    test_headers_name_version_and_route,
    test_log_probabilities,
    test_many_choices_of_a_seed,
    test_offsets_count_from_the_beginning_of_the_prompt,
    test_what_cannot_be_answered_is_a_bad_request,
)
from scen.snapshot.open import OpenStore
from scen_serve.api.access import AppSettings
from scen_serve.api.app import create_app
from scen_serve.main import build_service
from scen_serve.service import Service
from scen_serve.settings import ServerArgs, VllmSettings
from unit.serve.conftest import alone, commit_wave, make_store, serve_edits, unrelated
from vllm_engine.conftest import ON_CPU

__all__ = [
    "test_a_broken_or_too_large_body",
    "test_a_client_who_goes_away_frees_the_row",
    "test_a_stream_tells_the_same",
    "test_an_unknown_model_and_path",
    "test_completions_and_chat",
    "test_headers_name_version_and_route",
    "test_log_probabilities",
    "test_many_choices_of_a_seed",
    "test_offsets_count_from_the_beginning_of_the_prompt",
    "test_what_cannot_be_answered_is_a_bad_request",
]
pytestmark = [pytest.mark.vllm, pytest.mark.slow]
SCHEMA = {
    "type": "object",
    "properties": {"known": {"type": "boolean"}},
    "required": ["known"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def store(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenStore:
    """The store of 32 edits on a base that vLLM runs."""
    return make_store(folder, tmp_path_factory.mktemp("api") / "store")


@pytest.fixture(scope="module")
def service(store: OpenStore) -> Service:
    """Of the store, by the arguments of a server; its base has no weights in this process."""
    vllm = VllmSettings(options=ON_CPU, expert_slots=8)
    args = ServerArgs(
        store=store.storage.uri, engine="vllm", vllm=vllm, max_rows=8, max_context=256, poll_s=0.05
    )
    return build_service(args)


@pytest.fixture(scope="module")
def url(service: Service) -> Iterator[str]:
    """A server with keys."""
    server = Server(create_app(service, AppSettings("tiny", max_body_bytes=20_000), KEYS))
    yield server.start()
    server.stop()


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    """OpenAI's client with a key that may read."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="sk-reader-1", max_retries=0) as client:
        yield client


def test_routes_are_explained_and_counted_without_the_weights_in_this_process(
    url: str, service: Service
) -> None:
    head = {"Authorization": "Bearer sk-reader-1"}
    edit = serve_edits(1, 9)[0]
    body = {"messages": [{"role": "user", "content": edit.prompt}]}
    told = httpx.post(f"{url}/v1/explain", json=body, headers=head, timeout=60).json()
    assert told["edit_id"] == edit.id
    assert told["nearest"][0]["score"] > told["threshold"]
    assert not service.store.base.is_loaded
    metrics = httpx.get(f"{url}/metrics", headers=head).text
    assert "scen_serving_version 2.0" in metrics
    misses = next(x for x in metrics.splitlines() if x.startswith("scen_expert_cache_misses "))
    assert float(misses.split()[1]) > 0


@pytest.mark.parametrize(
    ("form", "fits"),
    [
        ({"regex": "(19|20)[0-9]{2}"}, lambda text: bool(re.fullmatch("(19|20)[0-9]{2}", text))),
        ({"choice": ["red", "blue"]}, lambda text: text in {"red", "blue"}),
        ({"json": SCHEMA}, lambda text: json.loads(text)["known"] in {True, False}),
    ],
)
def test_a_form_is_followed(
    client: openai.OpenAI, form: dict[str, Any], fits: Callable[[str], bool]
) -> None:
    reply = chat(client, unrelated(1)[0], max_tokens=64, structured_outputs=form)
    assert fits(reply.choices[0].message.content or "")
    assert reply.choices[0].finish_reason == "stop"


# The last one: it changes what is served.
def test_zz_a_commit_is_served_and_a_named_version_still_answers(
    client: openai.OpenAI, store: OpenStore, url: str
) -> None:
    new = serve_edits(1, 40)[0]
    before = chat(client, new.prompt)
    assert (scen(before)["version"], scen(before)["edit_id"]) == (2, None)
    commit_wave(store, [new], 2)
    for _ in range(600):
        after = chat(client, new.prompt)
        if scen(after)["version"] == 3:
            break
    assert scen(after)["edit_id"] == new.id
    assert after.choices[0].message.content == alone(store, new.prompt)
    old = chat(client, new.prompt, scen={"version": 2})
    assert old.choices[0].message.content == before.choices[0].message.content
    off = chat(client, new.prompt, scen={"route": "off"})
    assert off.choices[0].message.content == alone(store, new.prompt, edited=False)
    assert scen(chat(client, unrelated(1)[0]))["edit_id"] is None
