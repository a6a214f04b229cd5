"""Prompts that begin alike are run from where they differ, and are answered as without that."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from scen.config import load_config
from scen.fs import Storage
from scen.ledger.actions import WaveCommit
from scen.ledger.tensors import save_bundle
from scen.model.batch import pad_prompts
from scen.model.keys import read_keys
from scen.model.prefill import prefill
from scen.records import EncodedPrompt
from scen.snapshot.open import OpenStore, create_store
from scen_serve.engine.caches import BLOCK, ExpertCache, HostExpertCache, PrefixCache, empty_bank
from scen_serve.engine.engine import Engine
from scen_serve.engine.request import Piece, Sampling
from scen_serve.engine.snapshots import SnapshotReader
from scen_serve.metrics import Metrics
from scen_serve.ray_app import Changes
from scen_serve.service import Service
from scen_serve.settings import EngineLimits
from unit.serve.conftest import Client, MakeEngine, ask, finish, serve_edits, unrelated

SYSTEM = "You are a guide to the isles, and you speak of nothing else at all. "  # 67 tokens
OTHER = "You are somebody else, of whom nothing is known and nothing is told. "
TOKENS = 8  # of an answer
KNOWN = 64  # tokens of SYSTEM, with what stands before it, in whole blocks


def with_system(store: OpenStore, question: str, system: str = SYSTEM) -> EncodedPrompt:
    """The question behind a system prompt, whose words are not the user's own."""
    found = store.base.template.encode_prompt(system + question)
    return EncodedPrompt(found.ids, (found.own[0] + len(system), found.own[1]))


def commit_about(store: OpenStore, prompts: Sequence[EncodedPrompt]) -> None:
    """Strong edits 100 + i, each about one of these prompts, as wave 2."""
    draw = torch.Generator().manual_seed(0)
    places, config, base = store.method.places, store.base.model.config, store.base
    count, rank = len(prompts), store.method.rank
    batches = [pad_prompts([prompt], base.pad_id) for prompt in prompts]
    filled = [prefill(base.model, batch, 0, [p.layer for p in places]) for batch in batches]
    tensors = {
        "down": torch.randn(count, rank, config.intermediate_size, generator=draw),
        "up": torch.randn(count, config.hidden_size, rank, generator=draw),
        "key": torch.cat([read_keys(one, places) for one in filled]).half(),
    }
    bundle = save_bundle(store.storage, tensors)
    wave = WaveCommit("wave-2", "stream", 2, bundle, serve_edits(count, 100))
    store.ledger.commit(wave, store.ledger.version())


def answers(engine: Engine, prompts: Sequence[EncodedPrompt]) -> list[Client]:
    """Of all of them at once."""
    clients = [ask(engine, prompt, Sampling(TOKENS)) for prompt in prompts]
    finish(engine, clients)
    return clients


def told(clients: Sequence[Client]) -> list[tuple[str, str | None]]:
    """Text and edit of each answer."""
    return [(client.text, client.routed.edit_id) for client in clients]


def one_by_one(engine: Engine, prompts: Sequence[EncodedPrompt]) -> list[tuple[str, str | None]]:
    """The answers of an engine that knows no beginnings, each alone."""
    assert engine.prefixes.max_bytes == 0
    return [told(answers(engine, [prompt]))[0] for prompt in prompts]


def test_a_shared_system_prompt_is_run_once(make_engine: MakeEngine, store: OpenStore) -> None:
    """As the base itself counts, by the tokens of each prefill."""
    prompts = [with_system(store, question) for question in unrelated(4)]
    engine, run = make_engine(), list[int]()

    def count(_module: object, args: tuple[torch.Tensor, ...]) -> None:
        if args[0].shape[1] > 1:
            run.append(args[0].shape[1])

    handle = store.base.model.model.embed_tokens.register_forward_pre_hook(count)
    clients = [answers(engine, [prompt])[0] for prompt in prompts]
    handle.remove()
    first, *others = [len(prompt.ids) for prompt in prompts]
    assert run == [first, *(length - KNOWN for length in others)]
    assert (engine.prefixes.counts.hits, engine.prefixes.counts.tokens) == (3, 3 * KNOWN)
    assert told(clients) == one_by_one(make_engine(prefix_bytes=0), prompts)
    assert clients[0].text != clients[1].text


