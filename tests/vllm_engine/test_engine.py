"""The engine on vLLM against the platform's own decoder and engine."""

import time
from pathlib import Path

import pytest

from scen.errors import InputError, IntegrityError
from scen_serve.engine.caches import ExpertCache, empty_bank
from scen_serve.engine.engine import Engine
from scen_serve.engine.request import Failed, Piece, Request, Sampling, ScoredText
from scen_serve.settings import EngineLimits
from unit.serve.conftest import NEW, Client, alone, ask, commit_wave, finish, serve_edits, unrelated
from vllm_engine.conftest import Served

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="session")
def own(served: Served) -> Engine:
    """The own engine on the same store."""
    base, method = served.store.base, served.store.method
    bank = empty_bank(base.config, method.rank, 64, base.device)
    engine = Engine(base, method.layer, ExpertCache(bank, served.host), EngineLimits())
    engine.snapshot = served.reader.read(2)
    return engine


def test_64_at_once_over_32_edits_and_8_slots(served: Served) -> None:
    edits = [edit.prompt for edit in serve_edits(32)]
    prompts = [prompt for pair in zip(edits, unrelated(32), strict=True) for prompt in pair]
    clients = [served.ask(prompt) for prompt in prompts]
    served.finish(clients)
    assert [client.text for client in clients] == [alone(served.store, p) for p in prompts]
    routed = [client.routed.edit_id for client in clients]
    assert routed == [name for i in range(32) for name in (f"edit-{i}", None)]
    assert all(client.ended.completion_tokens <= NEW for client in clients)
    assert served.engine.experts.counts.evictions > 0
    served.assert_idle()


def test_routes_and_scores_are_those_of_the_own_engine(served: Served, own: Engine) -> None:
    prompts = [edit.prompt + " And why?" for edit in serve_edits(16)] + unrelated(8)
    theirs = [served.ask(prompt, Sampling(1)) for prompt in prompts]
    served.finish(theirs)
    ours = [ask(own, prompt, Sampling(1)) for prompt in prompts]
    finish(own, ours)
    for our, their in zip(ours, theirs, strict=True):
        assert our.routed.edit_id == their.routed.edit_id
        assert our.routed.score == pytest.approx(their.routed.score, abs=1e-4)
        assert our.routed.span == their.routed.span


def test_routing_may_be_off(served: Served) -> None:
    prompt = serve_edits(1)[0].prompt
    client = served.ask(prompt, is_edited=False)
    served.finish([client])
    assert client.text == alone(served.store, prompt, edited=False)
    assert (client.routed.edit_id, client.routed.score) == (None, None)


def test_cancelled_clients_leak_nothing(served: Served) -> None:
    prompts = [edit.prompt for edit in serve_edits(32)] + unrelated(32)
    clients = [served.ask(prompt, Sampling(100, ignore_eos=True)) for prompt in prompts]
    for client in clients[::2]:  # some wait, some are read, some speak
        assert client.ticket is not None
        client.ticket.cancel()
    served.finish(clients)
    assert {client.ended.reason for client in clients[::2]} == {"cancelled"}
    assert {client.ended.reason for client in clients[1::2]} == {"length"}
    served.assert_idle()


def test_a_request_ends_on_the_version_it_began_with(served: Served) -> None:
    served.engine.snapshot = served.reader.read(1)
    prompt = serve_edits(1, 25)[0].prompt  # an edit of version 2
    before = served.ask(prompt)
    while not before.events:
        time.sleep(0.001)
    served.engine.snapshot = served.reader.read(2)
    after = served.ask(prompt)
    named = served.ask(prompt, snapshot=served.reader.read(1))
    served.finish([before, after, named])
    assert [client.routed.version for client in (before, after, named)] == [1, 2, 1]
    texts = [alone(served.store, prompt, version) for version in (1, 2, 1)]
    assert [client.text for client in (before, after, named)] == texts


def test_swaps_under_load_fail_no_request(served: Served) -> None:
    edits = [edit.prompt for edit in serve_edits(32)]
    clients = []
    for turn in range(6):
        served.engine.snapshot = served.reader.read(1 + turn % 2)
        clients += [served.ask(prompt, Sampling(8)) for prompt in edits[turn::4]]
    served.finish(clients)
    assert all(client.ended.reason in ("stop", "length") for client in clients)
    served.engine.snapshot = served.reader.read(2)
    served.assert_idle()


def test_a_damaged_expert_fails_its_own_request_only(served: Served) -> None:
    store = served.store
    version = commit_wave(store, serve_edits(1, 40), 7)
    served.engine.snapshot = served.reader.read(version)
    [place] = served.engine.snapshot.places[-1:]
    assert store.storage.local_path is not None
    [path] = [p for p in Path(store.storage.local_path).rglob("*") if place.bundle in p.name]
    path.chmod(0o600)
    whole = path.read_bytes()
    served.host._bundles.pop(place.bundle, None)
    path.write_bytes(whole[:-8] + b"damaged!")
    broken, fine = served.ask(serve_edits(1, 40)[0].prompt), served.ask(serve_edits(1)[0].prompt)
    served.finish([broken, fine])
    path.write_bytes(whole)
    served.engine.snapshot = served.reader.read(2)
    assert isinstance(broken.events[-1], Failed)
    assert isinstance(broken.events[-1].error, IntegrityError)
    assert fine.text == alone(store, serve_edits(1)[0].prompt, 2)
    served.assert_idle()


