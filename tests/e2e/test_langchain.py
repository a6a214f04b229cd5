"""LangChain's chat model against a real server: at once, in a stream, and with editing off."""

from typing import Any

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
def model(url: str) -> Any:
    """A chat model as anybody would make it."""
    return langchain_openai.ChatOpenAI(
        model="tiny", base_url=f"{url}/v1", api_key="sk-reader-1", max_tokens=NEW, max_retries=0
    )


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


def test_a_wrong_key_is_an_error(url: str) -> None:
    wrong = langchain_openai.ChatOpenAI(
        model="tiny", base_url=f"{url}/v1", api_key="sk-nobody", max_retries=0
    )
    with pytest.raises(openai.AuthenticationError, match="missing or wrong"):
        wrong.invoke("Who?")