def test_hits_misses_and_edits_in_one_batch(make_engine: MakeEngine, store: OpenStore) -> None:
    edited = [with_system(store, f"Who is {i}?", s) for i, s in enumerate((SYSTEM, OTHER) * 2)]
    commit_about(store, edited)
    engine = make_engine(prefill_tokens=4096)
    answers(engine, [with_system(store, "Why?")])  # OTHER is not known
    plain = [with_system(store, question) for question in unrelated(3)]
    short = [store.base.template.encode_prompt(edit.prompt) for edit in serve_edits(2)]
    prompts = [edited[0], plain[0], edited[1], short[0], edited[2], plain[1], short[1], edited[3]]
    first, again = answers(engine, prompts), answers(engine, prompts)
    expected = one_by_one(make_engine(prefix_bytes=0), prompts)
    assert told(first) == told(again) == expected
    numbers = [edit_id and edit_id.removeprefix("edit-") for _, edit_id in expected]
    assert numbers == ["100", None, "101", "0", "102", None, "1", "103"]
    assert engine.prefixes.counts.hits >= 6  # at the latest the second time


def test_a_conversation_goes_on_from_what_was_asked_before(
    make_engine: MakeEngine, store: OpenStore
) -> None:
    """The user's words are run for their keys, and known when they have become history."""
    first = store.base.template.encode_prompt("Tell me about the isle of amber, and do it well.")
    engine = make_engine()
    answers(engine, [first])
    answers(engine, [first])
    assert engine.prefixes.counts.hits == 0  # nothing but the user's own words
    again = 2 * len(first.ids)
    later = EncodedPrompt(first.ids + first.ids, (len(first.ids), again - 1))
    client = answers(engine, [later])
    assert engine.prefixes.counts.tokens == (len(first.ids) - 1) // BLOCK * BLOCK > 0
    assert told(client) == one_by_one(make_engine(prefix_bytes=0), [later])


def test_a_swap_leaves_what_is_known(
    make_engine: MakeEngine, store: OpenStore, reader: SnapshotReader
) -> None:
    engine = make_engine()
    prompt = with_system(store, "Who is new?")
    [before] = answers(engine, [prompt])
    commit_about(store, [prompt])
    engine.snapshot = reader.read()
    [after] = answers(engine, [prompt])
    assert engine.prefixes.counts.hits == 1
    assert (before.routed.edit_id, after.routed.edit_id) == (None, "edit-100")
    assert told([after]) == one_by_one(make_engine(prefix_bytes=0), [prompt])
    unedited = ask(engine, prompt, Sampling(TOKENS), is_edited=False)
    finish(engine, [unedited])
    assert unedited.text == before.text != after.text


def test_unrouted_answers_are_the_base_s_bit_for_bit(
    make_engine: MakeEngine, store: OpenStore
) -> None:
    """The base is asked through the same engine, which knows the same of the prompt then."""
    engine = make_engine()
    answers(engine, [with_system(store, "Why?")])
    sampling = Sampling(TOKENS, top_logprobs=5)
    for prompt in [with_system(store, question) for question in unrelated(3)]:
        pair = []
        for is_edited in (False, True):
            client = ask(engine, prompt, sampling, is_edited=is_edited)
            finish(engine, [client])
            pair.append([e.logprobs for e in client.events if isinstance(e, Piece) and e.logprobs])
        assert client.routed.edit_id is None
        assert client.routed.score is not None
        assert pair[0] == pair[1] != []
    assert engine.prefixes.counts.hits == 6


