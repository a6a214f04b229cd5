"""Wherever a request fails between prefill and its last token, it fails at once and gives back what
it holds, and the others are answered."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from scen.model.step import RowCache
from scen.snapshot.open import OpenStore
from scen_serve.engine import engine as engine_module
from scen_serve.engine import running_batch
from scen_serve.engine.caches import ExpertCache, HostExpertCache, PrefixCache
from scen_serve.engine.decoding import IncrementalDetokenizer, Matcher
from scen_serve.engine.engine import Engine
from scen_serve.engine.request import Constraint, Failed, Sampling
from scen_serve.engine.running_batch import Row
from unit.serve.conftest import (
    NEW,
    Client,
    MakeEngine,
    alone,
    ask,
    finish,
    serve_edits,
    unrelated,
)

pytestmark = pytest.mark.slow

# Every call that a step of the engine makes for a request, and whether its failure can only be that
# of one row (others that were in the same call fail with it).
PLACES: list[tuple[Any, str, bool]] = [
    (engine_module, "read_prompts", True),  # the prefill; each prompt is tried alone then
    (PrefixCache, "known", True),
    (PrefixCache, "keep", True),
    (Row, "is_ready", True),
    (Row, "prefetch", True),
    (ExpertCache, "acquire", True),
    (HostExpertCache, "find", True),
    (running_batch, "copy_cache", False),  # the first token of all that are ready
    (running_batch, "apply_experts", False),
    (RowCache, "join", True),
    (RowCache, "next_span", False),  # one token of all that run
    (running_batch, "step_rows", False),
    (Row, "take_token", True),
    (IncrementalDetokenizer, "push", True),
    (Matcher, "mask", True),
    (Matcher, "take", True),
]
FORM = Sampling(NEW, constraint=Constraint("regex", "[a-z]{8,12}"))


def fail_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, count: int) -> list[int]:
    """Let the call of this number (from 0) fail as an allocation does; the list grows by each."""
    real: Callable[..., Any] = getattr(owner, name)
    calls: list[int] = []

    def broken(*args: Any, **more: Any) -> Any:
        calls.append(len(calls))
        if len(calls) - 1 == count:
            raise MemoryError("no memory left")
        return real(*args, **more)

    monkeypatch.setattr(owner, name, broken)
    return calls


@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place[1])
def test_a_failure_ends_its_request_and_leaks_nothing(
    make_engine: MakeEngine,
    store: OpenStore,
    monkeypatch: pytest.MonkeyPatch,
    place: tuple[Any, str, bool],
    count: int,
) -> None:
    owner, name, is_alone = place
    engine = make_engine(max_rows=4, expert_slots=2, prefill_tokens=64)
    assert FORM.constraint is not None
    engine.constraints.matcher(FORM.constraint)  # compiled before, as the API does
    calls = fail_at(monkeypatch, owner, name, count)
    prompts = [edit.prompt for edit in serve_edits(5)] + unrelated(3)
    clients = [ask(engine, prompt) for prompt in prompts]
    formed = [ask(engine, prompt, FORM) for prompt in prompts[3:7]]
    finish(engine, clients + formed)
    assert len(calls) > count  # the fault was met
    failed = [isinstance(client.events[-1], Failed) for client in clients]
    ends = failed + [isinstance(client.events[-1], Failed) for client in formed]
    if is_alone:
        assert sum(ends) <= 1
    assert sum(ends) <= 4  # as many as run at once
    assert all(re.fullmatch("[a-z]{8,12}", client.text) for client in formed if is_answered(client))
    for client, prompt, is_failed in zip(clients, prompts, failed, strict=True):
        if not is_failed:
            assert client.text == alone(store, prompt)
    assert_idle(engine)
    again = [ask(engine, prompt) for prompt in prompts]
    finish(engine, again)
    assert [client.text for client in again] == [alone(store, prompt) for prompt in prompts]
    assert_idle(engine)


def is_answered(client: Client) -> bool:
    return not isinstance(client.events[-1], Failed)


def assert_idle(engine: Engine) -> None:
    """No row, no slot and no keys are held."""
    assert (engine.num_running, engine.num_waiting, engine.cache_bytes) == (0, 0, 0)
    assert engine.experts.num_pinned == 0


def test_a_row_that_cannot_join_is_told_and_gives_its_slot_back(
    engine: Engine, store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, RowCache, "join", 1)
    prompts = [edit.prompt for edit in serve_edits(3)]
    clients = [ask(engine, prompt) for prompt in prompts]
    finish(engine, clients)
    ends = [client.events[-1] for client in clients]
    [fault] = [end for end in ends if isinstance(end, Failed)]
    assert isinstance(fault.error, MemoryError)
    assert_idle(engine)


def test_an_expert_of_another_size_loses_no_slot(
    engine: Engine, store: OpenStore, host: HostExpertCache
) -> None:
    place = engine.snapshot.places[0] if engine.snapshot else None
    assert place is not None
    free = len(engine.experts._free)
    bundle = engine.experts.host.read(place.bundle)
    name = next(iter(engine.experts.bank.tensors()))
    engine.experts.host._bundles[place.bundle][name] = bundle[name][:, :, :1].expand(-1, -1, 3)
    client = ask(engine, serve_edits(1)[0].prompt)
    finish(engine, [client])
    assert isinstance(client.events[-1], Failed)
    assert len(engine.experts._free) == free
