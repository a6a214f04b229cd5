"""A line in the log for each HTTP request, once it is answered."""

import asyncio
import logging
import time
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scen_serve.logs import log_event
from scen_serve.request_record import RequestRecord, request_id

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
            is_routine |= record.path.startswith("/static/") and record.status < 400
            level = logging.DEBUG if is_routine else logging.INFO
            log_event(log, "request", record.fields(), level)
            self._keep(record)


async def _wait_for_ends(record: RequestRecord) -> None:
    """Answers that nobody waits for any more end at the engine's next step, and are counted."""
    for _ in range(_LOOKS):
        if record.is_whole:
            return
        await asyncio.sleep(_LOOK_S)