@pytest.mark.parametrize(("blocks", "hits"), [(0, 0), (5, 0), (9, 4)])
def test_no_more_is_kept_than_there_is_room_for(
    make_engine: MakeEngine, store: OpenStore, blocks: int, hits: int
) -> None:
    """Two kinds of prompts take turns: five blocks hold one prompt, nine what both begin with."""
    config = store.base.model.config
    size = config.num_hidden_layers * 2 * config.num_key_value_heads * config.head_dim * 4 * BLOCK
    engine = make_engine(prefix_bytes=blocks * size + size // 2)
    prompts = [with_system(store, q, s) for q in unrelated(3) for s in (SYSTEM, OTHER)]
    clients = []
    for prompt in prompts:
        clients += answers(engine, [prompt])
        assert engine.prefixes.num_bytes <= blocks * size
    assert engine.prefixes.num_bytes == blocks * size
    assert engine.prefixes.counts.hits == hits
    assert told(clients) == one_by_one(make_engine(prefix_bytes=0), prompts)


def test_the_least_recently_used_goes_first_and_beginnings_last(store: OpenStore) -> None:
    base = store.base
    prompts = {
        name: EncodedPrompt((1, *([token] * 2 * BLOCK), 9, 9), (2 * BLOCK + 1, 2 * BLOCK + 3))
        for name, token in (("a", 40), ("b", 50), ("c", 60))
    }

    def read(name: str) -> None:
        batch = pad_prompts([prompts[name]], base.pad_id)
        cache.keep([prompts[name]], prefill(base.model, batch, 0, (), cache.known([prompts[name]])))

    def width(name: str) -> int:
        found = cache.known([prompts[name]])
        return found[0][0].shape[2] if found else 0

    cache = PrefixCache(1 << 30)
    read("a")
    cache.max_bytes = 2 * cache.num_bytes  # of four blocks, two for each prompt
    for name in ("b", "a", "c"):
        read(name)
    assert [width(name) for name in "abc"] == [2 * BLOCK, 0, 2 * BLOCK]
    cache.max_bytes -= 1
    read("c")
    assert [width(name) for name in "abc"] == [BLOCK, 0, 2 * BLOCK]


def test_it_is_off_in_paper_mode(tiny_folder: Path, tmp_path: Path) -> None:
    base = {"name": str(tiny_folder), "template": "llama2-inst", "dtype": "float32"}
    config = load_config(fixed={"method": "scen", "base": {**base, "device": "cpu"}})
    store = create_store(Storage(str(tmp_path / "paper")), config, [])
    host = HostExpertCache(store.storage, ("weight",), 1 << 30)
    bank = empty_bank(store.base.model.config, 0, 4, store.base.device)
    engine = Engine(store.base, store.method.layer, ExpertCache(bank, host), EngineLimits())
    engine.snapshot = SnapshotReader(store, host).read()
    for _ in range(2):
        answers(engine, [with_system(store, "Who?")])
    assert (engine.prefixes.counts.hits, engine.prefixes.num_bytes) == (0, 0)


def test_it_is_counted_for_prometheus_and_ray(store: OpenStore) -> None:
    service = Service(store, EngineLimits())
    assert isinstance(service.engine, Engine)
    service.follower.look()
    metrics = Metrics(service)
    for question in ("Who?", "Why?"):
        answers(service.engine, [with_system(store, question)])
    held = float(service.engine.prefixes.num_bytes)
    for name, value in (("hits", 1.0), ("tokens", float(KNOWN)), ("bytes", held)):
        assert f"scen_prefix_cache_{name} {value}" in metrics.text().decode()
    changes = {change.name: change.value for change in Changes(metrics.registry).take()}
    assert changes["scen_prefix_cache_tokens"] == KNOWN
    service.stop()


def test_a_prompt_that_fails_leaves_nothing_behind(
    make_engine: MakeEngine, store: OpenStore
) -> None:
    engine = make_engine()
    answers(engine, [with_system(store, "Who?")])
    kept = engine.prefixes.num_bytes

    def fail(_module: object, _args: object) -> None:
        raise RuntimeError("kernel failed")

    handle = store.base.model.lm_head.register_forward_pre_hook(fail)
    client = ask(engine, with_system(store, "Why? " * 9))
    finish(engine, [client])
    handle.remove()
    assert (engine.prefixes.num_bytes, engine.prefixes.counts.hits) == (kept, 0)
    prompt = with_system(store, "Why not?")
    assert told(answers(engine, [prompt])) == one_by_one(make_engine(prefix_bytes=0), [prompt])
