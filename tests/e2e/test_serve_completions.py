"""Sampling parameters, raw text, scores and bytes, as real clients ask for them."""

import json
from pathlib import Path
from typing import Any

import httpx
import httpx_sse
import pytest
import torch

from e2e.serving import NAME, Api, api, error_of
from scen.model.batch import pad_prompts
from scen.model.decode import decode
from scen_serve.api.replies import token_bytes, token_text
from unit.serve.conftest import NEW, alone, serve_edits, unrelated

__all__ = ["api"]  # a fixture

pytestmark = pytest.mark.e2e


def test_sampling_parameters_change_the_answer(api: Api) -> None:
    greedy = api.complete(logprobs=1)
    first = greedy["logprobs"]["tokens"][0]
    tokenizer = api.store.base.tokenizer
    texts = [token_text(token_bytes(tokenizer, i)) for i in range(len(tokenizer))]
    token_id = texts.index(first)
    assert api.complete(temperature=1.5, top_k=1, seed=1)["text"] == greedy["text"]
    assert api.complete(temperature=1.5, min_p=1.0, seed=1)["text"] == greedy["text"]
    assert api.complete(temperature=1.5, seed=1)["text"] != greedy["text"]
    banned = api.complete(logit_bias={str(token_id): -100}, logprobs=1)
    assert banned["logprobs"]["tokens"][0] != first
    stopped = api.complete(stop_token_ids=[token_id])
    assert (stopped["text"], stopped["finish_reason"]) == ("", "stop")
    late = api.complete(stop_token_ids=[token_id], min_tokens=3)
    assert late["text"]
    for name in ("repetition_penalty", "presence_penalty", "frequency_penalty"):
        varied = api.complete(max_tokens=40, logprobs=0, **{name: 2.0})["logprobs"]["tokens"]
        plain = api.complete(max_tokens=40, logprobs=0)["logprobs"]["tokens"]
        assert len(set(varied)) > len(set(plain))


def test_ignore_eos_goes_on(api: Api) -> None:
    """The end token is made the most likely one."""
    eos = api.store.base.template.end_id
    bias = {str(eos): 100}
    assert api.complete(logit_bias=bias)["finish_reason"] == "stop"
    going = api.complete(logit_bias=bias, ignore_eos=True, logprobs=0)
    assert (going["finish_reason"], len(going["logprobs"]["tokens"])) == ("length", 8)
    least = api.complete(logit_bias={str(eos): 5}, min_tokens=8, logprobs=0)
    assert len(least["logprobs"]["tokens"]) == 8


def test_defaults_that_are_spelt_out_change_nothing(api: Api) -> None:
    edit = serve_edits(1, 5)[0]
    neutral: dict[str, Any] = {
        "top_k": 0,
        "min_p": 0,
        "repetition_penalty": 1,
        "presence_penalty": 0,
    }
    neutral |= {"frequency_penalty": 0, "min_tokens": 0, "logit_bias": {}, "top_p": 1, "n": 1}
    more: dict[str, Any] = {"best_of": 1, "tools": [], "response_format": {"type": "text"}}
    messages = [{"role": "user", "content": edit.prompt}]
    body = {"messages": messages, "max_tokens": NEW, **neutral, **more}
    answer = api.post("/v1/chat/completions", body)
    assert answer.json()["choices"][0]["message"]["content"] == alone(api.store, edit.prompt)
    assert "x-scen-ignored-fields" not in answer.headers


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"top_k": -2}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"frequency_penalty": "much"}, "frequency_penalty"),
        ({"min_tokens": 9}, "min_tokens"),
        ({"stop_token_ids": [10**6]}, "stop_token_ids"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"guided_choice": ["yes", "no"]}, "guided_choice"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"skip_special_tokens": False}, "skip_special_tokens"),
        ({"prompt": [10**6]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["x"] * 65}, "prompt"),
        ({"prompt": ["x"] * 64, "n": 2}, "n"),
    ],
)
def test_a_refusal_names_the_field(api: Api, body: dict[str, Any], field: str) -> None:
    answer = api.post("/v1/completions", {"prompt": "Who?", "max_tokens": 8} | body)
    assert answer.status_code == 400, answer.text
    error = error_of(answer)
    assert error["param"] == field
    assert error["message"].startswith(field)
    assert error["type"] == "invalid_request_error"


