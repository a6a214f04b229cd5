"""One form for all errors, browsers, readiness, and edits in doubtful JSON."""

import threading

import httpx
import pytest
import uvicorn

from e2e.serving import NAME, ORIGIN, Api, api, error_of, store
from scen.snapshot.open import OpenStore
from scen_serve.api.access import AppSettings
from scen_serve.api.app import create_app
from scen_serve.service import Service
from scen_serve.settings import EngineLimits

__all__ = ["api", "store"]  # fixtures

pytestmark = pytest.mark.e2e


def test_a_model_s_name_may_have_slashes(api: Api) -> None:
    assert api.client.models.retrieve(NAME).id == NAME
    assert error_of(httpx.get(f"{api.url}/v1/models/org/other"))["code"] == "model_not_found"


def test_browsers_are_answered_where_their_page_is_allowed(api: Api) -> None:
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-a"}
    url = f"{api.url}/v1/chat/completions"
    fine = httpx.options(url, headers={"Origin": ORIGIN, **ask})
    assert fine.status_code == 200
    assert fine.headers["access-control-allow-origin"] == ORIGIN
    other = httpx.options(url, headers={"Origin": "https://evil.example", **ask})
    assert "access-control-allow-origin" not in other.headers
    answer = api.post("/v1/completions", {"prompt": "x", "max_tokens": 1}, Origin=ORIGIN)
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "X-Scen-Version" in answer.headers["access-control-expose-headers"]


def test_every_error_has_one_form(api: Api) -> None:
    wrong = {
        400: httpx.get(f"{api.url}/v1/models", headers={"Host": "evil.example"}),
        404: httpx.get(f"{api.url}/v1/nothing"),
        405: httpx.put(f"{api.url}/v1/completions"),
        413: api.post("/v1/completions", "x" * (2 << 20)),
    }
    for status, answer in wrong.items():
        assert answer.status_code == status
        assert error_of(answer)["type"] == "invalid_request_error"
    assert wrong[405].headers["allow"] == "POST"
    assert error_of(wrong[400])["code"] == "invalid_host"
    assert error_of(api.post("/v1/completions", {"prompt": 5}))["param"] == "prompt"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"prompt": "a", "target": "b", "target": "c"}', "target"),
        ('{"prompt": "a", "target": "b", "metadata": {"k": "1", "k": "2"}}', "metadata"),
        ('{"prompt": "a", "target": "b", "metadata": {"score": NaN}}', "metadata"),
        ('{"prompt": "a", "target": "b", "metadata": {"score": [1, -Infinity]}}', "metadata"),
        ('{"prompt": "a", "target": "b", "priority": 1e999}', "priority"),
    ],
)
def test_an_edit_with_doubtful_json_is_refused(api: Api, text: str, field: str) -> None:
    answer = api.post("/v1/edits", text)
    assert answer.status_code == 400, answer.text
    assert error_of(answer)["param"] == field


def test_a_server_without_a_version_says_when_to_come_again(store: OpenStore) -> None:
    """It is alive, and not ready yet."""
    service = Service(store, EngineLimits(max_rows=2, max_context=256), poll_s=60)
    service.follower.look = lambda: False  # type: ignore[method-assign]
    config = uvicorn.Config(
        create_app(service, AppSettings("tiny")), host="127.0.0.1", port=0, log_level="warning"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        thread.join(0.01)
    host, port = server.servers[0].sockets[0].getsockname()
    url = f"http://{host}:{port}"
    body = {"model": "tiny", "prompt": "Who?", "max_tokens": 1}
    try:
        assert httpx.get(f"{url}/healthz").status_code == 200
        for answer in (httpx.get(f"{url}/readyz"), httpx.post(f"{url}/v1/completions", json=body)):
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
            assert error_of(answer)["type"] == "server_error"
    finally:
        server.should_exit = True
        thread.join(30)


MESSAGE = {"role": "user", "content": "Who?"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}


@pytest.mark.parametrize(
    ("path", "body", "start"),
    [
        ("chat/completions", {"messages": [{"role": "tool", "content": "5"}]}, "messages.0.role: "),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, IMAGE]}]},
            "messages.0.content.1.type: ",
        ),
        (
            "chat/completions",
            {"messages": [MESSAGE, {"role": "assistant", "content": None}, MESSAGE]},
            "messages.1.content: ",
        ),
        ("chat/completions", {"messages": [MESSAGE], "stop": [None]}, "stop.0: "),
        ("chat/completions", {"messages": [MESSAGE], "top_logprobs": 2}, "top_logprobs: "),
        ("chat/completions", {"messages": None}, "messages: Field required"),
        ("completions", {"prompt": [True, False]}, "prompt.0: "),
        (
            "completions",
            {"prompt": "a", "echo": True, "logprobs": 1, "structured_outputs": {"choice": ["x"]}},
            "echo: ",
        ),
        (
            "responses",
            {"input": [{"type": "function_call_output", "call_id": "1", "output": "x"}]},
            "input.0.type: ",
        ),
    ],
)
def test_the_part_at_fault_is_named(
    api: Api, path: str, body: dict[str, object], start: str
) -> None:
    answer = api.post(f"/v1/{path}", body)
    error = error_of(answer)
    assert (answer.status_code, error["param"]) == (400, start.partition(":")[0].split(".")[0])
    assert error["message"].startswith(start)


def test_null_is_the_same_as_nothing(api: Api) -> None:
    names = ("stop", "max_tokens", "scen", "response_format", "structured_outputs", "user", "tools")
    plain = api.post("/v1/chat/completions", {"messages": [MESSAGE]})
    nulls = api.post("/v1/chat/completions", {"messages": [MESSAGE], **dict.fromkeys(names)})
    assert nulls.json()["choices"] == plain.json()["choices"]
    assert "x-scen-ignored-fields" not in nulls.headers
    raw = api.post("/v1/completions", {"prompt": "a", "max_tokens": 1, "add_special_tokens": None})
    assert raw.status_code == 200


def test_a_body_that_is_no_json_and_a_version_that_is_none(api: Api) -> None:
    error = error_of(api.post("/v1/completions", "{"))
    assert error["message"].startswith("body: is not JSON (")
    assert error["param"] is None
    missing = api.post("/v1/chat/completions", {"messages": [MESSAGE], "scen": {"version": 99}})
    assert missing.status_code == 404
    assert error_of(missing)["message"].startswith("version: 99 ")
