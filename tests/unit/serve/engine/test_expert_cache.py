"""Experts move from the store to memory to the device, and out again when room is needed."""

import pytest
import torch
from torch import Tensor

from scen.errors import IntegrityError
from scen.fs import Storage
from scen.ledger.tensors import load_bundle, pack_int8, read_tensor, save_bundle
from scen.snapshot.load import Place
from scen.snapshot.open import OpenStore
from scen_serve.engine.caches import ExpertCache, HostExpertCache, empty_bank
from unit.serve.conftest import MakeEngine, alone, ask, finish, serve_edits


@pytest.fixture
def places(store: OpenStore) -> list[Place]:
    """20 rows of one bundle, 12 of another."""
    return [Place(entry.bundle, entry.row) for entry in store.ledger.snapshot().entries]


def new_cache(store: OpenStore, host: HostExpertCache, slots: int) -> ExpertCache:
    bank = empty_bank(store.base.model.config, store.method.rank, slots, store.base.device)
    return ExpertCache(bank, host)


def stored(storage: Storage, place: Place) -> dict[str, Tensor]:
    tensors = load_bundle(storage, place.bundle)
    return {name: tensors[name][place.row] for name in ("down", "up")}


def holds(cache: ExpertCache, slot: int, expert: dict[str, Tensor]) -> bool:
    return all(torch.equal(t[slot], expert[n]) for n, t in cache.bank.tensors().items())


def test_an_expert_that_is_not_in_memory_must_be_fetched_first(
    store: OpenStore, host: HostExpertCache, places: list[Place]
) -> None:
    cache = new_cache(store, host, 2)
    assert cache.acquire(places[3]) is None
    host.prefetch(places[3]).result(10)
    slot = cache.acquire(places[3])
    assert slot is not None
    assert holds(cache, slot, stored(store.storage, places[3]))
    assert cache.acquire(places[3]) == slot
    assert (cache.counts.misses, cache.counts.hits) == (1, 1)


def test_an_expert_in_8_bits_comes_to_the_device_in_float32(
    store: OpenStore, host: HostExpertCache, places: list[Place]
) -> None:
    tensors = load_bundle(store.storage, places[0].bundle)
    small = tensors | pack_int8("down", tensors["down"], 2) | pack_int8("up", tensors["up"], 1)
    place, cache = Place(save_bundle(store.storage, small), 3), new_cache(store, host, 2)
    host.prefetch(place).result(10)
    assert set(host.read(place.bundle)) == set(small)
    slot = cache.acquire(place)
    assert slot is not None
    for name, tensor in cache.bank.tensors().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor[slot], read_tensor(small, name, 3))
        close = tensors[name][3].float()
        assert (tensor[slot] - close).abs().max() <= close.abs().max() / 127


def test_the_least_recently_used_expert_makes_room_unless_it_is_pinned(
    store: OpenStore, host: HostExpertCache, places: list[Place]
) -> None:
    cache = new_cache(store, host, 2)
    for digest in {place.bundle for place in places}:
        host.read(digest)
    first, second = cache.acquire(places[0]), cache.acquire(places[1])
    assert first is not None
    assert second is not None
    assert cache.acquire(places[2]) is None  # both are in use
    cache.release(first)
    cache.release(second)
    cache.acquire(places[0])
    third = cache.acquire(places[25])
    assert third == second
    assert holds(cache, third, stored(store.storage, places[25]))
    assert holds(cache, first, stored(store.storage, places[0]))
    assert cache.counts.evictions == 1
    cache.release(third)
    again = cache.acquire(places[1])
    assert again is not None
    assert holds(cache, again, stored(store.storage, places[1]))
    assert cache.num_pinned == 2


def test_memory_is_bounded(store: OpenStore, places: list[Place]) -> None:
    host = HostExpertCache(store.storage, ("down", "up"), max_bytes=1)
    host.read(places[0].bundle)
    assert host.find(places[5]) is not None
    host.read(places[31].bundle)
    assert host.find(places[5]) is None
    assert host.find(places[31]) is not None
    assert 0 < host.num_bytes < 12 * 4 * (4 * 64 + 32 * 4) + 1


def test_answers_do_not_depend_on_what_is_in_memory(
    make_engine: MakeEngine, store: OpenStore, host: HostExpertCache
) -> None:
    """One bundle and one expert at a time: all must be fetched again and again."""
    engine = make_engine(expert_slots=1, max_rows=4)
    engine.experts.host = small = HostExpertCache(store.storage, ("down", "up"), 1)
    prompts = [edit.prompt for edit in serve_edits(3) + serve_edits(3, 29)]
    clients = [ask(engine, prompt) for prompt in prompts]
    finish(engine, clients, steps=100_000)
    assert [c.text for c in clients] == [alone(store, prompt) for prompt in prompts]
    assert engine.experts.counts.evictions == 5
    small.close()


def test_a_damaged_expert_fails_its_own_request_only(
    make_engine: MakeEngine, store: OpenStore, places: list[Place]
) -> None:
    engine = make_engine()
    engine.experts.host = HostExpertCache(store.storage, ("down", "up"), 1 << 30)
    path = store.storage.local_path / f"bundles/{places[0].bundle}.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    good, bad = serve_edits(1, 30)[0], serve_edits(1)[0]
    clients = [ask(engine, edit.prompt) for edit in (bad, good)]
    finish(engine, clients, steps=100_000)
    [failed] = [getattr(event, "error", None) for event in clients[0].events[1:]]
    assert isinstance(failed, IntegrityError)
    assert clients[1].ended.completion_tokens > 0
