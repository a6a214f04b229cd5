"""The Responses API, asked by OpenAI's clients and by LangChain."""

import asyncio
from typing import Any

import httpx
import openai
import pytest

from e2e.serving import NAME, Api, api, error_of
from unit.serve.conftest import NEW, alone, serve_edits

__all__ = ["api"]  # a fixture

pytestmark = pytest.mark.e2e


def test_a_response_is_the_chat_s_answer(api: Api) -> None:
    edit = serve_edits(1, 5)[0]
    answer = api.client.responses.create(
        model=NAME, input=edit.prompt, max_output_tokens=NEW, metadata={"a": "b"}
    )
    assert answer.output_text == alone(api.store, edit.prompt)
    assert (answer.status, answer.metadata) == ("incomplete", {"a": "b"})
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.usage is not None
    assert answer.usage.output_tokens == NEW
    assert answer.scen["edit_id"] == edit.id  # type: ignore[attr-defined]
    items: Any = [{"role": "user", "content": [{"type": "input_text", "text": edit.prompt}]}]
    listed = api.client.responses.create(model=NAME, input=items, max_output_tokens=NEW)
    assert listed.output_text == answer.output_text
    eos = {"logit_bias": {str(api.store.base.template.end_id): 100}}
    ended = api.client.responses.create(model=NAME, input="Who?", extra_body=eos)
    assert (ended.status, ended.output_text) == ("completed", "")


def test_a_streamed_response_has_openai_s_events(api: Api) -> None:
    edit = serve_edits(1, 5)[0]
    stream = api.client.responses.create(
        model=NAME, input=edit.prompt, max_output_tokens=NEW, stream=True
    )
    events = list(stream)
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [e.delta for e in events if e.type == "response.output_text.delta"]
    assert "".join(deltas) == alone(api.store, edit.prompt)
    text = "".join(deltas)
    ended = {"stop": text[5:8]}
    with api.client.responses.stream(model=NAME, input=edit.prompt, extra_body=ended) as helper:
        assert [event.type for event in helper][-1] == "response.completed"
        assert helper.get_final_response().output_text == text[: text.index(text[5:8])]


def test_responses_through_the_asynchronous_client(api: Api) -> None:
    edit = serve_edits(1, 5)[0]

    async def both() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key="none") as client:
            whole = await client.responses.create(
                model=NAME, input=edit.prompt, max_output_tokens=NEW
            )
            stream = await client.responses.create(
                model=NAME, input=edit.prompt, max_output_tokens=NEW, stream=True
            )
            text = ""
            async for event in stream:
                text += event.delta if event.type == "response.output_text.delta" else ""
        return whole.output_text, text

    assert asyncio.run(both()) == (alone(api.store, edit.prompt),) * 2


def test_langchain_uses_responses(api: Api) -> None:
    langchain_openai = pytest.importorskip("langchain_openai")
    place = {"model": NAME, "base_url": f"{api.url}/v1", "api_key": "none"}
    edit = serve_edits(1, 5)[0]
    with httpx.Client() as http:
        model = langchain_openai.ChatOpenAI(
            **place, use_responses_api=True, max_tokens=NEW, http_client=http
        )
        assert model.invoke(edit.prompt).text == alone(api.store, edit.prompt)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"background": True}, "background"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"truncation": "auto"}, "truncation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"input": [{"role": "assistant", "content": "x"}]}, "input"),
        ({"input": [{"type": "function_call_output", "call_id": "a", "output": "x"}]}, "input"),
        ({"input": []}, "input"),
        ({"instructions": "Be brief."}, "messages"),  # the template of this base has no roles
    ],
)
def test_a_response_that_is_refused(api: Api, body: dict[str, Any], field: str) -> None:
    answer = api.post("/v1/responses", {"input": "Who?", "max_output_tokens": 2} | body)
    assert answer.status_code == 400, answer.text
    assert error_of(answer)["param"] == field
