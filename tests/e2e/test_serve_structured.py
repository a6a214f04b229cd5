"""Structured outputs, as OpenAI's clients and vLLM's ask for them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

import scen
from e2e.serving import NAME, Api, Server, api, error_of
from scen.config import BaseConfig
from scen.fs import Storage
from scen.snapshot.open import open_store
from scen_serve.api.access import AppSettings
from scen_serve.api.app import create_app
from scen_serve.service import Service
from scen_serve.settings import EngineLimits
from unit.serve.conftest import serve_edits

__all__ = ["api"]  # a fixture

pytestmark = pytest.mark.e2e


class Founder(BaseModel):
    """Small enough for the random base to finish within its context."""

    known: bool
    name: Literal["Ann", "Bo"]
    year: Literal[1969, 2006]


def asked(index: int = 5) -> Any:
    return [{"role": "user", "content": serve_edits(1, index)[0].prompt}]


def test_chat_parses_into_a_model(api: Api) -> None:
    answer = api.client.chat.completions.parse(
        model=NAME, messages=asked(), response_format=Founder, max_tokens=128
    )
    found = answer.choices[0].message.parsed
    assert isinstance(found, Founder)
    assert answer.choices[0].finish_reason == "stop"
    assert list(json.loads(answer.choices[0].message.content or "")) == ["known", "name", "year"]
    assert answer.scen["unplaced"] == "edit-5"  # type: ignore[attr-defined]


def test_a_chat_stream_parses_into_a_model(api: Api) -> None:
    whole = api.client.chat.completions.parse(
        model=NAME, messages=asked(), response_format=Founder, max_tokens=128
    )
    with api.client.chat.completions.stream(
        model=NAME, messages=asked(), response_format=Founder, max_tokens=128
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert kinds.count("content.delta") > 5
    assert final.choices[0].message.parsed == whole.choices[0].message.parsed


def test_responses_parse_into_a_model(api: Api) -> None:
    found = api.client.responses.parse(
        model=NAME, input=asked(), text_format=Founder, max_output_tokens=128
    )
    assert isinstance(found.output_parsed, Founder)
    assert found.text is not None
    form: Any = found.text.format
    assert (form.type, form.name) == ("json_schema", "Founder")
    assert "year" in form.schema_["properties"]
    with api.client.responses.stream(
        model=NAME, input=asked(), text_format=Founder, max_output_tokens=128
    ) as stream:
        assert [event.type for event in stream][-1] == "response.completed"
        assert stream.get_final_response().output_parsed == found.output_parsed


def test_samples_of_one_prompt_all_match(api: Api) -> None:
    answer = api.client.chat.completions.parse(
        model=NAME,
        messages=asked(),
        response_format=Founder,
        max_tokens=128,
        n=4,
        temperature=1.5,
        seed=1,
        logprobs=True,
    )
    parsed = [choice.message.parsed for choice in answer.choices]
    assert all(isinstance(found, Founder) for found in parsed)
    assert len({found.model_dump_json() for found in parsed if found}) > 1


@pytest.mark.parametrize(
    ("asked_for", "options"),
    [
        ({"choice": ["yes", "no", "ü\n\"'\\"]}, {"yes", "no", "ü\n\"'\\"}),
        ({"regex": "(ab|cd){2}"}, {"abab", "abcd", "cdab", "cdcd"}),
        ({"json": {"enum": ["x", 3]}}, {'"x"', "3"}),
        ({"json": '{"const": null}'}, {"null"}),
    ],
)
def test_structured_outputs_of_vllm(api: Api, asked_for: Any, options: set[str]) -> None:
    for prompt in ("Who?", "Say yes.", "42"):
        choice = api.complete(prompt=prompt, max_tokens=64, structured_outputs=asked_for)
        assert choice["text"] in options
        assert choice["finish_reason"] == "stop"


def test_any_json_object(api: Api) -> None:
    """A random base seldom ends its object, so the answer is the beginning of one."""
    for more in (
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"json_object": True}},
    ):
        answer = api.post("/v1/chat/completions", {"messages": asked(), "max_tokens": 40} | more)
        assert answer.json()["choices"][0]["message"]["content"].startswith("{")
    answer = api.post(
        "/v1/responses", {"input": "Who?", "text": {"format": {"type": "json_object"}}}
    )
    assert answer.json()["output"][0]["content"][0]["text"].startswith("{")


def test_the_end_of_the_form_is_the_end_of_the_answer(api: Api) -> None:
    """Neither ignore_eos nor min_tokens makes more of it."""
    form = {"structured_outputs": {"choice": ["no"]}, "max_tokens": 40}
    for more in ({"ignore_eos": True}, {"min_tokens": 30}, {"logit_bias": {"2": -100}}):
        choice = api.complete(**form, **more)
        assert (choice["text"], choice["finish_reason"]) == ("no", "stop")


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("chat/completions", {"response_format": {"type": "json_schema"}}, "response_format"),
        ("chat/completions", {"response_format": {"type": "xml"}}, "response_format"),
        ("chat/completions", {"response_format": "json"}, "response_format"),
        (
            "chat/completions",
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "x"}}}},
            "response_format",
        ),
        (
            "chat/completions",
            {"response_format": {"type": "json_schema", "json_schema": {"schema": [1]}}},
            "response_format",
        ),
        (
            "completions",
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"schema": {"$ref": "https://example.org/schema"}},
                }
            },
            "response_format",
        ),
        ("responses", {"text": {"format": {"type": "json_schema"}}}, "text"),
        (
            "responses",
            {"text": {"format": {"type": "json_schema", "schema": {"properties": 3}}}},
            "text.format",
        ),
        ("completions", {"structured_outputs": {"regex": "("}}, "structured_outputs"),
        (
            "completions",
            {"structured_outputs": {"regex": "a", "choice": ["b"]}},
            "structured_outputs",
        ),
        ("completions", {"structured_outputs": {"choice": []}}, "structured_outputs"),
        ("completions", {"structured_outputs": {"json": "{"}}, "structured_outputs"),
        ("completions", {"structured_outputs": {"json": "[1]"}}, "structured_outputs"),
        ("completions", {"structured_outputs": {"grammar": "root ::= x"}}, "structured_outputs"),
        ("completions", {"structured_outputs": {"regex": "[^\\s\\S]"}}, "structured_outputs"),
        (
            "completions",
            {
                "structured_outputs": {
                    "json": {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}
                }
            },
            "structured_outputs",
        ),
        ("completions", {"structured_outputs": {"json": {"not": {}}}}, "structured_outputs"),
        ("completions", {"guided_json": SCHEMA}, "guided_json"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(
    api: Api, path: str, body: dict[str, Any], field: str
) -> None:
    prompt = {"chat/completions": {"messages": asked()}, "responses": {"input": "Who?"}}
    answer = api.post(f"/v1/{path}", prompt.get(path, {"prompt": "Who?"}) | body)
    assert answer.status_code == 400
    error = error_of(answer)
    assert error["param"] == field
    assert error["message"].startswith(field)


FACTS = {"Who founded amber?": 'Ann "A" Ü', "When did birch and dune begin?": "2006"}
SETTINGS = {
    "base": {"template": "llama2-inst", "dtype": "float32", "device": "cpu"},
    "expert": {"layer": 3, "steps": 40, "lr": 0.1},
}


@pytest.fixture(scope="module")
def learned(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A server of two edits that the tiny base has learned."""
    folder = tmp_path_factory.mktemp("learned") / "store"
    opened = scen.open(str(folder), base=str(tiny_folder), settings=SETTINGS)
    opened.edit([{"prompt": prompt, "target": target} for prompt, target in FACTS.items()])
    store = open_store(Storage(str(folder)), BaseConfig())
    service = Service(store, EngineLimits(max_rows=8, max_context=512), poll_s=0.05)
    server = Server(create_app(service, AppSettings(NAME)))
    url = server.start()
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield Api(url, store, client)
    server.stop()


