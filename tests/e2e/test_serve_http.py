"""The API over real HTTP, asked by OpenAI's own client."""

import json
import time
from itertools import pairwise

import httpx
import openai
import pytest

from e2e.serving import chat, client, scen, service, store, url
from scen.snapshot.open import OpenStore
from scen_serve.engine.engine import Engine
from scen_serve.service import Service
from unit.serve.conftest import NEW, alone, serve_edits, unrelated

__all__ = ["client", "service", "store", "url"]  # fixtures

pytestmark = pytest.mark.e2e


def test_completions_and_chat(client: openai.OpenAI, store: OpenStore) -> None:
    edit = serve_edits(1, 5)[0]
    raw = store.base.template.render(edit.prompt)  # what chat makes of the prompt
    told = client.completions.create(model="tiny", prompt=raw, max_tokens=NEW)
    asked = chat(client, edit.prompt)
    text = alone(store, edit.prompt)
    assert told.choices[0].text == asked.choices[0].message.content == text
    assert scen(told)["edit_id"] == scen(asked)["edit_id"] == edit.id
    assert scen(told)["version"] == 2
    assert told.usage is not None
    prompt_tokens = len(store.base.template.encode_prompt(edit.prompt).ids)
    assert told.usage.prompt_tokens == prompt_tokens
    assert told.usage.total_tokens == prompt_tokens + told.usage.completion_tokens
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"


def test_headers_name_version_and_route(client: openai.OpenAI) -> None:
    for prompt, edit_id in ((serve_edits(1)[0].prompt, "edit-0"), (unrelated(1)[0], "")):
        raw = client.completions.with_raw_response.create(model="tiny", prompt=prompt, max_tokens=2)
        assert raw.headers["x-scen-version"] == "2"
        assert raw.headers["x-scen-edit"] == edit_id


@pytest.mark.parametrize("index", [3, None])
def test_a_stream_tells_the_same(
    client: openai.OpenAI,
    store: OpenStore,
    index: int | None,
) -> None:
    prompt = unrelated(1)[0] if index is None else serve_edits(1, index)[0].prompt
    chunks = list(
        client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": prompt}],
            max_tokens=NEW,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == alone(store, prompt)
    assert chunks[0].choices[0].delta.role == "assistant"
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert reasons[-1] in ("length", "stop")
    assert set(reasons[:-1]) == {None}
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0
    edit_id = None if index is None else f"edit-{index}"
    assert {(scen(c)["version"], scen(c)["edit_id"]) for c in chunks} == {(2, edit_id)}


def test_many_choices_of_a_seed(client: openai.OpenAI) -> None:
    def drawn(stream: bool) -> list[str]:
        common = {"model": "tiny", "prompt": ["Who?", "Why?"], "max_tokens": 8, "n": 2}
        more = common | {"temperature": 1.0, "top_p": 0.95, "seed": 5}
        if not stream:
            whole = client.completions.create(**more)  # type: ignore[call-overload]
            assert whole.usage.prompt_tokens == len("Who?") + len("Why?")
            return [choice.text for choice in whole.choices]
        texts = [""] * 4
        for chunk in client.completions.create(**more, stream=True):  # type: ignore[call-overload]
            texts[chunk.choices[0].index] += chunk.choices[0].text
        return texts

    assert drawn(stream=False) == drawn(stream=True)
    assert len(set(drawn(stream=False))) == 4


def test_log_probabilities(client: openai.OpenAI, store: OpenStore) -> None:
    raw = store.base.template.render("Who?")
    told = client.completions.create(model="tiny", prompt=raw, max_tokens=3, logprobs=2)
    found = told.choices[0].logprobs
    assert found is not None
    assert found.token_logprobs
    assert found.top_logprobs
    assert len(found.token_logprobs) == 3
    assert all(len(top) == 2 for top in found.top_logprobs)
    assert found.text_offset == [
        len(raw) + i for i in range(3)
    ]  # of the prompt and the answer, in one
    asked = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "Who?"}],
        max_tokens=3,
        logprobs=True,
        top_logprobs=2,
    )
    logprobs = asked.choices[0].logprobs
    assert logprobs is not None
    content = logprobs.content or []
    assert [c.logprob for c in content] == pytest.approx(found.token_logprobs, abs=1e-4)


