"""Records of requests: log lines, and MLflow traces of a share of them.

No log line contains a prompt, an answer or a key. The field `event` names what happened; free text,
such as that of libraries, is logged as the event `message`.
"""

import asyncio
import json
import logging
import random
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scen.tracking.traces import SpanRecord, TraceRecord, TraceWriter
from scen_serve.engine.request import Ended, Event, Failed, Piece, Routed, Sink

log = logging.getLogger(__name__)
ID_HEADER = "x-request-id"
_ROUTINE = ("/healthz", "/readyz", "/metrics")  # polled every few seconds by monitoring
_LOOK_S, _LOOKS = 0.02, 50
LogFormat = Literal["json", "text"]
LogLevel = Literal["debug", "info", "warning", "error"]
_OURS = ("scen", "scen_serve")
_FIELDS = "scen_fields"
_ID = re.compile(r"[A-Za-z0-9._:-]{1,80}")


def setup_logs(form: LogFormat, level: LogLevel, is_guest: bool = False) -> None:
    """Log to stderr from this level up, with warnings of libraries; in a process that belongs to
    another program (`is_guest`), only this platform's own loggers."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    for name in _OURS:
        logger = logging.getLogger(name)
        logger.setLevel(level.upper())
        if is_guest:
            logger.handlers, logger.propagate = [handler], False
    if not is_guest:
        logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def log_event(
    log: logging.Logger, event: str, fields: Mapping[str, Any], level: int = logging.INFO
) -> None:
    """Log an event with fields; values must be JSON-serializable."""
    log.log(level, "%s", event, extra={_FIELDS: {"event": event, **fields}})


class JsonLines(logging.Formatter):
    """`{"time": ..., "level": ..., "event": ..., ...}`; times are UTC, in ISO form."""

    def format(self, record: logging.LogRecord) -> str:
        """The record on one line."""
        fields = getattr(record, _FIELDS, None)
        if fields is None:
            text = {"logger": record.name, "message": record.getMessage()}
            fields = {"event": "message", **text}
        head = {"time": _time(record), "level": record.levelname.lower()}
        if record.exc_info:
            fields = fields | {"error": self.formatException(record.exc_info)}
        return json.dumps(head | fields, ensure_ascii=True, default=str)


class TextLines(logging.Formatter):
    """Time, level, event, then `name=value` of each field."""

    def format(self, record: logging.LogRecord) -> str:
        """The record on one line, followed by the traceback of an error."""
        fields = getattr(record, _FIELDS, None)
        text = record.getMessage()
        if fields is not None:
            pairs = [f"{k}={_plain(v)}" for k, v in fields.items() if v is not None]
            text = " ".join([fields["event"], *pairs[1:]])
        line = f"{_time(record)} {record.levelname.lower()} {text}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _time(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(value: Any) -> str:
    """The value, quoted unless it is a single word."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    is_word = text != "" and text.isascii() and text.isprintable() and not set(text) & set(' "=')
    return text if is_word or not isinstance(value, str) else json.dumps(text)


def request_id(given: str | None) -> str:
    """The client's id for its request, if valid; else a new one."""
    return given if given is not None and _ID.fullmatch(given) else uuid.uuid4().hex


@dataclass
class AnswerRecord:
    """One answer. Times are `time.perf_counter` seconds. Written by the engine's thread."""

    began: float = field(default_factory=time.perf_counter)
    routed: Routed | None = None
    routed_at: float | None = None
    first_at: float | None = None
    ended: Ended | Failed | None = None
    ended_at: float | None = None
    text: str = ""

    def add(self, event: Event, with_text: bool) -> None:
        """Record an event."""
        now = time.perf_counter()
        if isinstance(event, Routed):
            self.routed, self.routed_at = event, now
        elif isinstance(event, Piece):
            self.first_at = self.first_at or now
            self.text += event.text if with_text else ""
        else:
            self.ended, self.ended_at = event, now

    @property
    def reason(self) -> str:
        """Why it ended; an answer without an end was cancelled with its request."""
        if isinstance(self.ended, Failed):
            return "failed"
        return "cancelled" if self.ended is None else self.ended.reason