def ask_for(api: Api, prompt: str, schema: dict[str, Any], **more: Any) -> tuple[Any, Any]:
    """The answer under a schema, and its response."""
    form = {"type": "json_schema", "json_schema": {"name": "form", "schema": schema}}
    body = {"messages": [{"role": "user", "content": prompt}], "response_format": form} | more
    response = api.post("/v1/chat/completions", body)
    assert response.status_code == 200, response.text
    [choice] = response.json()["choices"]
    assert choice["finish_reason"] == "stop"
    return json.loads(choice["message"]["content"]), response


def of_object(**properties: Any) -> dict[str, Any]:
    closed = {"additionalProperties": False, "required": [*properties]}
    return {"type": "object", "properties": properties} | closed


TEXT = {"type": "string"}
KIND = {"enum": ["a", "b"]}


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        (TEXT, None),
        (of_object(answer=TEXT), "answer"),
        (of_object(kind=KIND, founder=TEXT), "founder"),
        (of_object(note={"type": "string", "maxLength": 3}, answer=TEXT, also=KIND), "answer"),
        ({"$defs": {"F": of_object(who=TEXT, sure=KIND)}, "$ref": "#/$defs/F"}, "who"),
        (of_object(who={"anyOf": [TEXT, {"type": "null"}]}), "who"),
    ],
)
def test_an_edit_answers_inside_the_form(learned: Api, schema: Any, place: str | None) -> None:
    """Its answer is the one without a form; the base fills in the rest."""
    for prompt, target in FACTS.items():
        plain = learned.post(
            "/v1/chat/completions", {"messages": [{"role": "user", "content": prompt}]}
        )
        assert plain.json()["choices"][0]["message"]["content"] == target
        found, response = ask_for(learned, prompt, schema)
        assert (found if place is None else found[place]) == target
        assert response.json()["scen"]["edit_id"] == plain.json()["scen"]["edit_id"] is not None
        assert response.headers["x-scen-edit"] == plain.headers["x-scen-edit"] != ""
        assert "x-scen-unplaced-edit" not in response.headers


