"""litellm, through which many agents reach a server of OpenAI's API."""

import asyncio
import os
from typing import Any

import pytest

from e2e.serving import NAME, Api, api
from unit.serve.conftest import NEW, alone, serve_edits

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no network when imported
litellm: Any = pytest.importorskip("litellm", reason="needs the package litellm")

__all__ = ["api"]  # a fixture

pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore")]  # litellm's own warnings


def options(api: Api, **more: Any) -> dict[str, Any]:
    common = {"model": f"hosted_vllm/{NAME}", "api_base": f"{api.url}/v1", "api_key": "none"}
    return {**common, "max_tokens": NEW, **more}


def test_litellm_reaches_an_edit(api: Api) -> None:
    """Whole, as a stream, and asynchronously; the model's name has a slash."""
    edit = serve_edits(1, 5)[0]
    expected = alone(api.store, edit.prompt)
    asked = options(api, messages=[{"role": "user", "content": edit.prompt}])
    whole = litellm.completion(**asked)
    assert whole.choices[0].message.content == expected
    deltas = [
        chunk.choices[0].delta.content or "" for chunk in litellm.completion(**asked, stream=True)
    ]
    assert "".join(deltas) == expected

    async def ask_and_close() -> Any:
        answer = await litellm.acompletion(**asked)
        await litellm.close_litellm_async_clients()  # which it keeps as long as the process runs
        return answer

    found = asyncio.run(ask_and_close())
    assert found.choices[0].message.content == expected


def test_litellm_asks_for_a_form(api: Api) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "form", "schema": {"enum": ["a", "b"]}}}
    asked = options(api, messages=[{"role": "user", "content": "Who?"}], response_format=form)
    assert litellm.completion(**asked).choices[0].message.content in ('"a"', '"b"')
    bad = {"type": "json_schema", "json_schema": {"name": "form", "schema": {"type": "x"}}}
    with pytest.raises(litellm.BadRequestError, match="response_format"):
        litellm.completion(**asked | {"response_format": bad})