def answer_of(clients: list[Client]) -> list[tuple[str, str, int]]:
    """Text, end, and tokens."""
    return [(c.text, c.ended.reason, c.ended.completion_tokens) for c in clients]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(12, logit_bias=((100, 8.0), (101, -3.0))),
        Sampling(12, repetition_penalty=1.4, presence_penalty=0.5, frequency_penalty=0.7),
        Sampling(12, stop_token_ids=(100, 120, 140, 160)),
        Sampling(12, min_tokens=6, stop_token_ids=tuple(range(60, 200, 2))),
        Sampling(12, ignore_eos=True),
        Sampling(0),
    ],
    ids=["bias", "penalties", "stop tokens", "min_tokens", "ignore_eos", "no tokens"],
)
def test_greedy_parameters_mean_the_same(served: Served, own: Engine, sampling: Sampling) -> None:
    prompts = [edit.prompt for edit in serve_edits(4)] + unrelated(4)
    theirs = [served.ask(prompt, sampling) for prompt in prompts]
    served.finish(theirs)
    ours = [ask(own, prompt, sampling) for prompt in prompts]
    finish(own, ours)
    assert answer_of(theirs) == answer_of(ours)


def test_stop_strings_end_an_answer_before_them(served: Served) -> None:
    prompt = unrelated(1)[0]
    whole = alone(served.store, prompt)
    stop = whole[5:7]
    client = served.ask(prompt, Sampling(NEW, stop=(stop,)))
    served.finish([client])
    assert client.text == whole[: whole.index(stop)]
    assert client.ended.reason == "stop"
    served.assert_idle()


def test_seeds_reproduce(served: Served) -> None:
    prompt = serve_edits(1)[0].prompt
    drawn = Sampling(16, temperature=1.0, top_p=0.9, top_k=40, min_p=0.01, seed=7)
    clients = [served.ask(prompt, drawn) for _ in range(2)]
    other = served.ask(prompt, Sampling(16, temperature=1.0, seed=8))
    served.finish([*clients, other])
    assert clients[0].text == clients[1].text != other.text


def test_log_probabilities_are_those_of_the_own_engine(served: Served, own: Engine) -> None:
    for prompt in (serve_edits(1)[0].prompt, unrelated(1)[0]):
        sampling = Sampling(6, top_logprobs=3)
        their = served.ask(prompt, sampling)
        served.finish([their])
        our = ask(own, prompt, sampling)
        finish(own, [our])
        rows = [
            [t for e in c.events if isinstance(e, Piece) for t in e.logprobs] for c in (our, their)
        ]
        for one, other in zip(*rows, strict=True):
            assert one.token_id == other.token_id
            assert one.offset == other.offset
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
            assert [token for token, _ in one.top] == [token for token, _ in other.top]


@pytest.mark.parametrize("edited", [True, False])
def test_prompts_are_scored_as_by_the_own_engine(served: Served, own: Engine, edited: bool) -> None:
    base = served.store.base
    prompt = base.template.encode_prompt(serve_edits(1)[0].prompt)
    offsets = tuple(range(len(prompt.ids)))
    text = "".join(chr(97 + i % 26) for i in offsets)
    scored = ScoredText(text, offsets, answer_at=len(offsets) - 4)
    request = Request(prompt, Sampling(1, top_logprobs=2), None, edited, None, scored)
    their, our = served.ask(request), Client()
    served.finish([their])
    own.submit(request, our.events.append)
    finish(own, [our])
    [ours], [theirs] = (
        [e.prompt for e in c.events if isinstance(e, Piece) and e.prompt] for c in (our, their)
    )
    assert [t.token_id for t in ours] == [t.token_id for t in theirs] == list(prompt.ids[1:])
    for one, other in zip(ours, theirs, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert one.offset == other.offset


def test_a_question_of_its_own_form_is_routed_instead_of_the_prompt(served: Served) -> None:
    template = served.store.base.template
    edit = serve_edits(1)[0]
    prompt, question = template.encode_prompt("Say it."), template.encode_prompt(edit.prompt)
    client = served.ask(Request(prompt, Sampling(8), question=question))
    served.finish([client])
    assert client.routed.edit_id == edit.id
    served.assert_idle()


def test_what_does_not_fit_is_refused_at_once(served: Served) -> None:
    with pytest.raises(InputError, match="exceed the 256 tokens"):
        served.ask("hello", Sampling(300))
    with pytest.raises(InputError, match="not a token"):
        served.ask("hello", Sampling(4, stop_token_ids=(10**6,)))


def test_repeated_prompts_hit_the_prefix_cache(served: Served) -> None:
    prompt = max((edit.prompt for edit in serve_edits(32)), key=len)  # longer than a block
    before = served.engine.counts.prefix_tokens
    clients = [served.ask(prompt) for _ in range(3)]
    served.finish(clients)
    assert {client.text for client in clients} == {alone(served.store, prompt)}
    assert served.engine.counts.prefix_tokens > before


def test_explanations_are_those_of_the_own_engine(served: Served, own: Engine) -> None:
    prompt = served.store.base.template.encode_prompt(serve_edits(1)[0].prompt + " And why?")
    snapshot = served.reader.read(2)
    theirs = served.engine.explain(snapshot, prompt, 3)
    ours = own.explain(snapshot, prompt, 3)
    own.step()
    for one, other in zip(ours.result(30), theirs.result(60), strict=True):
        assert (one.edit_id, one.span) == (other.edit_id, other.span)
        assert one.score == pytest.approx(other.score, abs=1e-4)
    served.assert_idle()