def test_unknown_fields_are_named_in_a_header(api: Api) -> None:
    body = {"prompt": "Who?", "max_tokens": 2, "user": "me", "hi\r\nX: y": 1, "service_tier": "a"}
    for stream in (False, True):
        answer = api.post("/v1/completions", body | {"stream": stream})
        assert answer.status_code == 200
        names = answer.headers["x-scen-ignored-fields"].split(", ")
        assert sorted(names) == ["hi%0D%0AX%3A%20y", "service_tier", "user"]


def test_raw_text_has_no_template_and_is_routed_as_a_question(api: Api) -> None:
    edit, template = serve_edits(1, 7)[0], api.store.base.template
    answer = api.post("/v1/completions", {"prompt": edit.prompt, "max_tokens": NEW}).json()
    assert answer["usage"]["prompt_tokens"] == len(edit.prompt)  # a byte is a token
    assert answer["scen"]["edit_id"] == edit.id
    templated = api.complete(prompt=template.render(edit.prompt), max_tokens=NEW)
    assert templated["text"] == alone(api.store, edit.prompt) != answer["choices"][0]["text"]
    assert templated["scen"]["edit_id"] == edit.id
    earlier = template.render("Hello?") + "Hi." + template.render(edit.prompt)
    assert api.complete(prompt=earlier, max_tokens=1)["scen"]["edit_id"] == edit.id
    off = api.complete(prompt=edit.prompt, scen={"route": "off"})
    assert off["scen"]["edit_id"] is None
    blank = api.post("/v1/completions", {"prompt": " ", "max_tokens": 1}).json()
    assert blank["scen"]["edit_id"] is None


def test_prompts_may_be_token_ids(api: Api) -> None:
    texts = [serve_edits(1, 4)[0].prompt, unrelated(1)[0]]
    ids = [api.store.base.tokenizer(text)["input_ids"] for text in texts]
    common = {"max_tokens": 6, "logprobs": 1}
    by_text = api.post("/v1/completions", {"prompt": texts, **common}).json()["choices"]
    by_ids = api.post("/v1/completions", {"prompt": ids, **common}).json()["choices"]
    for ours, theirs in zip(by_ids, by_text, strict=True):
        assert (ours["text"], ours["scen"]["edit_id"]) == (
            theirs["text"],
            theirs["scen"]["edit_id"],
        )
        assert ours["logprobs"]["text_offset"] == theirs["logprobs"]["text_offset"]
    [one] = api.post("/v1/completions", {"prompt": ids[0], **common}).json()["choices"]
    assert one["text"] == by_text[0]["text"]
    assert one["scen"]["edit_id"] == "edit-4"


@pytest.mark.parametrize("stream", [False, True])
def test_echo_has_the_prompt_and_its_scores(api: Api, stream: bool) -> None:
    body: dict[str, Any] = {"prompt": "A 😊?", "max_tokens": 2, "echo": True, "logprobs": 1}
    if stream:
        made: Any = api.client.completions.create
        chunks = [chunk.choices[0] for chunk in made(model=NAME, stream=True, **body)]
        text = "".join(chunk.text for chunk in chunks)
        parts = [chunk.logprobs for chunk in chunks if chunk.logprobs]
        tokens = [token for part in parts for token in part.tokens]
        values = [value for part in parts for value in part.token_logprobs]
        offsets = [at for part in parts for at in part.text_offset]
    else:
        choice = api.complete(**body)
        text, found = choice["text"], choice["logprobs"]
        tokens, values, offsets = found["tokens"], found["token_logprobs"], found["text_offset"]
        assert found["top_logprobs"][0] is None
        assert all(
            token in top and top[token] == value
            for token, top, value in zip(
                tokens[1:], found["top_logprobs"][1:], values[1:], strict=True
            )
        )
    assert text.startswith("A 😊?")
    assert tokens[:3] == ["A", " ", "bytes:\\xf0"]
    assert values[0] is None
    assert all(value < 0 for value in values[1:])
    assert len(tokens) == len("A 😊?".encode()) + 2
    assert offsets[:7] == [0, 1, 2, 2, 2, 2, 3]


