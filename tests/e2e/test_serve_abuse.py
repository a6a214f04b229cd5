"""What people should not send, over real HTTP: no server errors, nothing told to the wrong ones,
and everyone else is answered. `SCEN_TEST_BODIES=10000` sends more bodies than usual."""

import gc
import json
import os
import socket
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from e2e.serving import chat, client, service, store, url
from scen.snapshot.open import OpenStore
from scen_serve.service import Service
from unit.serve.conftest import alone, serve_edits

__all__ = ["client", "service", "store", "url"]  # fixtures

pytestmark = pytest.mark.e2e
BODIES = int(os.environ.get("SCEN_TEST_BODIES", "600"))
BATCH = 200
ROOT = {"Authorization": "Bearer sk-root-123"}
PATHS = ("/v1/completions", "/v1/chat/completions", "/v1/edits")
MB = 1 << 20

TEXTS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(["", " ", "\ud800", "\x00", "a" * 300, "سلام", "👩‍👩‍👧", "</s>", "<s>[INST]"]),
)
NUMBERS = st.one_of(
    st.integers(-3, 6), st.sampled_from([2**63, -(2**70), 10**40]), st.floats(), st.floats(0, 2)
)
PLAIN = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    PLAIN, lambda more: st.lists(more, max_size=3) | st.dictionaries(TEXTS, more, max_size=3)
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system", "assistant"]) | VALUES, "content": TEXTS}
    )
    | VALUES,
    max_size=3,
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "prompt": TEXTS | st.lists(TEXTS, max_size=3),
    "messages": MESSAGES,
    "temperature": NUMBERS,
    "top_p": NUMBERS,
    "n": st.integers(0, 3),
    "seed": NUMBERS,
    "stop": TEXTS | st.lists(TEXTS, max_size=20),
    "stream": st.booleans(),
    "stream_options": st.fixed_dictionaries({"include_usage": st.booleans()}),
    "logprobs": st.integers(-1, 30) | st.booleans(),
    "top_logprobs": st.integers(-1, 30),
    "scen": st.fixed_dictionaries({}, optional={"version": NUMBERS | TEXTS, "route": TEXTS}),
    "id": TEXTS,
    "target": TEXTS,
    "subject": TEXTS,
    "rephrases": st.lists(TEXTS | VALUES, max_size=3),
    "valid_until": TEXTS | NUMBERS,
    "metadata": st.dictionaries(TEXTS, VALUES, max_size=2),
}
WILD = st.fixed_dictionaries(
    {"model": st.just("tiny") | VALUES, "max_tokens": st.integers(-1, 3)},
    optional={name: some | VALUES for name, some in FIELDS.items()},
)
FINE: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "Who?"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Who?"}]},
    "/v1/edits": {"prompt": "Who is it?", "target": "nobody"},
}


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A path and a body: anything, or one that is fine but for a field or two."""
    path = draw(st.sampled_from(PATHS))
    if draw(st.booleans()):
        return path, draw(WILD)
    names = draw(st.lists(st.sampled_from(sorted(FIELDS)), max_size=2))
    few = {name: draw(FIELDS[name]) for name in names}
    asked = {} if path == "/v1/edits" else {"model": "tiny", "max_tokens": 2}
    return path, FINE[path] | asked | few


def resident_bytes() -> int:
    """Memory of this process, the server included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def require_honest(told: httpx.Response) -> None:
    """No server error but one that says when to come again; errors have OpenAI's form."""
    assert told.status_code < 500 or told.status_code == 503, told.text
    if told.status_code >= 400:
        error = told.json()["error"]
        assert isinstance(error["message"], str)
        assert error["message"]
        assert len(told.text) < 2000
    if told.status_code in (429, 503):
        assert int(told.headers["retry-after"]) >= 1


def send_some(http: httpx.Client, number: int) -> Counter[int]:
    """Send so many bodies of one seed; how often each status came back."""
    statuses: Counter[int] = Counter()

    @seed(number)
    @settings(
        max_examples=BATCH,
        phases=[Phase.generate, Phase.shrink],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(requests())
    def send(asked: tuple[str, dict[str, Any]]) -> None:
        path, body = asked
        head = {"Content-Type": "application/json"}
        told = http.post(path, content=json.dumps(body), headers=head)
        require_honest(told)
        statuses[told.status_code] += 1

    send()
    gc.collect()  # what hypothesis remembers of these
    return statuses


def test_random_bodies_are_answered_or_refused(
    url: str, client: openai.OpenAI, store: OpenStore
) -> None:
    statuses: Counter[int] = Counter()
    sizes: list[int] = []
    with httpx.Client(base_url=url, headers=ROOT, timeout=60) as http:
        for number in range(BODIES // BATCH):
            statuses += send_some(http, number)
            sizes.append(resident_bytes())
    assert statuses[400] > BODIES / 10
    assert statuses[200] > BODIES / 20  # enough get through, or nothing was tested
    assert statuses[202] > BODIES / 50
    assert sizes[-1] - sizes[len(sizes) // 2] < 50 * MB, sizes
    edit = serve_edits(1)[0]
    assert chat(client, edit.prompt).choices[0].message.content == alone(store, edit.prompt)


def test_bodies_that_are_no_objects(url: str) -> None:
    deep = [b"[" * 5000, b'{"a":' * 900]
    for body in (b"", b"{", b"\xff\xfe", b"null", b"[]", b'"a"', b"1e999", *deep):
        for path in PATHS:
            answer = httpx.post(f"{url}{path}", content=body, headers=ROOT)
            assert answer.status_code in (400, 413), (body[:9], answer.text)
            require_honest(answer)


def test_every_path_is_closed_to_strangers(url: str) -> None:
    schema = httpx.get(f"{url}/openapi.json").json()
    closed = 0
    for path, methods in schema["paths"].items():
        where = path.replace("{", "").replace("}", "")
        for method in methods:
            for head in ({}, {"Authorization": "Bearer sk-root-12"}, {"Authorization": "Basic x"}):
                told = httpx.request(method, f"{url}{where}", headers=head)
                if where in ("/healthz", "/readyz"):
                    assert told.status_code == 200
                    continue
                assert told.status_code == 401, (method, where, told.text)
                require_honest(told)
                closed += 1
    assert closed >= 3 * 10
    for word in ("reader", "news"):  # known, and without the right
        head = {"Authorization": f"Bearer sk-{word}-1"[: 18 + len(word)]}
        told = httpx.post(f"{url}/v1/snapshots/1:activate", headers=head)
        assert told.status_code in (401, 403)


def test_clients_who_say_nothing_hold_nobody_up(
    url: str, client: openai.OpenAI, service: Service
) -> None:
    place = urlsplit(url)
    assert place.hostname is not None
    beginnings = (
        b"",
        b"POST /v1/compl",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX: ",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sk-root-123\r\n"
        b'Content-Type: application/json\r\nContent-Length: 900\r\n\r\n{"model": "ti',
    )
    silent = []
    for index in range(120):
        one = socket.create_connection((place.hostname, place.port or 80))
        one.sendall(beginnings[index % len(beginnings)])
        silent.append(one)
    edit = serve_edits(1)[0]
    for _ in range(3):
        assert chat(client, edit.prompt).choices[0].message.content
    for one in silent:
        one.close()
    assert chat(client, edit.prompt).choices[0].message.content
    assert service.is_healthy
