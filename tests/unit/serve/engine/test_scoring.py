"""Scored prompts: log-probabilities, under the expert from the end of the question on."""

from dataclasses import replace

import pytest
import torch

from scen.model.batch import pad_prompts
from scen.model.decode import EditedModel, apply_experts, copy_cache
from scen.model.keys import KeyPlace
from scen.model.route import Route
from scen.model.step import RowCache, step_rows
from scen.model.surface import bare_form
from scen.records import EncodedPrompt
from scen.routing.neurons import KeyNeurons
from scen.snapshot.open import OpenStore
from scen_serve.engine.decoding import token_offsets
from scen_serve.engine.engine import Engine
from scen_serve.engine.request import Piece, Request, Sampling, ScoredText, TokenLogprob
from scen_serve.engine.running_batch import question_end
from unit.serve.conftest import Client, MakeEngine, ask, finish, serve_edits, unrelated


def score(engine: Engine, text: str, max_tokens: int = 0, *, is_edited: bool = True) -> Client:
    """Hand in a raw text whose tokens are to be scored."""
    ids = engine.base.tokenizer(text)["input_ids"]
    prompt = EncodedPrompt(tuple(ids), (len(ids) - 1, len(ids)))
    _, offsets = token_offsets(engine.base.tokenizer, ids)
    question = engine.base.template.encode_prompt(text)
    scored = ScoredText(text, tuple(offsets))
    client = Client()
    sampling = Sampling(max_tokens, top_logprobs=2)
    request = Request(prompt, sampling, None, is_edited, question, scored)
    client.ticket = engine.submit(request, client.events.append)
    return client


def scores(client: Client) -> list[TokenLogprob]:
    [found] = [e.prompt for e in client.events if isinstance(e, Piece) and e.prompt is not None]
    return list(found)


def base_logprobs(store: OpenStore, text: str) -> torch.Tensor:
    """logprob_TV of the base at each position of a text."""
    ids = torch.tensor([store.base.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        found: torch.Tensor = store.base.model(input_ids=ids).logits[0].log_softmax(-1)
    return found


def test_the_base_s_scores_are_those_of_a_plain_forward(engine: Engine, store: OpenStore) -> None:
    """Of prompts of unequal length in one prefill, beside one that is answered."""
    texts = [unrelated(1)[0], "Who?", "x" * 200]
    clients = [score(engine, text) for text in texts]
    other = ask(engine, serve_edits(1)[0].prompt)
    finish(engine, [*clients, other])
    assert other.routed.edit_id == "edit-0"
    for text, client in zip(texts, clients, strict=True):
        logprob_TV = base_logprobs(store, text)
        ids = store.base.tokenizer(text)["input_ids"]
        found = scores(client)
        assert [one.token_id for one in found] == ids[1:]
        expected = [float(logprob_TV[i, token]) for i, token in enumerate(ids[1:])]
        assert [one.logprob for one in found] == pytest.approx(expected, abs=1e-4)
        best = logprob_TV[:-1].topk(2).indices.tolist()
        assert [[token for token, _ in one.top] for one in found] == best
        assert (client.text, client.ended.reason, client.ended.completion_tokens) == (
            "",
            "length",
            0,
        )


def reading_words(engine: Engine, count: int) -> None:
    """Give the engine a router that compares sentences and knows the edits' words."""
    snapshot = engine.snapshot
    assert snapshot is not None
    assert isinstance(snapshot.neurons, KeyNeurons)
    router = snapshot.neurons.router
    places = tuple(
        KeyPlace(p.layer, "span" if p.kind == "mean" else p.kind) for p in router.encoder.places
    )
    neurons = replace(
        snapshot.neurons,
        router=replace(router, encoder=replace(router.encoder, places=places), threshold=-9.0),
        texts=[bare_form(edit.prompt) for edit in serve_edits(count)],
    )
    engine.snapshot = replace(snapshot, neurons=neurons)


def test_an_expert_speaks_from_the_end_of_the_question_on(
    make_engine: MakeEngine, store: OpenStore
) -> None:
    """As it does where the rest of the text is its answer: the same step by step."""
    engine = make_engine()
    reading_words(engine, 32)
    edit = serve_edits(1, 3)[0]
    text = f"{edit.prompt} {edit.target}."
    client, base = score(engine, text, 3), score(engine, text, 3, is_edited=False)
    finish(engine, [client, base])
    assert (client.routed.edit_id is None, base.routed.edit_id) == (False, None)
    edited = store.edited_model(store.ledger.snapshot())
    ids = store.base.tokenizer(text)["input_ids"]
    begin = len(edit.prompt)  # a byte is a token
    ours, theirs = scores(client), scores(base)
    before = slice(0, begin - 1)
    expected = base_logprobs(store, text)
    plain = [float(expected[i, token]) for i, token in enumerate(ids[1:])]
    assert [one.logprob for one in theirs] == pytest.approx(plain, abs=1e-4)
    assert [one.logprob for one in ours[before]] == pytest.approx(plain[before], abs=1e-4)
    # The reference: the question is read by the base, then one token after the other is fed.
    assert client.routed.edit_id is not None
    number = store.ledger.snapshot().ids.index(client.routed.edit_id)
    stepwise = teacher_forced(edited, ids, begin, number)
    assert [one.logprob for one in ours[begin - 1 :]] == pytest.approx(stepwise, abs=1e-3)
    assert max(abs(a - b) for a, b in zip(stepwise, plain[begin - 1 :], strict=True)) > 0.5
    assert client.text != base.text


def teacher_forced(model: EditedModel, ids: list[int], begin: int, expert: int) -> list[float]:
    """The log-probability of each token from `begin` on, decoded with an expert one by one."""
    prompt = EncodedPrompt(tuple(ids[:begin]), (begin - 1, begin))
    filled = model.prefill(pad_prompts([prompt], model.pad_id))
    route = Route.fixed([expert])
    cache = copy_cache(filled.cache)
    logits_BV = apply_experts(model, filled, route, cache)
    rows = RowCache(1)
    rows.join(cache, 0, begin)
    found = []
    for token in ids[begin:]:
        found.append(float(logits_BV[0].log_softmax(-1)[token]))
        logits_BV = step_rows(model, rows, torch.tensor([token]), route)
    return found


@pytest.mark.parametrize(
    ("questions", "end"),
    [
        (("who is x",), 8),
        (("nowhere", "Who is X"), 8),
        ((None, None), 13),
        (("Who is X? Al",), 12),
    ],
)
def test_the_end_of_a_question(questions: tuple[str | None, ...], end: int) -> None:
    """A token per character; the mark behind the question belongs to it."""
    text = "Who is X? Al. "
    scored = ScoredText(text, tuple(range(len(text))))
    assert question_end(scored, questions) == end


def test_a_known_beginning_of_the_answer_comes_first() -> None:
    scored = ScoredText("[Who?] Al", tuple(range(9)), 6)
    assert question_end(scored, ("Who",)) == 5
