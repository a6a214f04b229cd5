"""What is recorded of requests: log lines, and a share of them as MLflow traces.

No log line holds a prompt, an answer or a key. The field `event` says what happened; free text,
such as that of libraries, is the event `message`.
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

LogFormat = Literal["json", "text"]
LogLevel = Literal["debug", "info", "warning", "error"]
_OURS = ("scen", "scen_serve")
_FIELDS = "scen_fields"


def setup_logs(form: LogFormat, level: LogLevel, is_guest: bool = False) -> None:
    """Write what is told from this level on to stderr, and the warnings of libraries too; in a
    process that is somebody else's (`is_guest`), what this code tells only."""
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
    """Tell what happened, with figures: values are JSON's."""
    log.log(level, "%s", event, extra={_FIELDS: {"event": event, **fields}})


class JsonLines(logging.Formatter):
    """`{"time": ..., "level": ..., "event": ..., ...}`; times are UTC, in ISO form."""

    def format(self, record: logging.LogRecord) -> str:
        """The record on one line."""
        fields = getattr(record, _FIELDS, None)
        if fields is None:
            words = {"logger": record.name, "message": record.getMessage()}
            fields = {"event": "message", **words}
        head = {"time": _time(record), "level": record.levelname.lower()}
        if record.exc_info:
            fields = fields | {"error": self.formatException(record.exc_info)}
        return json.dumps(head | fields, ensure_ascii=True, default=str)


class TextLines(logging.Formatter):
    """Time, level, what happened, then `name=value` of what there is to tell."""

    def format(self, record: logging.LogRecord) -> str:
        """The record on one line; the trace of an error on those after it."""
        fields = getattr(record, _FIELDS, None)
        words = record.getMessage()
        if fields is not None:
            pairs = [f"{k}={_plain(v)}" for k, v in fields.items() if v is not None]
            words = " ".join([fields["event"], *pairs[1:]])
        line = f"{_time(record)} {record.levelname.lower()} {words}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _time(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(value: Any) -> str:
    """The value, in quotes where it is more than one word."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    is_word = text != "" and text.isascii() and text.isprintable() and not set(text) & set(' "=')
    return text if is_word or not isinstance(value, str) else json.dumps(text)


_ID = re.compile(r"[A-Za-z0-9._:-]{1,80}")


def request_id(told: str | None) -> str:
    """The id that the client gave its request, where it is one; else a new one."""
    return told if told is not None and _ID.fullmatch(told) else uuid.uuid4().hex


@dataclass
class AnswerRecord:
    """One answer. Moments are of `time.perf_counter`. Filled in by the engine's thread."""

    began: float = field(default_factory=time.perf_counter)
    routed: Routed | None = None
    routed_at: float | None = None
    first_at: float | None = None
    ended: Ended | Failed | None = None
    ended_at: float | None = None
    text: str = ""

    def add(self, event: Event, with_text: bool) -> None:
        """Take in an event."""
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
        """How it ended; an answer without an end was cancelled with its request."""
        if isinstance(self.ended, Failed):
            return "failed"
        return "cancelled" if self.ended is None else self.ended.reason


@dataclass
class RequestRecord:
    """One HTTP request. `at` is UNIX time in seconds, `began` the same moment as `perf_counter`
    tells it. Of asks: `is_edited` is False where the base was asked for; `prompts` are kept, with
    the text of the answers, only where a trace is to have them."""

    id: str
    method: str
    path: str
    key: str | None = None
    status: int = 500  # of one that nobody answers
    is_edited: bool = True
    is_traced: bool = False
    with_text: bool = False
    prompts: Sequence[Any] = ()
    answers: list[AnswerRecord] = field(default_factory=list)
    at: float = field(default_factory=time.time)
    began: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0

    def watch(self, sink: Sink) -> Sink:
        """The same sink, and what it is told is kept as an answer of this request."""
        answer = AnswerRecord()
        self.answers.append(answer)

        def told(event: Event) -> None:
            answer.add(event, self.with_text)
            sink(event)

        return told

    @property
    def is_whole(self) -> bool:
        """True where nothing more is to come: a request that failed may have answers without an
        end, as they never began."""
        return self.status >= 400 or all(answer.ended is not None for answer in self.answers)

    def fields(self) -> dict[str, Any]:
        """The figures of the request. Of several answers: the route of the first, tokens of all."""
        found = {
            "request_id": self.id,
            "key": self.key,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "seconds": round(self.seconds, 4),
        }
        return found | self._asked() if self.answers else found

    def _asked(self) -> dict[str, Any]:
        first = self.answers[0]
        routed, ended = first.routed, [a.ended for a in self.answers if isinstance(a.ended, Ended)]
        told = [a.first_at for a in self.answers if a.first_at is not None]
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
            "first_token_seconds": round(min(told) - self.began, 4) if told else None,
            "reason": "failed" if self.status >= 400 else first.reason,
        }


log = logging.getLogger(__name__)
ID_HEADER = "x-request-id"
_ROUTINE = ("/healthz", "/readyz", "/metrics")  # asked each few seconds, by machines
_LOOK_S, _LOOKS = 0.02, 50


class RequestLog:
    """ASGI middleware: `request.state.record` is a RequestRecord, which is told and handed to
    `keep` when the response is sent. An id that the client does not know is told in a header."""

    def __init__(self, app: ASGIApp, keep: Callable[[RequestRecord], None]) -> None:
        self._app = app
        self._keep = keep

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and watch it."""
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
            level = logging.DEBUG if is_routine else logging.INFO
            log_event(log, "request", record.fields(), level)
            self._keep(record)


async def _wait_for_ends(record: RequestRecord) -> None:
    """Answers that nobody waits for any more end at the engine's next step, and are counted."""
    for _ in range(_LOOKS):
        if record.is_whole:
            return
        await asyncio.sleep(_LOOK_S)


class Traces:
    """Chooses a `share` of the requests (0 to 1) and hands them to the writer when they are over.

    Prompts and answers are told only `with_text`.
    """

    def __init__(self, writer: TraceWriter, share: float, with_text: bool = False) -> None:
        self.writer = writer
        self._share = share
        self._with_text = with_text

    def choose(self, record: RequestRecord, prompts: Sequence[Any]) -> None:
        """Decide, before its answers begin, whether a request is traced."""
        record.is_traced = random.random() < self._share
        if record.is_traced and self._with_text:
            record.with_text, record.prompts = True, prompts

    def keep(self, record: RequestRecord) -> None:
        """Hand a request over that was chosen. Never waits."""
        if record.is_traced:
            self.writer.offer(trace_of(record))


def trace_of(record: RequestRecord) -> TraceRecord:
    """The trace of a request that is over: its figures are those of its line in the log."""
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
    """What an answer went through, as far as it came."""
    routed, routed_at = answer.routed, answer.routed_at
    if routed is None or routed_at is None:
        return []
    shift = record.at - record.began
    route_at = routed_at - routed.route_s
    read_at = route_at - routed.prefill_s
    route = {"edit_id": routed.edit_id, "score": routed.score, "version": routed.version}
    told = [
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
        told.append(("decode", routed_at, answer.ended_at, figures))
    return [SpanRecord(name, shift + a, shift + b, figures) for name, a, b, figures in told]
