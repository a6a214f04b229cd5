"""Traces in a real MLflow store, off the request's path."""

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from mlflow import MlflowClient

from scen.tracking.traces import SpanRecord, TraceRecord, TraceWriter


def trace(number: int = 0, *, text: str | None = None, is_error: bool = False) -> TraceRecord:
    """A request of two seconds."""
    at = 1_700_000_000.0 + number
    parts = (
        SpanRecord("route", at, at + 0.5, {"edit_id": "edit-1", "score": 2.5}),
        SpanRecord("decode", at + 0.5, at + 2, {"new_tokens": 7, "nothing": None}),
    )
    figures = {"version": 3, "edit_id": "edit-1"}
    return TraceRecord(
        "chat", f"id-{number}", at, at + 2, is_error, figures, parts, inputs=text, outputs=text
    )


def wait_until(what: Callable[[], bool], limit_s: float = 60) -> None:
    until = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < until, "it never came to be"
        time.sleep(0.02)


@pytest.fixture
def writer(tracking_uri: str, client: MlflowClient, request: pytest.FixtureRequest) -> TraceWriter:
    """Not started; with an experiment of the test's own."""
    return TraceWriter(tracking_uri, f"serving/{request.node.name}", limit=4)


def test_a_trace_has_its_spans_and_figures(writer: TraceWriter, client: MlflowClient) -> None:
    writer.start()
    for number, is_error in enumerate((False, True)):
        writer.offer(trace(number, is_error=is_error))
    writer.stop()
    assert (writer.written, writer.dropped, writer.failed) == (2, 0, 0)
    experiment = client.get_experiment_by_name(writer._place[1])
    assert experiment is not None
    failed, good = client.search_traces(locations=[experiment.experiment_id])
    assert (good.info.client_request_id, failed.info.client_request_id) == ("id-0", "id-1")
    assert (good.info.state, failed.info.state) == ("OK", "ERROR")
    assert good.info.execution_duration == 2000
    whole, route, decode = good.data.spans
    assert [span.name for span in (whole, route, decode)] == ["chat", "route", "decode"]
    assert route.parent_id == decode.parent_id == whole.span_id
    assert (decode.end_time_ns or 0) - decode.start_time_ns == 1_500_000_000
    assert (route.attributes["score"], whole.attributes["version"]) == (2.5, 3)
    assert "nothing" not in decode.attributes
    assert whole.inputs is whole.outputs is None


def test_text_is_shown_where_it_is_given(writer: TraceWriter, client: MlflowClient) -> None:
    writer.start()
    writer.offer(trace(text="Who is 市長?"))
    writer.stop()
    experiment = client.get_experiment_by_name(writer._place[1])
    assert experiment is not None
    [found] = client.search_traces(locations=[experiment.experiment_id])
    assert found.data.spans[0].inputs == found.data.spans[0].outputs == "Who is 市長?"
    assert "市長" in found.info.request_preview


def test_what_there_is_no_room_for_is_dropped(writer: TraceWriter) -> None:
    began = time.perf_counter()
    for number in range(10):  # nobody takes them out
        writer.offer(trace(number))
    assert time.perf_counter() - began < 1
    assert (writer.dropped, writer._queue.qsize()) == (6, 4)


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_server_that_says_nothing_holds_nobody_up(silent_server: str) -> None:
    writer = TraceWriter(silent_server, "serving/tiny", limit=4)
    writer.start()
    threads = threading.active_count()
    began = time.perf_counter()
    for number in range(50):
        writer.offer(trace(number))
    assert time.perf_counter() - began < 1
    assert writer.dropped >= 45
    assert threading.active_count() == threads


def test_a_server_that_is_away_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    writer = TraceWriter(f"http://127.0.0.1:{port}", "serving/tiny", limit=8)
    writer.start()
    for number in range(3):
        writer.offer(trace(number))
    wait_until(lambda: writer.failed == 3)
    told = [record.getMessage() for record in caplog.records if record.name.startswith("scen.")]
    assert [text[:22] for text in told if str(port) in text] == ["traces are not written"]
    writer.stop()
