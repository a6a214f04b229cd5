"""LangChain's chat model against a real server: at once, in a stream, and with editing off."""

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from e2e.serving import service, store, url
from scen.snapshot.open import OpenStore
from unit.serve.conftest import NEW, alone, serve_edits

langchain_openai = pytest.importorskip(
    "langchain_openai", reason="needs the package langchain-openai"
)

__all__ = ["service", "store", "url"]  # fixtures

pytestmark = pytest.mark.e2e


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """Closed with the test; LangChain keeps its own clients open as long as the process runs."""
    with httpx.Client() as http:
        yield http


@pytest.fixture
def model(url: str, http: httpx.Client) -> Any:
    """A chat model as anybody would make it."""
    place = {"model": "tiny", "base_url": f"{url}/v1", "api_key": "sk-reader-1"}
    return langchain_openai.ChatOpenAI(**place, max_tokens=NEW, max_retries=0, http_client=http)


def test_it_is_asked_and_told_which_edit_answered(model: Any, store: OpenStore) -> None:
    edit = serve_edits(1, 5)[0]
    told = model.invoke(edit.prompt)
    assert told.content == alone(store, edit.prompt)
    assert told.usage_metadata["output_tokens"] == NEW
    assert told.response_metadata["finish_reason"] == "length"
    base = model.bind(extra_body={"scen": {"route": "off"}}).invoke(edit.prompt)
    assert base.content == alone(store, edit.prompt, edited=False) != told.content


def test_a_stream_tells_the_same(model: Any, store: OpenStore) -> None:
    edit = serve_edits(1, 5)[0]
    chunks = list(model.stream([("human", edit.prompt)]))
    assert len(chunks) > 2
    assert "".join(chunk.content for chunk in chunks) == alone(store, edit.prompt)


def test_a_wrong_key_is_an_error(url: str, http: httpx.Client) -> None:
    place = {"model": "tiny", "base_url": f"{url}/v1", "api_key": "sk-nobody"}
    wrong = langchain_openai.ChatOpenAI(**place, max_retries=0, http_client=http)
    with pytest.raises(openai.AuthenticationError, match="missing or wrong"):
        wrong.invoke("Who?")
