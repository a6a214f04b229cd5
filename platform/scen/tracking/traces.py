"""Traces in MLflow: one per sampled request, written by a separate thread."""

import json
import logging
import queue
import secrets
import threading
import time
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scen.errors import ScenError
from scen.tracking.client import default_artifact_root, open_client, open_experiment

if TYPE_CHECKING:
    from mlflow.entities import Span, TraceInfo

log = logging.getLogger(__name__)
_NS = 1_000_000_000
_RETRY_S = 30.0  # after MLflow could not be opened
_STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class SpanRecord:
    """A part of the work on a request; `begin` and `end` are UNIX times in seconds."""

    name: str
    begin: float
    end: float
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TraceRecord:
    """One request, with the id that its client received. `inputs` and `outputs` are its text, or
    None to keep it private."""

    name: str
    request_id: str
    begin: float
    end: float
    is_error: bool
    attributes: Mapping[str, Any]
    parts: tuple[SpanRecord, ...]
    inputs: Any = None
    outputs: Any = None
    id: str = field(default_factory=lambda: secrets.token_hex(16))


class TraceStore:
    """An experiment for traces. Raises ConfigError if the store cannot be opened."""

    def __init__(self, tracking_uri: str, experiment: str) -> None:
        client = open_client(tracking_uri)
        root = default_artifact_root(tracking_uri)
        location = None if root is None else str(Path(root) / experiment)
        self._experiment_id = open_experiment(client, experiment, location, "traces")
        from mlflow.tracing.client import TracingClient

        self._client = TracingClient(tracking_uri)

    def put(self, trace: TraceRecord) -> None:
        """Write a trace. Raises ScenError if MLflow does not accept it."""
        try:
            self._client.log_spans(self._experiment_id, _spans(trace))
            self._client.start_trace(_info(trace, self._experiment_id))
        except Exception as err:  # errors of MLflow, the network or the database
            raise ScenError(f"tracking: MLflow did not take a trace ({err})") from err


def _info(trace: TraceRecord, experiment_id: str) -> "TraceInfo":
    from mlflow.entities import TraceInfo, TraceLocation, TraceState
    from mlflow.tracing.constant import TRACE_SCHEMA_VERSION, TRACE_SCHEMA_VERSION_KEY, TraceTagKey

    return TraceInfo(
        trace_id=f"tr-{trace.id}",
        trace_location=TraceLocation.from_experiment_id(experiment_id),
        request_time=int(trace.begin * 1000),
        execution_duration=int((trace.end - trace.begin) * 1000),
        state=TraceState.ERROR if trace.is_error else TraceState.OK,
        client_request_id=trace.request_id,
        request_preview=_preview(trace.inputs),
        response_preview=_preview(trace.outputs),
        trace_metadata={TRACE_SCHEMA_VERSION_KEY: str(TRACE_SCHEMA_VERSION)},
        tags={TraceTagKey.TRACE_NAME: trace.name},
    )


def _preview(text: Any) -> str | None:
    return None if text is None else json.dumps(text, ensure_ascii=False)[:1000]


def _spans(trace: TraceRecord) -> list["Span"]:
    """The span of the whole request, then those of its parts."""
    from mlflow.entities import Span
    from mlflow.tracing.constant import SpanAttributeKey as Key

    texts = {Key.INPUTS: trace.inputs, Key.OUTPUTS: trace.outputs}
    whole = SpanRecord(trace.name, trace.begin, trace.end, {**trace.attributes, **texts})
    root = secrets.token_bytes(8)
    spans = [_span(trace, whole, root, None)]
    spans += [_span(trace, part, secrets.token_bytes(8), root) for part in trace.parts]
    return [Span.from_dict(span) for span in spans]


def _span(
    trace: TraceRecord, span: SpanRecord, own_id: bytes, parent_id: bytes | None
) -> dict[str, Any]:
    """A span in MLflow's serialized form: attribute values are JSON, None is left out."""
    from mlflow.tracing.constant import SpanAttributeKey as Key

    plain = {name: value for name, value in span.attributes.items() if value is not None}
    system = {Key.REQUEST_ID: f"tr-{trace.id}", Key.SPAN_TYPE: "CHAIN" if parent_id else "LLM"}
    code = "STATUS_CODE_ERROR" if trace.is_error and not parent_id else "STATUS_CODE_OK"
    return {
        "trace_id": b64encode(bytes.fromhex(trace.id)).decode(),
        "span_id": b64encode(own_id).decode(),
        "parent_span_id": b64encode(parent_id).decode() if parent_id else "",
        "name": span.name,
        "start_time_unix_nano": int(span.begin * _NS),
        "end_time_unix_nano": int(span.end * _NS),
        "status": {"code": code, "message": ""},
        "attributes": {k: json.dumps(v, default=str) for k, v in (plain | system).items()},
        "events": [],
    }


class TraceWriter:
    """Writes traces in a separate thread. At most `limit` traces are queued; others are dropped.

    `written`, `dropped` (the queue was full) and `failed` (an error of MLflow) count traces.
    """

    def __init__(self, tracking_uri: str, experiment: str, limit: int = 256) -> None:
        self.written = 0
        self.dropped = 0
        self.failed = 0
        self._place = (tracking_uri, experiment)
        self._queue: queue.Queue[TraceRecord | None] = queue.Queue(limit)
        self._store: TraceStore | None = None
        self._retry_at = 0.0
        self._error: str | None = None
        self._thread = threading.Thread(target=self._run, name="scen-traces", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def offer(self, trace: TraceRecord) -> None:
        """Queue a trace, or drop it if the queue is full. Never blocks, never raises."""
        try:
            self._queue.put_nowait(trace)
        except queue.Full:
            self.dropped += 1

    def stop(self) -> None:
        """Write the queued traces, for at most a few seconds, and stop the thread."""
        try:
            self._queue.put(None, timeout=_STOP_S)
        except queue.Full:
            return
        if self._thread.is_alive():
            self._thread.join(_STOP_S)

    def _run(self) -> None:
        while (trace := self._queue.get()) is not None:
            try:
                self._opened().put(trace)
            except ScenError as err:
                self._fail(err)
            else:
                self.written += 1
                self._error = None

    def _opened(self) -> TraceStore:
        """The store, opened on first use. Raises ScenError if that fails; the next attempt is made
        after 30 seconds."""
        if self._store is None:
            if time.monotonic() < self._retry_at:
                raise ScenError(self._error or "")
            try:
                self._store = TraceStore(*self._place)
            except Exception as err:
                self._retry_at = time.monotonic() + _RETRY_S
                raise ScenError(str(err)) from err
        return self._store

    def _fail(self, error: ScenError) -> None:
        """Count it, and log each distinct error once."""
        self.failed += 1
        if str(error) != self._error:
            self._error = str(error)
            log.warning("traces are not written: %s", error)