@pytest.mark.parametrize("stream", [False, True])
def test_offsets_count_from_the_beginning_of_the_prompt(
    client: openai.OpenAI, stream: bool
) -> None:
    """As OpenAI's do, of each choice's own prompt."""
    prompts = ["Who?", " What is it? "]
    ask = {"model": "tiny", "prompt": prompts, "n": 2, "max_tokens": 40, "logprobs": 0, "seed": 3}
    told = client.completions.create(**ask, temperature=1.0, stream=stream)  # type: ignore[call-overload]
    texts = [prompt for prompt in prompts for _ in range(2)]
    begins = [len(text) for text in texts]
    tokens = [list[tuple[int, str]]() for _ in texts]
    for choice in (choice for chunk in (told if stream else [told]) for choice in chunk.choices):
        texts[choice.index] += choice.text
        if choice.logprobs is not None:
            found = choice.logprobs
            tokens[choice.index] += zip(found.text_offset, found.tokens, strict=True)
    checked = 0
    for text, begin, pairs in zip(texts, begins, tokens, strict=True):
        offsets = [at for at, _ in pairs]
        assert (len(offsets), offsets[0]) == (40, begin)
        assert offsets == sorted(offsets)
        for (_, before), (at, token) in pairwise(pairs):  # random bytes are letters now and then
            if len(before) == len(token) == 1 and (before + token).isascii():
                assert text[at] == token
                checked += 1
    assert checked > 5


BAD_REQUESTS: list[tuple[dict[str, object], str]] = [
    ({"prompt": "Who? " * 100}, "context; shorten"),
    ({"prompt": ""}, "has no tokens"),
    ({"prompt": "\ud800"}, "valid text"),
    ({"prompt": 5}, "prompt"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 10**30}, "shorten"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": float("nan")}, "temperature"),
    ({"tools": [{}]}, "tools: is not supported"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"scen": {"version": -1}}, "versions count from 0"),
    ({"scen": {"rout": "off"}}, "scen.rout"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"stop": ""}, "stop"),
]


def test_what_cannot_be_answered_is_a_bad_request(url: str) -> None:
    head = {"Authorization": "Bearer sk-reader-1", "Content-Type": "application/json"}
    for body, words in BAD_REQUESTS:
        text = json.dumps({"model": "tiny", "prompt": "Who?", "max_tokens": 4} | body)
        answer = httpx.post(f"{url}/v1/completions", content=text, headers=head)
        assert answer.status_code == 400, (words, answer.text)
        assert words in answer.json()["error"]["message"]
        assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("content", ["", " \n", []])
def test_an_empty_message_is_refused_by_its_own_name(url: str, content: object) -> None:
    head = {"Authorization": "Bearer sk-reader-1"}
    turn = {"role": "user", "content": content}
    for path, field in (("chat/completions", "messages"), ("responses", "input")):
        body = {"model": "tiny", field: [turn]}
        answer = httpx.post(f"{url}/v1/{path}", json=body, headers=head)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert (error["param"], error["message"].split(":")[0]) == (field, field)
        assert "the last message has no text" in error["message"]


def test_an_empty_input_is_refused_by_its_own_name(url: str) -> None:
    head = {"Authorization": "Bearer sk-reader-1"}
    body = {"model": "tiny", "input": " "}
    answer = httpx.post(f"{url}/v1/responses", json=body, headers=head)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input")


def test_a_broken_or_too_large_body(url: str) -> None:
    head = {"Authorization": "Bearer sk-reader-1", "Content-Type": "application/json"}
    post = f"{url}/v1/completions"
    assert httpx.post(post, content="{", headers=head).status_code == 400
    assert httpx.post(post, content="[" * 10_000, headers=head).status_code == 400
    assert httpx.post(post, content="x" * 30_000, headers=head).status_code == 413
    pieces = (b"x" * 10_000 for _ in range(3))
    told = httpx.post(post, content=pieces, headers=head)
    assert (told.status_code, "20000" in told.json()["error"]["message"]) == (413, True)


def test_an_unknown_model_and_path(url: str, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="gpt-4", prompt="Who?")
    assert caught.value.code == "model_not_found"
    assert httpx.get(f"{url}/v1/nothing").json()["error"]["type"] == "invalid_request_error"


def test_a_full_queue_says_when_to_come_again(service: Service, client: openai.OpenAI) -> None:
    assert isinstance(service.engine, Engine)
    service.engine._waiting._limit = 0
    with pytest.raises(openai.InternalServerError) as caught:
        chat(client, "Who?")
    assert caught.value.response.status_code == 503
    assert caught.value.response.headers["retry-after"] == "1"


def test_a_client_who_goes_away_frees_the_row(service: Service, client: openai.OpenAI) -> None:
    stream = client.completions.create(model="tiny", prompt="Who?", max_tokens=200, stream=True)
    next(iter(stream))
    stream.close()
    until = time.monotonic() + 20
    while service.engine.num_running and time.monotonic() < until:
        time.sleep(0.01)
    assert service.engine.num_running == 0