def test_a_number_is_one_in_the_form(learned: Api) -> None:
    prompt = "When did birch and dune begin?"
    found, _ = ask_for(learned, prompt, of_object(name=KIND, year={"type": "integer"}))
    assert found["year"] == 2006


def test_an_answer_without_a_place_is_left_to_the_base(learned: Api) -> None:
    """And the reply says so; what the base then says is what it says of itself."""
    prompt = "Who founded amber?"
    schema = of_object(kind=KIND)
    found, response = ask_for(learned, prompt, schema)
    edit_id = response.json()["scen"]["unplaced"]
    assert learned.store.ledger.snapshot().ids[0] == edit_id
    assert response.json()["scen"]["edit_id"] is None
    assert response.headers["x-scen-unplaced-edit"] == edit_id
    assert response.headers["x-scen-edit"] == ""
    base, response = ask_for(learned, prompt, schema, scen={"route": "off"})
    assert found == base
    assert "unplaced" not in response.json()["scen"]
    two = of_object(one={**TEXT, "maxLength": 20}, other={**TEXT, "maxLength": 20})
    body = {"type": "json_schema", "json_schema": {"schema": two}}
    message = [{"role": "user", "content": prompt}]
    answer = learned.post("/v1/chat/completions", {"messages": message, "response_format": body})
    assert answer.json()["scen"]["unplaced"] == edit_id


def test_an_edit_answers_in_a_streamed_form(learned: Api) -> None:
    class Form(BaseModel):
        answer: str

    for prompt, target in FACTS.items():
        asked: Any = [{"role": "user", "content": prompt}]
        client = learned.client
        with client.chat.completions.stream(
            model=NAME, messages=asked, response_format=Form
        ) as stream:
            parsed = stream.get_final_completion().choices[0].message.parsed
        assert parsed == Form(answer=target)
        found = client.responses.parse(model=NAME, input=asked, text_format=Form)
        assert found.output_parsed == Form(answer=target)


def test_an_edit_is_one_of_the_choices(learned: Api) -> None:
    for choices, edited in ((["2006", "1998"], True), (["1998", "1999"], False)):
        asked = [{"role": "user", "content": "When did birch and dune begin?"}]
        body = {"messages": asked, "structured_outputs": {"choice": choices}}
        answer = learned.post("/v1/chat/completions", body)
        found = answer.json()["choices"][0]["message"]["content"]
        assert found in choices
        assert (found == "2006") is edited
        assert ("x-scen-unplaced-edit" in answer.headers) is not edited


def test_an_unrouted_form_is_the_base_s(learned: Api) -> None:
    form = of_object(kind=KIND)
    found, response = ask_for(learned, "3 + 4 = ?", form)
    assert response.json()["scen"]["edit_id"] is None
    assert "unplaced" not in response.json()["scen"]
    assert found == ask_for(learned, "3 + 4 = ?", form, scen={"route": "off"})[0]