def test_the_score_of_an_answer_in_the_template_is_the_chat_s(api: Api) -> None:
    """Each token of the edited model's answer is the most likely one, and not of the base's."""
    edit, store = serve_edits(1, 6)[0], api.store
    encoded = store.base.template.encode_prompt(edit.prompt)
    model = store.edited_model(store.ledger.snapshot())
    [tokens] = decode(model, pad_prompts([encoded], store.base.pad_id), 8).tokens

    def is_greedy(route: str) -> list[bool]:
        ask = {"prompt": [*encoded.ids, *tokens], "max_tokens": 0, "echo": True, "logprobs": 1}
        choice = api.complete(**ask, scen={"route": route})
        assert choice["scen"]["edit_id"] == (edit.id if route == "auto" else None)
        found = choice["logprobs"]
        pairs = zip(found["token_logprobs"], found["top_logprobs"], strict=True)
        return [value == max(top.values()) for value, top in list(pairs)[-len(tokens) :]]

    assert all(is_greedy("auto"))
    assert not all(is_greedy("off"))


def test_nothing_but_an_echo(api: Api) -> None:
    choice = api.complete(prompt="Who?", max_tokens=0, echo=True, logprobs=0)
    assert (choice["text"], choice["finish_reason"]) == ("Who?", "length")
    assert len(choice["logprobs"]["tokens"]) == 4
    assert api.complete(prompt="Who?", max_tokens=0)["text"] == ""
    assert api.complete(prompt="W", max_tokens=0, echo=True, logprobs=0)["logprobs"] == {
        "tokens": ["W"],
        "token_logprobs": [None],
        "top_logprobs": [None],
        "text_offset": [0],
    }


@pytest.mark.slow
def test_lm_eval_scores_through_it(api: Api, tiny_folder: Path) -> None:
    """`lm_eval --model local-completions`: the log-likelihoods are those of a plain forward."""
    lm_eval = pytest.importorskip("lm_eval.models.openai_completions")
    instance = pytest.importorskip("lm_eval.api.instance").Instance

    model = lm_eval.LocalCompletionsAPI(
        base_url=f"{api.url}/v1/completions",
        model=NAME,
        tokenizer=str(tiny_folder),
        tokenizer_backend="huggingface",
        batch_size=2,
        num_concurrent=1,
    )
    pairs = [("12 + 5 =", " 17"), ("The sea is", " blue")]
    found = model.loglikelihood(
        [instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    )
    for (context, continuation), (total, is_greedy) in zip(pairs, found, strict=True):
        ids = api.store.base.tokenizer(context + continuation)["input_ids"]
        with torch.no_grad():
            logprob_TV = api.store.base.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        begin = len(api.store.base.tokenizer(context)["input_ids"])
        expected = sum(float(logprob_TV[i - 1, ids[i]]) for i in range(begin, len(ids)))
        assert total == pytest.approx(expected, abs=1e-3)
        assert not is_greedy


def test_tokens_within_a_character_tell_their_own_bytes(api: Api) -> None:
    """Made to be said: the four bytes of an emoji, each more likely than all else."""
    ids = api.store.base.tokenizer("😊", add_special_tokens=False)["input_ids"]
    messages = [{"role": "user", "content": "Who?"}]
    for step, byte in zip(ids, "😊".encode(), strict=True):
        body = {"messages": messages, "max_tokens": 1, "logit_bias": {str(step): 100}}
        answer = api.post("/v1/chat/completions", body | {"logprobs": True, "top_logprobs": 2})
        [content] = answer.json()["choices"][0]["logprobs"]["content"]
        assert content["bytes"] == [byte]
        assert content["token"] == f"bytes:\\x{byte:02x}"
    echo = api.complete(prompt="😊", max_tokens=0, echo=True, logprobs=5)["logprobs"]
    for token, value, top in list(
        zip(echo["tokens"], echo["token_logprobs"], echo["top_logprobs"], strict=True)
    )[1:]:
        assert top[token] == value
        assert len(top) >= 5  # no key took another's place


@pytest.mark.parametrize("letter", ["\u2028", "\u2029", "\x85"])
def test_line_separators_do_not_break_events(api: Api, letter: str) -> None:
    """Clients split lines as Python's `splitlines` does."""
    ids = api.store.base.tokenizer(letter, add_special_tokens=False)["input_ids"]
    body = {"model": NAME, "prompt": [*ids, 40], "echo": True, "max_tokens": 1, "stream": True}
    with httpx.stream("POST", f"{api.url}/v1/completions", json=body) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    texts = [json.loads(line.removeprefix("data: "))["choices"][0]["text"] for line in lines[:-1]]
    assert texts[0].startswith(letter)
    with httpx.Client() as http:
        url = f"{api.url}/v1/completions"
        with httpx_sse.connect_sse(http, "POST", url, json=body) as source:
            events = list(source.iter_sse())
    assert json.loads(events[0].data)["choices"][0]["text"] == texts[0]
