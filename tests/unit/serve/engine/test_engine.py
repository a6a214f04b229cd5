"""Every request is answered as if it were alone, whoever else is there."""

import threading
from dataclasses import replace

import pytest
import torch

from scen.errors import InputError
from scen.model.keys import KeyPlace
from scen.model.surface import bare_form
from scen.routing.neurons import KeyNeurons
from scen.snapshot.open import OpenStore
from scen_serve.api.replies import route_field
from scen_serve.engine.engine import Engine
from scen_serve.engine.request import BusyError, Failed, Piece, Sampling
from scen_serve.engine.snapshots import SnapshotReader
from unit.serve.conftest import (
    NEW,
    Client,
    MakeEngine,
    alone,
    ask,
    commit_wave,
    finish,
    serve_edits,
    unrelated,
)


@pytest.mark.slow
def test_64_at_once_over_32_edits_are_answered_as_one_by_one(
    make_engine: MakeEngine, store: OpenStore
) -> None:
    """More than there are rows and expert slots, so that they come, go and wait."""
    engine = make_engine(max_rows=12, expert_slots=7, prefill_tokens=256)
    edits, others = serve_edits(32), unrelated(32)
    prompts = [p for pair in zip((e.prompt for e in edits), others, strict=True) for p in pair]
    clients = [ask(engine, prompt) for prompt in prompts]
    finish(engine, clients)
    assert [c.routed.edit_id for c in clients[::2]] == [edit.id for edit in edits]
    assert [c.routed.edit_id for c in clients[1::2]] == [None] * 32
    assert [c.text for c in clients] == [alone(store, prompt) for prompt in prompts]
    plain = [alone(store, edit.prompt, edited=False) for edit in edits]
    changed = sum(c.text != text for c, text in zip(clients[::2], plain, strict=True))
    assert changed >= 30  # the experts do speak
    assert engine.experts.counts.evictions > 0
    assert (engine.experts.num_pinned, engine.num_running, engine.cache_bytes) == (0, 0, 0)


def test_routing_may_be_off(engine: Engine, store: OpenStore) -> None:
    prompt = serve_edits(1)[0].prompt
    client, base = ask(engine, prompt), ask(engine, prompt, is_edited=False)
    finish(engine, [client, base])
    assert (base.routed.edit_id, base.routed.score, base.routed.version) == (None, None, 2)
    assert base.text == alone(store, prompt, edited=False) != client.text


def test_the_part_of_a_message_that_asked_is_told(make_engine: MakeEngine) -> None:
    engine, edits = make_engine(), serve_edits(32)
    snapshot = engine.snapshot
    assert snapshot is not None
    assert isinstance(snapshot.neurons, KeyNeurons)
    assert snapshot.span(edits[0].id) is None  # a router without words
    router = snapshot.neurons.router
    encoder = replace(router.encoder, places=tuple(map(_of_spans, router.encoder.places)))
    neurons = replace(
        snapshot.neurons,
        router=replace(router, encoder=encoder),
        texts=[bare_form(edit.prompt) for edit in edits],
    )
    engine.snapshot = replace(snapshot, neurons=neurons)
    client, base = ask(engine, edits[0].prompt), ask(engine, "What is a red river?")
    finish(engine, [client, base])
    assert client.routed.edit_id == edits[0].id
    span = bare_form(edits[0].prompt)
    assert route_field(client.routed)["span"] == span == engine.snapshot.span(edits[0].id)
    assert "span" not in route_field(base.routed)


def _of_spans(place: KeyPlace) -> KeyPlace:
    return KeyPlace(place.layer, "span" if place.kind == "mean" else place.kind)


def test_a_request_ends_on_the_version_it_began_with(
    make_engine: MakeEngine, store: OpenStore, reader: SnapshotReader
) -> None:
    engine = make_engine(max_rows=2)
    new = serve_edits(1, 32)[0]
    before = [ask(engine, new.prompt), ask(engine, serve_edits(1)[0].prompt)]
    late = ask(engine, new.prompt)  # waits for a row
    for _ in range(3):
        engine.step()
    commit_wave(store, [new], 2)
    engine.snapshot = reader.read()
    finish(engine, [*before, late])
    assert [c.routed.version for c in (*before, late)] == [2, 2, 3]
    assert before[0].text == alone(store, new.prompt, 2)
    assert late.text == alone(store, new.prompt, 3)
    assert late.routed.edit_id == new.id
    assert before[0].text != late.text


def test_versions_in_one_prefill(engine: Engine, store: OpenStore, reader: SnapshotReader) -> None:
    prompt = serve_edits(1, 25)[0].prompt  # not in version 1
    clients = [ask(engine, prompt, snapshot=reader.read(v)) for v in (2, 1, 0)]
    finish(engine, clients)
    assert [c.routed.version for c in clients] == [2, 1, 0]
    assert [c.routed.edit_id for c in clients] == ["edit-25", None, None]
    assert [c.text for c in clients] == [alone(store, prompt, v) for v in (2, 1, 0)]


