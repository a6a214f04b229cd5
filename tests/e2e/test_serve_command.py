"""`scen serve` as a process of its own, asked over HTTP, and told to end."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from e2e.serving import chat, scen, store
from scen.snapshot.open import OpenStore
from unit.serve.conftest import alone, serve_edits

__all__ = ["store"]  # a fixture

pytestmark = pytest.mark.e2e
SERVE = [sys.executable, "-P", "-m", "scen.cli.main", "serve"]


@pytest.fixture
def port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return int(some.getsockname()[1])


@pytest.fixture
def process(store: OpenStore, port: int, tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """`scen serve` of the tiny store, ready."""
    command = [*SERVE, "--store", store.storage.uri, "--port", str(port), "--model-name", "tiny"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        while not _is_ready(port):
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.wait()


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_it_answers_until_it_is_told_to_end(
    process: "subprocess.Popen[bytes]", port: int, store: OpenStore, tmp_path: Path
) -> None:
    """A stream that runs when the signal comes is told to its end; the log is JSON."""
    url = f"http://127.0.0.1:{port}/v1"
    edit = serve_edits(1, 5)[0]
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        told = chat(client, edit.prompt)
        assert told.choices[0].message.content == alone(store, edit.prompt)
        assert scen(told)["edit_id"] == edit.id
        stream = client.completions.create(model="tiny", prompt="Who?", max_tokens=150, stream=True)
        first = next(iter(stream))
        process.send_signal(signal.SIGTERM)
        rest = list(stream)
    assert first.choices[0].finish_reason is None
    assert rest[-1].choices[0].finish_reason in ("length", "stop")
    assert process.wait(60) == -signal.SIGTERM  # uvicorn ends itself by it, when all is told
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    events = [line["event"] for line in lines if line["event"] != "message"]
    assert sorted(events) == ["request", "request", "start", "stop", "stopping", "swap"]
    asked = [line for line in lines if line["event"] == "request"]
    assert [line["edit_id"] for line in asked] == [edit.id, None]
    assert edit.prompt not in (tmp_path / "log").read_text()


def test_an_open_address_needs_keys(store: OpenStore) -> None:
    command = [*SERVE, "--store", store.storage.uri, "--host", "0.0.0.0"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert "--api-keys" in told.stderr
