"""The engine on bases of other architectures, with windows, scaled logits and parallel layers."""

from pathlib import Path

import pytest

from conftest import write_tiny_base
from scen.snapshot.open import OpenStore
from unit.model.test_architectures import KINDS
from unit.serve.conftest import MakeEngine, alone, ask, finish, serve_edits, unrelated


@pytest.fixture(params=["qwen2", "gemma3_text", "cohere2"])
def tiny_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """In place of the tiny Llama."""
    return write_tiny_base(tmp_path / "base", kind=request.param, **KINDS[request.param])


@pytest.mark.slow
def test_requests_at_once_are_answered_as_one_by_one(
    make_engine: MakeEngine, store: OpenStore
) -> None:
    engine = make_engine(max_rows=3, prefix_bytes=1 << 20)
    edits = serve_edits(4)
    prompts = [*[edit.prompt for edit in edits], *unrelated(3), edits[0].prompt]
    clients = [ask(engine, prompt) for prompt in prompts]
    finish(engine, clients)
    told = [client.routed.edit_id for client in clients]
    assert told == [*[edit.id for edit in edits], None, None, None, edits[0].id]
    assert [c.text for c in clients] == [alone(store, prompt) for prompt in prompts]
    assert clients[0].text != alone(store, edits[0].prompt, edited=False)