def test_a_cancelled_request_frees_its_row(make_engine: MakeEngine) -> None:
    engine = make_engine(max_rows=1)
    gone, waits, next_one = (ask(engine, edit.prompt) for edit in serve_edits(3))
    engine.step()
    assert engine.num_running == 1
    for client in (gone, waits):
        assert client.ticket is not None
        client.ticket.cancel()
    finish(engine, [gone, waits, next_one])
    assert gone.ended.reason == waits.ended.reason == "cancelled"
    assert (gone.ended.completion_tokens < NEW, waits.ended.completion_tokens) == (True, 0)
    assert next_one.ended.reason in ("length", "stop")
    assert engine.experts.num_pinned == 0


def test_a_client_who_cannot_be_told_is_gone(engine: Engine) -> None:
    def broken(_event: object) -> None:
        raise RuntimeError("closed")

    other = ask(engine, "Who?")
    assert other.ticket is not None
    ticket = engine.submit(other.ticket.request, broken)
    finish(engine, [other])
    engine.step()
    assert ticket.is_cancelled
    assert engine.num_running == 0


def test_seeds_reproduce_whoever_else_is_there(engine: Engine) -> None:
    def drawn(seed: int | None, others: int) -> str:
        sampling = Sampling(NEW, temperature=1.0, top_p=0.9, seed=seed)
        clients = [ask(engine, "Who?", sampling)]
        clients += [ask(engine, prompt) for prompt in unrelated(others)]
        finish(engine, clients)
        return clients[0].text

    assert drawn(7, 0) == drawn(7, 5)
    assert drawn(7, 0) != drawn(8, 0)
    assert drawn(None, 0) != drawn(None, 0)


def test_a_stop_string_ends_an_answer_before_it(engine: Engine) -> None:
    whole = ask(engine, "Who?")
    finish(engine, [whole])
    stop = whole.text[5:8]
    cut = ask(engine, "Who?", Sampling(NEW, stop=("never this", stop)))
    finish(engine, [cut])
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.ended.reason == "stop"
    assert cut.ended.completion_tokens < whole.ended.completion_tokens


def test_log_probabilities_are_the_model_s(engine: Engine, store: OpenStore) -> None:
    client = ask(engine, "Who?", Sampling(4, top_logprobs=3))
    finish(engine, [client])
    pieces = [event for event in client.events if isinstance(event, Piece) and event.logprobs]
    logprobs = [logprob for piece in pieces for logprob in piece.logprobs]
    assert len(logprobs) == client.ended.completion_tokens == 4
    ids = torch.tensor([store.base.template.encode_prompt("Who?").ids])
    with torch.no_grad():
        logprob_V = store.base.model(input_ids=ids).logits[0, -1].log_softmax(-1)
    best = logprob_V.topk(3)
    assert logprobs[0].token_id == best.indices[0]
    assert logprobs[0].logprob == pytest.approx(float(best.values[0]), abs=1e-4)
    assert [token for token, _ in logprobs[0].top] == best.indices.tolist()


def test_what_does_not_fit_is_refused_at_once(make_engine: MakeEngine) -> None:
    engine = make_engine(max_context=64, max_waiting=2)
    with pytest.raises(InputError, match=r"exceed the 64 tokens .* shorten"):
        ask(engine, "Who? " * 20)
    with pytest.raises(InputError, match="max_tokens 64"):
        ask(engine, "Who?", Sampling(64))
    for _ in range(2):
        ask(engine, "Who?")
    with pytest.raises(BusyError, match="2 requests wait already"):
        ask(engine, "Who?")


def test_without_a_snapshot_nothing_is_answered(engine: Engine) -> None:
    engine.snapshot = None
    with pytest.raises(BusyError, match="no snapshot"):
        ask(engine, "Who?")


def test_a_prompt_that_breaks_the_base_hurts_no_other(engine: Engine, store: OpenStore) -> None:
    """The base is made to fail at one token of a prompt, as a kernel might."""

    def fail_at_tilde(_module: object, args: tuple[torch.Tensor, ...]) -> None:
        if args[0].shape[1] > 1 and bool((args[0] == tilde).any()):
            raise RuntimeError("kernel failed")

    tilde = store.base.tokenizer("~", add_special_tokens=False)["input_ids"][0]
    handle = store.base.model.model.embed_tokens.register_forward_pre_hook(fail_at_tilde)
    clients = [ask(engine, prompt) for prompt in ("What ~ is?", "Who?", "Why?")]
    finish(engine, clients[1:])
    handle.remove()
    assert isinstance(clients[0].events[-1], Failed)
    assert [c.text for c in clients[1:]] == [alone(store, p) for p in ("Who?", "Why?")]


def test_it_runs_on_a_thread_of_its_own(engine: Engine, store: OpenStore) -> None:
    stop, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=engine.run, args=(stop,))
    thread.start()
    client = Client()
    prompt = serve_edits(1)[0].prompt
    ticket = ask(engine, "Who?").ticket
    assert ticket is not None

    def sink(event: object) -> None:
        client.events.append(event)  # type: ignore[arg-type]
        if client.is_done:
            done.set()

    encoded = engine.base.template.encode_prompt(prompt)
    engine.submit(type(ticket.request)(encoded, Sampling(NEW)), sink)
    assert done.wait(60)
    stop.set()
    thread.join(10)
    assert client.text == alone(store, prompt)
