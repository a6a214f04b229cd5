"""What Ray Serve's proxy says by itself (too many wait, no replica is there, the time is over), in
the form of the API's errors.

The proxies of a cluster do so where `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` is PROXY_CALLBACK
in their environment. Without it they answer the same statuses and headers, in plain text.
"""

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scen_serve.problems import ApiError, error_response

PROXY_CALLBACK = "scen_serve.proxy_errors:middlewares"
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
