"""Errors in OpenAI's format: `{"error": {"message", "type", "param", "code"}}`."""

import logging
import math
import re
from collections.abc import Sequence
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
_UNION_MEMBER = re.compile(r"str|int|list\[.*\]|literal\[.*\]")  # in the location of an error
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES = {401: "invalid_api_key", 403: "missing_scope", 429: "rate_limit_exceeded"}


class ApiError(Exception):
    """An error response. `param` is the field at fault; the request may be retried after `retry_s`
    seconds."""

    def __init__(
        self,
        status: int,
        message: str,
        retry_s: float | None = None,
        *,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_s = retry_s
        self.param = param
        self.code = code or _CODES.get(status)


def as_api_error(error: Exception) -> ApiError:
    """The error for the client; an unexpected one does not reveal its cause."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, BusyError):
        return ApiError(503, str(error), RETRY_S)
    if isinstance(error, IntegrityError):
        log.error("%s", error)
        return ApiError(503, "an edit in the store is damaged and cannot answer", 60.0)
    if isinstance(error, InputError | ConfigError):
        field, colon, _ = str(error).partition(":")
        return ApiError(400, str(error), param=field if colon and field.isidentifier() else None)
    if isinstance(error, NotFoundError):
        return ApiError(404, str(error).removeprefix("--"))
    status = 409 if isinstance(error, ScenError) else 500
    return ApiError(status, str(error) if status == 409 else "the server failed; see its log")


def error_body(error: ApiError) -> dict[str, Any]:
    """The JSON body of an error."""
    kind = _TYPES.get(error.status)
    if kind is None:
        kind = "invalid_request_error" if error.status < 500 else "server_error"
    text = str(error).encode("utf-8", "replace").decode()  # a request may contain lone surrogates
    return {"error": {"message": text, "type": kind, "param": error.param, "code": error.code}}


def error_response(error: ApiError) -> JSONResponse:
    """The HTTP response for an error."""
    headers = {}
    if error.retry_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_s)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(error), error.status, headers)


def install_handlers(app: FastAPI) -> None:
    """Return all errors of an app in this format."""

    async def on_error(_request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, ApiError | ScenError):
            log.error("a request failed", exc_info=error)
        return error_response(as_api_error(error))

    async def on_invalid(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = _most_precise(error.errors())
        where = [str(part) for part in first["loc"] if part != "body"]
        where = where[:1] + [part for part in where[1:] if not _UNION_MEMBER.fullmatch(part)]
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] == "json_invalid":
            where, reason = [], f"is not JSON ({first['ctx']['error']}, at character {where[-1]})"
        field = where[0][:100] if where and where[0].isidentifier() else None
        text = f"{'.'.join(where) or 'body'}: {reason}"[:500]
        return error_response(ApiError(400, text, param=field))

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        text = str(error.detail)
        if error.status_code in (404, 405):
            text = f"{request.method} {request.url.path[:200]}: {text}"
        response = error_response(ApiError(error.status_code, text))
        response.headers.update(error.headers or {})
        return response

    for kind in (ApiError, ScenError, Exception):
        app.add_exception_handler(kind, on_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)


def _most_precise(errors: Sequence[Any]) -> Any:
    """The first error; of a union, the one that lies deepest, and there a wrong type or role."""
    top = errors[0]["loc"][:2]
    same = [error for error in errors if error["loc"][:2] == top]
    return max(same, key=lambda error: (len(error["loc"]), error["type"] == "literal_error"))


class HostCheck:
    """ASGI middleware: rejects requests for host names other than this machine's own, which other
    sites' pages could send to a server without keys (DNS rebinding)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or reject it."""
        if scope["type"] == "http":
            host = Headers(scope=scope).get("host", "")
            name = host if host.endswith("]") else host.rpartition(":")[0] or host
            if name not in ("localhost", "127.0.0.1", "[::1]"):
                text = f"host: {host[:100]!r} is not a name of this machine; without API keys this "
                error = ApiError(400, text + "server accepts no other", code="invalid_host")
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class BodyLimit:
    """ASGI middleware: responds 413 to a body of more than `max_bytes`."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or reject it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_bytes:
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


# Errors raised by Ray Serve's proxies themselves get this format too, if the proxies' environment
# has RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=PROXY_CALLBACK; otherwise their body is plain text,
# with the same status and headers.
PROXY_CALLBACK = "scen_serve.api.errors:middlewares"
_PROXY_MESSAGES = {
    408: "the request timed out; ask for fewer tokens, or try again later",
    429: "too many requests wait already; try again later",
    500: "the server failed; see its log",
    503: "no replica is available; try again in a moment",
}


def middlewares() -> list[Middleware]:
    """Called by Serve in each proxy."""
    return [Middleware(ProxyErrors)]


class ProxyErrors:
    """ASGI middleware: replaces plain-text errors by the API's, with the same status."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and replace the body of an error."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_replaced = False

        async def checked(message: Message) -> None:
            nonlocal is_replaced
            if message["type"] == "http.response.start":
                is_replaced = message["status"] in _PROXY_MESSAGES and not _is_json(message)
                if is_replaced:
                    await _replace(message, scope, receive, send)
            if not is_replaced:
                await send(message)

        await self._app(scope, receive, checked)


def _is_json(message: Message) -> bool:
    kind = Headers(raw=message["headers"]).get("content-type", "")
    return kind.startswith(("application/json", "text/event-stream"))


async def _replace(start: Message, scope: Scope, receive: Receive, send: Send) -> None:
    """Send an error with the same status and request id."""
    status: int = start["status"]
    known = Headers(raw=start["headers"])
    retry = known.get("retry-after", "1" if status in (429, 503) else None)
    error = ApiError(status, _PROXY_MESSAGES[status], None if retry is None else float(retry))
    response = error_response(error)
    if "x-request-id" in known:
        response.headers["x-request-id"] = known["x-request-id"]
    await response(scope, receive, send)
