"""What Ray Serve's proxy says in plain text reaches clients in the form of the API's errors."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import openai
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import ASGIApp

from scen_serve.api.errors import PROXY_CALLBACK, ProxyErrors


def ask(app: ASGIApp) -> httpx.Response:
    async def told() -> httpx.Response:
        transport = httpx.ASGITransport(ProxyErrors(app))
        async with httpx.AsyncClient(transport=transport, base_url="http://proxy") as client:
            return await client.post("/v1/completions", json={})

    return asyncio.run(told())


@pytest.mark.parametrize(
    ("status", "headers", "retry", "kind"),
    [
        (429, {"retry-after": "7"}, "7", "rate_limit_error"),
        (503, {}, "1", "server_error"),
        (408, {}, None, "invalid_request_error"),
        (500, {}, None, "server_error"),
    ],
)
def test_plain_text_becomes_an_error_of_the_api(
    status: int, headers: dict[str, str], retry: str | None, kind: str
) -> None:
    said = "Request dropped due to backpressure (num_queued_requests=3)."
    told = ask(PlainTextResponse(said, status, {"x-request-id": "r-1", **headers}))
    assert told.status_code == status
    assert told.headers.get("retry-after") == retry
    assert told.headers["x-request-id"] == "r-1"
    error = told.json()["error"]
    assert (error["type"], error["param"]) == (kind, None)
    assert "backpressure" not in error["message"]
    assert len(told.content) == int(told.headers["content-length"])


@pytest.mark.parametrize(
    "response",
    [
        PlainTextResponse("scen_requests_total 5"),
        PlainTextResponse("Path '/x' not found", 404),
        JSONResponse({"error": {"message": "own words"}}, 503, {"retry-after": "9"}),
        JSONResponse({"status": "no snapshot is loaded"}, 503),
    ],
)
def test_all_else_is_left_as_it_is(response: Response) -> None:
    told = ask(response)
    assert (told.status_code, told.content) == (response.status_code, response.body)
    assert told.headers.get("retry-after") == response.headers.get("retry-after")


def test_streams_come_through() -> None:
    async def pieces() -> AsyncIterator[str]:
        yield "data: 1\n\n"
        yield "data: [DONE]\n\n"

    told = ask(StreamingResponse(pieces(), media_type="text/event-stream"))
    assert told.text == "data: 1\n\ndata: [DONE]\n\n"


def test_openai_s_client_sees_a_rate_limit() -> None:
    app = ProxyErrors(PlainTextResponse("dropped", 429, {"retry-after": "2"}))

    async def told() -> openai.RateLimitError:
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app))
        async with openai.AsyncOpenAI(
            base_url="http://proxy/v1", api_key="k", max_retries=0, http_client=http
        ) as client:
            with pytest.raises(openai.RateLimitError) as caught:
                await client.completions.create(model="tiny", prompt="Who?")
        return caught.value

    error = asyncio.run(told())
    assert error.type == "rate_limit_error"
    assert error.response.headers["retry-after"] == "2"


def test_serve_finds_it_by_its_name() -> None:
    from ray.serve._private.http_util import validate_http_proxy_callback_return
    from ray.serve._private.utils import call_function_from_import_path

    [found] = validate_http_proxy_callback_return(call_function_from_import_path(PROXY_CALLBACK))
    assert str(found.cls) == str(ProxyErrors)
