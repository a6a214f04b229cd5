"""A server of the tiny store, and OpenAI's client of it, for the tests of serving."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn
from fastapi import FastAPI

from scen.snapshot.open import OpenStore
from scen_serve.api.access import ApiKey, AppSettings
from scen_serve.api.app import create_app
from scen_serve.service import Service
from scen_serve.settings import EngineLimits
from unit.serve.conftest import NEW, make_store, store

__all__ = ["api", "chat", "client", "scen", "service", "store", "url"]

pytestmark = pytest.mark.e2e
ORIGIN = "https://app.example"
NAME = "org/tiny"
KEYS = [
    ApiKey(name="reader", scopes=("read",), key="sk-reader-1"),
    ApiKey(name="slow", scopes=("read",), key="sk-slow-123", requests_per_minute=2),
    ApiKey(name="news", scopes=("edit",), key="sk-news-123", streams=("news",)),
    ApiKey(name="root", scopes=("admin",), key="sk-root-123"),
]


class Server:
    """A uvicorn server on a free port of this machine, in a thread of its own."""

    def __init__(self, app: FastAPI) -> None:
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)

    def start(self) -> str:
        """The server's URL, once it is ready."""
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        host, port = self._server.servers[0].sockets[0].getsockname()
        url = f"http://{host}:{port}"
        while httpx.get(f"{url}/readyz").status_code != 200:
            time.sleep(0.01)
        return url

    def stop(self) -> None:
        """End it and wait."""
        self._server.should_exit = True
        self._thread.join(30)


@pytest.fixture
def service(store: OpenStore) -> Service:
    """Of the tiny store, with little room."""
    return Service(store, EngineLimits(max_rows=8, max_context=256, max_waiting=300), poll_s=0.05)


@pytest.fixture
def url(service: Service) -> Iterator[str]:
    """A server with keys."""
    server = Server(create_app(service, AppSettings("tiny", max_body_bytes=20_000), KEYS))
    yield server.start()
    server.stop()


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    """OpenAI's client with a key that may read."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="sk-reader-1", max_retries=0) as client:
        yield client


def scen(answer: object) -> dict[str, object]:
    """The field `scen` of an answer."""
    found: dict[str, object] = answer.scen  # type: ignore[attr-defined]
    return found


def chat(client: openai.OpenAI, prompt: str, **more: object) -> openai.types.chat.ChatCompletion:
    messages = [{"role": "user", "content": prompt}]
    found: openai.types.chat.ChatCompletion = client.chat.completions.create(
        model="tiny",
        messages=messages,  # type: ignore[arg-type]
        max_tokens=NEW,
        extra_body=more,
    )
    return found


@dataclass
class Api:
    """A server without keys, and clients of it."""

    url: str
    store: OpenStore
    client: openai.OpenAI

    def post(self, path: str, body: dict[str, Any] | str, **headers: str) -> httpx.Response:
        text = body if isinstance(body, str) else json.dumps({"model": NAME} | body)
        head = {"Content-Type": "application/json"} | headers
        return httpx.post(f"{self.url}{path}", content=text, headers=head, timeout=60)

    def complete(self, **body: Any) -> dict[str, Any]:
        """The first choice of a completion."""
        answer = self.post("/v1/completions", {"prompt": "Who?", "max_tokens": 8} | body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()["choices"][0]
        return found


@pytest.fixture(scope="module")
def api(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One for all tests here: none of them changes what is served."""
    store = make_store(tiny_folder, tmp_path_factory.mktemp("clients") / "store")
    service = Service(store, EngineLimits(max_rows=8, max_context=256), poll_s=0.05)
    server = Server(create_app(service, AppSettings(NAME, cors_origins=(ORIGIN,))))
    url = server.start()
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield Api(url, store, client)
    server.stop()


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The error, which has one form whatever went wrong."""
    body = answer.json()
    assert set(body) == {"error"}, body
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error
