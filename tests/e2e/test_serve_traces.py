"""Requests over HTTP become traces in a real MLflow store, without text, and wait for nothing."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from e2e.mlflow_server import mlflow_server
from e2e.serving import KEYS, Server, chat, service, store
from scen.snapshot.open import OpenStore
from scen.tracking.client import open_client
from scen.tracking.traces import TraceWriter
from scen_serve.api.access import AppSettings
from scen_serve.api.app import create_app
from scen_serve.service import Service
from scen_serve.telemetry import Traces
from unit.serve.conftest import alone, serve_edits

__all__ = ["service", "store"]  # fixtures

pytestmark = pytest.mark.e2e


@contextmanager
def serving(service: Service, traces: Traces) -> Iterator[openai.OpenAI]:
    """A client of a server with these traces; they are written when the block ends."""
    server = Server(create_app(service, AppSettings("tiny"), KEYS, traces))
    url = server.start()
    with openai.OpenAI(base_url=f"{url}/v1", api_key="sk-reader-1", max_retries=0) as client:
        yield client
    server.stop()


def traces_at(uri: str) -> list[Any]:
    """All traces of the experiment, the newest first."""
    client = open_client(uri)
    experiment = client.get_experiment_by_name("serving/tiny")
    assert experiment is not None
    return list(client.search_traces(locations=[experiment.experiment_id]))


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """A store that is made already: that takes seconds."""
    found = f"sqlite:///{tmp_path / 'mlflow.db'}"
    open_client(found)
    return found


def test_traces_have_parts_and_figures_and_no_text(
    service: Service, store: OpenStore, uri: str, tmp_path: Path
) -> None:
    edit = serve_edits(1, 5)[0]
    with serving(service, Traces(TraceWriter(uri, "serving/tiny"), 1.0)) as client:
        chat(client, edit.prompt)
        stream = client.completions.create(
            model="tiny", prompt=edit.prompt, max_tokens=9, stream=True
        )
        assert list(stream)
        client.models.list()  # asks nothing of the model
    streamed, asked = traces_at(uri)
    spans = {span.name: span for span in asked.data.spans}
    assert list(spans) == ["chat/completions", "wait", "prefill", "route", "decode"]
    figures = spans["chat/completions"].attributes
    assert (figures["key"], figures["status"], figures["edit_id"]) == ("reader", 200, edit.id)
    assert asked.info.client_request_id == figures["request_id"]
    assert spans["route"].attributes["edit_id"] == edit.id
    assert spans["decode"].attributes["new_tokens"] == figures["new_tokens"] > 0
    times = [spans[name].start_time_ns for name in ("prefill", "route", "decode")]
    assert times == sorted(times)
    assert spans["prefill"].end_time_ns > times[0]
    assert streamed.data.spans[0].attributes["new_tokens"] == 9
    kept = (tmp_path / "mlflow.db").read_bytes()
    for text in (edit.prompt, edit.prompt[4:16], alone(store, edit.prompt)[:8]):
        assert text.encode() not in kept


def test_text_is_kept_where_that_is_wanted(service: Service, store: OpenStore, uri: str) -> None:
    edit = serve_edits(1, 5)[0]
    with serving(service, Traces(TraceWriter(uri, "serving/tiny"), 1.0, True)) as client:
        chat(client, edit.prompt)
    [found] = traces_at(uri)
    root = found.data.spans[0]
    assert root.inputs == [[{"role": "user", "content": edit.prompt}]]
    assert root.outputs == [alone(store, edit.prompt)]


def test_a_tracking_server_takes_them_too(service: Service, tmp_path: Path) -> None:
    edit = serve_edits(1, 5)[0]
    with mlflow_server(tmp_path / "mlflow", tmp_path / "server.log") as tracking:
        writer = TraceWriter(tracking, "serving/tiny")
        with serving(service, Traces(writer, 1.0)) as client:
            chat(client, edit.prompt)
        assert (writer.written, writer.failed) == (1, 0)
        [found] = traces_at(tracking)
    assert found.data.spans[0].attributes["edit_id"] == edit.id
    assert [span.name for span in found.data.spans[1:]] == ["wait", "prefill", "route", "decode"]


def test_a_share_of_the_requests_is_traced(service: Service) -> None:
    writer = TraceWriter("sqlite:///nowhere/x.db", "serving/tiny", limit=1000)
    writer.start = writer.stop = lambda: None  # type: ignore[method-assign]
    with serving(service, Traces(writer, 0.3)) as client:
        for _ in range(100):
            client.completions.create(model="tiny", prompt="Who?", max_tokens=1)
    assert 8 <= writer._queue.qsize() <= 55


def test_a_dead_tracking_server_costs_no_request(service: Service) -> None:
    """It takes connections and never answers, which is the worst that one can do."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        dead = f"http://127.0.0.1:{listening.getsockname()[1]}"
        writer = TraceWriter(dead, "serving/tiny", limit=3)
        with serving(service, Traces(writer, 1.0)) as client:
            began = time.monotonic()
            for _ in range(20):
                assert client.completions.create(model="tiny", prompt="Who?", max_tokens=1).choices
            assert time.monotonic() - began < 25  # one that waited for it would wait 30 s
            told = httpx.get(
                str(client.base_url).replace("/v1/", "/metrics"),
                headers={"Authorization": "Bearer sk-reader-1"},
            ).text
    assert "scen_traces_dropped 1" in told  # some 16 of 20
    assert "scen_traces_written 0.0" in told
