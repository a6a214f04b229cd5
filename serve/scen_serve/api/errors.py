"""Errors in the form of OpenAI's API: `{"error": {"message", "type", "param", "code"}}`."""

import logging
import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scen.errors import ConfigError, InputError, IntegrityError, NotFoundError, ScenError
from scen_serve.engine.request import BusyError

log = logging.getLogger(__name__)
RETRY_S = 1.0
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES = {401: "invalid_api_key", 403: "missing_scope", 429: "rate_limit_exceeded"}


class ApiError(Exception):
    """A request that is answered with an error. `retry_s` seconds later it may be tried again."""

    def __init__(self, status: int, message: str, retry_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_s = retry_s
        self.param: str | None = None
        self.code = _CODES.get(status)


def as_api_error(error: Exception) -> ApiError:
    """What a client is told of an error; of one that nobody expected, nothing."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, BusyError):
        return ApiError(503, str(error), RETRY_S)
    if isinstance(error, IntegrityError):
        log.error("%s", error)
        return ApiError(503, "an edit of the store is damaged and cannot answer", 60.0)
    if isinstance(error, InputError | ConfigError):
        return ApiError(400, str(error))
    if isinstance(error, NotFoundError):
        return ApiError(404, str(error))
    status = 409 if isinstance(error, ScenError) else 500
    return ApiError(status, str(error) if status == 409 else "the server failed; see its log")


def error_body(error: ApiError) -> dict[str, Any]:
    """The JSON of an error."""
    kind = _TYPES.get(error.status)
    if kind is None:
        kind = "invalid_request_error" if error.status < 500 else "server_error"
    text = str(error).encode("utf-8", "replace").decode()  # a request may hold half characters
    return {"error": {"message": text, "type": kind, "param": error.param, "code": error.code}}


def error_response(error: ApiError) -> JSONResponse:
    """The response of an error."""
    headers = {}
    if error.retry_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_s)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(error), error.status, headers)


def install_handlers(app: FastAPI) -> None:
    """Answer all errors of an app in this form."""

    async def on_error(_request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, ApiError | ScenError):
            log.error("a request failed", exc_info=error)
        return error_response(as_api_error(error))

    async def on_invalid(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = [str(part) for part in first["loc"] if part != "body"]
        found = ApiError(400, f"{'.'.join(where) or 'body'}: {first['msg']}"[:500])
        found.param = where[0][:100] if where and where[0].isidentifier() else None
        return error_response(found)

    async def on_http(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return error_response(ApiError(error.status_code, str(error.detail)))

    for kind in (ApiError, ScenError, Exception):
        app.add_exception_handler(kind, on_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)


class BodyLimit:
    """ASGI middleware: answers 413 to a body of more than `max_bytes`."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = dict(scope["headers"]).get(b"content-length", b"0")
        if told.isdigit() and int(told) > self._max_bytes:
            await error_response(ApiError(413, self._text))(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise HTTPException(413, self._text)
            return message

        await self._app(scope, counted, send)

    @property
    def _text(self) -> str:
        return f"the body has more than {self._max_bytes} bytes"


PROXY_CALLBACK = "scen_serve.api.errors:middlewares"
_SAYINGS = {
    408: "no answer in time; ask for fewer tokens, or again later",
    429: "too many requests wait already; ask again later",
    500: "the server failed; see its log",
    503: "no replica can answer now; ask again in a moment",
}


def middlewares() -> list[Middleware]:
    """Called by Serve in each proxy."""
    return [Middleware(ProxyErrors)]


class ProxyErrors:
    """ASGI middleware: errors that are not JSON become the API's, with the same status."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; what is said of an error is replaced."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_replaced = False

        async def told(message: Message) -> None:
            nonlocal is_replaced
            if message["type"] == "http.response.start":
                is_replaced = message["status"] in _SAYINGS and not _is_json(message)
                if is_replaced:
                    await _replace(message, scope, receive, send)
            if not is_replaced:
                await send(message)

        await self._app(scope, receive, told)


def _is_json(message: Message) -> bool:
    kind = Headers(raw=message["headers"]).get("content-type", "")
    return kind.startswith(("application/json", "text/event-stream"))


async def _replace(start: Message, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with an error of the same status and request id."""
    status: int = start["status"]
    known = Headers(raw=start["headers"])
    retry = known.get("retry-after", "1" if status in (429, 503) else None)
    error = ApiError(status, _SAYINGS[status], None if retry is None else float(retry))
    response = error_response(error)
    if "x-request-id" in known:
        response.headers["x-request-id"] = known["x-request-id"]
    await response(scope, receive, send)