@dataclass
class RequestRecord:
    """One HTTP request. `at` is its start in UNIX seconds, `began` the same in `perf_counter`
    seconds. For generation requests, `is_edited` is False if routing is off; `prompts` and the text
    of the answers are kept only for traces with text."""

    id: str
    method: str
    path: str
    key: str | None = None
    status: int = 500  # if no response was sent
    is_edited: bool = True
    is_traced: bool = False
    with_text: bool = False
    prompts: Sequence[Any] = ()
    answers: list[AnswerRecord] = field(default_factory=list)
    at: float = field(default_factory=time.time)
    began: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0

    def watch(self, sink: Sink) -> Sink:
        """A sink that records events as an answer of this request and passes them on to `sink`."""
        answer = AnswerRecord()
        self.answers.append(answer)

        def recorded(event: Event) -> None:
            answer.add(event, self.with_text)
            sink(event)

        return recorded

    @property
    def is_whole(self) -> bool:
        """True if no more events are expected: a failed request may have answers that never began
        and so have no end."""
        return self.status >= 400 or all(answer.ended is not None for answer in self.answers)

    def fields(self) -> dict[str, Any]:
        """Log fields. With several answers: the route of the first, the tokens of all."""
        fields = {
            "request_id": self.id,
            "key": self.key,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "seconds": round(self.seconds, 4),
        }
        return fields | self._answer_fields() if self.answers else fields

    def _answer_fields(self) -> dict[str, Any]:
        first = self.answers[0]
        routed, ended = first.routed, [a.ended for a in self.answers if isinstance(a.ended, Ended)]
        first_times = [a.first_at for a in self.answers if a.first_at is not None]
        edit_id = None if routed is None else routed.edit_id
        route = ("base" if edit_id is None else "edit") if self.is_edited else "off"
        return {
            "route": None if routed is None else route,
            "edit_id": edit_id,
            "score": None if routed is None or routed.score is None else round(routed.score, 4),
            "version": None if routed is None else routed.version,
            "answers": len(self.answers),
            "prompt_tokens": sum(end.prompt_tokens for end in ended),
            "new_tokens": sum(end.completion_tokens for end in ended),
            "first_token_seconds": round(min(first_times) - self.began, 4) if first_times else None,
            "reason": "failed" if self.status >= 400 else first.reason,
        }


class RequestLog:
    """ASGI middleware: sets `request.state.record` to a RequestRecord, which is logged and passed
    to `keep` once the response is sent. A generated request id is returned in a header."""

    def __init__(self, app: ASGIApp, keep: Callable[[RequestRecord], None]) -> None:
        self._app = app
        self._keep = keep

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and record it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        known = Headers(scope=scope).get(ID_HEADER)
        record = RequestRecord(request_id(known), scope["method"], scope["path"])
        scope.setdefault("state", {})["record"] = record

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                if known != record.id:
                    MutableHeaders(scope=message).append(ID_HEADER, record.id)
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            record.seconds = time.perf_counter() - record.began
            await _wait_for_ends(record)
            is_routine = record.path in _ROUTINE and record.status in (200, 503)
            is_routine |= record.path.startswith("/static/") and record.status < 400
            level = logging.DEBUG if is_routine else logging.INFO
            log_event(log, "request", record.fields(), level)
            self._keep(record)


async def _wait_for_ends(record: RequestRecord) -> None:
    """Wait for abandoned answers, which end at the engine's next step, to count their tokens."""
    for _ in range(_LOOKS):
        if record.is_whole:
            return
        await asyncio.sleep(_LOOK_S)


class Traces:
    """Samples a `share` of the requests (0 to 1) and hands them to the writer when they end.

    Traces contain prompts and answers only if `with_text` is set.
    """

    def __init__(self, writer: TraceWriter, share: float, with_text: bool = False) -> None:
        self.writer = writer
        self._share = share
        self._with_text = with_text

    def choose(self, record: RequestRecord, prompts: Sequence[Any]) -> None:
        """Decide whether a request is traced, before its answers begin."""
        record.is_traced = random.random() < self._share
        if record.is_traced and self._with_text:
            record.with_text, record.prompts = True, prompts

    def keep(self, record: RequestRecord) -> None:
        """Pass a sampled request to the writer. Does not block."""
        if record.is_traced:
            self.writer.offer(trace_of(record))


def trace_of(record: RequestRecord) -> TraceRecord:
    """The trace of a finished request; its attributes are the fields of its log line."""
    has_failed = any(isinstance(answer.ended, Failed) for answer in record.answers)
    return TraceRecord(
        name=record.path.removeprefix("/v1/"),
        request_id=record.id,
        begin=record.at,
        end=record.at + record.seconds,
        is_error=has_failed or record.status >= 400,
        attributes=record.fields(),
        parts=tuple(part for answer in record.answers for part in _parts(record, answer)),
        inputs=list(record.prompts) if record.with_text else None,
        outputs=[answer.text for answer in record.answers] if record.with_text else None,
    )


def _parts(record: RequestRecord, answer: AnswerRecord) -> list[SpanRecord]:
    """The phases of an answer, as far as it got."""
    routed, routed_at = answer.routed, answer.routed_at
    if routed is None or routed_at is None:
        return []
    shift = record.at - record.began
    route_at = routed_at - routed.route_s
    read_at = route_at - routed.prefill_s
    route = {"edit_id": routed.edit_id, "score": routed.score, "version": routed.version}
    parts = [
        ("wait", answer.began, read_at, {}),
        (
            "prefill",
            read_at,
            route_at,
            {"prompt_tokens": getattr(answer.ended, "prompt_tokens", None)},
        ),
        ("route", route_at, routed_at, route),
    ]
    if answer.ended_at is not None:
        first = None if answer.first_at is None else round(answer.first_at - routed_at, 4)
        figures = {
            "new_tokens": getattr(answer.ended, "completion_tokens", None),
            "first_token_seconds": first,
            "reason": answer.reason,
        }
        parts.append(("decode", routed_at, answer.ended_at, figures))
    return [SpanRecord(name, shift + a, shift + b, figures) for name, a, b, figures in parts]
