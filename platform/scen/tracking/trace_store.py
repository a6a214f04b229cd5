"""Traces in MLflow: one for each request that was sampled, in an experiment of its own."""

import json
import secrets
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scen.errors import ScenError
from scen.tracking.mlflow_client import default_artifact_root, open_client, open_experiment
from scen.tracking.trace_record import SpanRecord, TraceRecord

if TYPE_CHECKING:
    from mlflow.entities import Span, TraceInfo

_NS = 1_000_000_000


class TraceStore:
    """An experiment that takes traces. Raises ConfigError where the store cannot be opened."""

    def __init__(self, tracking_uri: str, experiment: str) -> None:
        client = open_client(tracking_uri)
        root = default_artifact_root(tracking_uri)
        location = None if root is None else str(Path(root) / experiment)
        self._experiment_id = open_experiment(client, experiment, location, "traces")
        from mlflow.tracing.client import TracingClient

        self._client = TracingClient(tracking_uri)

    def put(self, trace: TraceRecord) -> None:
        """Keep a trace. Raises ScenError where MLflow does not take it."""
        try:
            self._client.log_spans(self._experiment_id, _spans(trace))
            self._client.start_trace(_info(trace, self._experiment_id))
        except Exception as err:  # its own errors, the network's, the database's
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

    told = {Key.INPUTS: trace.inputs, Key.OUTPUTS: trace.outputs}
    texts = {key: text for key, text in told.items() if text is not None}
    whole = SpanRecord(trace.name, trace.begin, trace.end, {**trace.attributes, **texts})
    root = secrets.token_bytes(8)
    found = [_span(trace, whole, root, None)]
    found += [_span(trace, part, secrets.token_bytes(8), root) for part in trace.parts]
    return [Span.from_dict(span) for span in found]


def _span(
    trace: TraceRecord, span: SpanRecord, own_id: bytes, parent_id: bytes | None
) -> dict[str, Any]:
    """A span in the form in which MLflow writes them down: values are JSON."""
    from mlflow.tracing.constant import SpanAttributeKey as Key

    plain = {name: value for name, value in span.attributes.items() if value is not None}
    told = {Key.REQUEST_ID: f"tr-{trace.id}", Key.SPAN_TYPE: "CHAIN" if parent_id else "LLM"}
    code = "STATUS_CODE_ERROR" if trace.is_error and not parent_id else "STATUS_CODE_OK"
    return {
        "trace_id": b64encode(bytes.fromhex(trace.id)).decode(),
        "span_id": b64encode(own_id).decode(),
        "parent_span_id": b64encode(parent_id).decode() if parent_id else "",
        "name": span.name,
        "start_time_unix_nano": int(span.begin * _NS),
        "end_time_unix_nano": int(span.end * _NS),
        "status": {"code": code, "message": ""},
        "attributes": {k: json.dumps(v, default=str) for k, v in (plain | told).items()},
        "events": [],
    }
