"""A store of 32 edits with strong experts that nobody trained, and an engine on it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from scen.config import load_config
from scen.fs import Storage
from scen.ledger.ledger import WaveCommit
from scen.ledger.tensors import save_bundle
from scen.model.batch import pad_prompts
from scen.model.decode import decode
from scen.model.route import Route
from scen.records import Edit, EncodedPrompt
from scen.routing.keys import read_prompt_keys
from scen.snapshot.open import OpenStore, create_store
from scen_serve.engine.caches import ExpertCache, HostExpertCache, empty_bank
from scen_serve.engine.engine import Engine
from scen_serve.engine.request import Ended, Event, Failed, Piece, Request, Routed, Sampling, Ticket
from scen_serve.engine.snapshots import ServedSnapshot, SnapshotReader
from scen_serve.settings import EngineLimits

NEW = 24
WORDS = ("amber", "birch", "cedar", "dune", "ember", "fjord", "grove", "heath")


def serve_edits(count: int, first: int = 0) -> list[Edit]:
    """Edits of unequal length about things that nothing else is about."""
    return [
        Edit(f"edit-{i}", f"Who {WORDS[i % 8] * (1 + i // 8 % 3)} number {i * i}?", f"name {i}")
        for i in range(first, first + count)
    ]


def unrelated(count: int) -> list[str]:
    """Prompts that no edit is about."""
    return [f"{i * 37} + {WORDS[-1 - i % 8]} = {'?' * (1 + i % 5)}" for i in range(count)]


def prepare_wave(store: OpenStore, edits: Sequence[Edit], wave: int, seed: int = 0) -> WaveCommit:
    """Edits with random experts, strong enough to change an answer, ready to be committed. Runs the
    store's base: not while an engine does."""
    draw = torch.Generator().manual_seed(seed * 1000 + wave)
    rank, config = store.method.rank, store.base.model.config
    keys = read_prompt_keys(store.base, store.method.places, [edit.prompt for edit in edits])
    tensors = {
        "down": torch.randn(len(edits), rank, config.intermediate_size, generator=draw),
        "up": torch.randn(len(edits), config.hidden_size, rank, generator=draw),
        "key": keys.half(),
    }
    bundle = save_bundle(store.storage, tensors)
    return WaveCommit(f"wave-{wave}", "stream", wave, bundle, edits)


def commit_wave(store: OpenStore, edits: Sequence[Edit], wave: int, seed: int = 0) -> int:
    """Prepare a wave and commit it; the new version."""
    prepared = prepare_wave(store, edits, wave, seed)
    return store.ledger.commit(prepared, store.ledger.version()).version


@dataclass
class Client:
    """Keeps what it is told of one request."""

    events: list[Event] = field(default_factory=list)
    ticket: Ticket | None = None

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Piece))

    @property
    def routed(self) -> Routed:
        [routed] = [event for event in self.events if isinstance(event, Routed)]
        return routed

    @property
    def ended(self) -> Ended:
        last = self.events[-1]
        assert isinstance(last, Ended), last
        return last

    @property
    def is_done(self) -> bool:
        return bool(self.events) and isinstance(self.events[-1], Ended | Failed)


def make_store(tiny_folder: Path, folder: Path) -> OpenStore:
    """On the tiny base, 32 edits in two waves (versions 1 and 2)."""
    tiny = {"name": str(tiny_folder), "template": "llama2-inst", "dtype": "float32"}
    config = load_config(
        fixed={
            "method": "scen-lr",
            "base": {**tiny, "device": "cpu"},
            "router": {"threshold": 0.95},
        }
    )
    neutral = [f"What is {a} {b}?" for a in ("a red", "an old") for b in ("river", "king", "song")]
    opened = create_store(Storage(str(folder)), config, neutral)
    commit_wave(opened, serve_edits(20), 0)
    commit_wave(opened, serve_edits(12, 20), 1)
    return opened


@pytest.fixture
def store(tiny_folder: Path, tmp_path: Path) -> OpenStore:
    """The store of 32 edits."""
    return make_store(tiny_folder, tmp_path / "store")


@pytest.fixture
def host(store: OpenStore) -> HostExpertCache:
    """All bundles fit."""
    return HostExpertCache(store.storage, ("down", "up"), 1 << 30)


@pytest.fixture
def reader(store: OpenStore, host: HostExpertCache) -> SnapshotReader:
    """Reads versions of the store."""
    return SnapshotReader(store, host)


MakeEngine = Callable[..., Engine]


@pytest.fixture
def make_engine(store: OpenStore, host: HostExpertCache, reader: SnapshotReader) -> MakeEngine:
    """An engine on the newest version; keywords are limits."""

    def make(**limits: int) -> Engine:
        found = EngineLimits(**limits)
        base = store.base
        bank = empty_bank(base.model.config, store.method.rank, found.expert_slots, base.device)
        engine = Engine(base, store.method.layer, ExpertCache(bank, host), found)
        engine.snapshot = reader.read()
        return engine

    return make


@pytest.fixture
def engine(make_engine: MakeEngine) -> Engine:
    """Limits as they come."""
    return make_engine()


def ask(
    engine: Engine,
    prompt: str | EncodedPrompt,
    sampling: Sampling | None = None,
    *,
    snapshot: ServedSnapshot | None = None,
    is_edited: bool = True,
) -> Client:
    """Hand in a prompt, greedy and 24 tokens long where nothing else is said."""
    client = Client()
    template = engine.base.template
    encoded = template.encode_prompt(prompt) if isinstance(prompt, str) else prompt
    request = Request(encoded, sampling or Sampling(NEW), snapshot, is_edited)
    client.ticket = engine.submit(request, client.events.append)
    return client


def finish(engine: Engine, clients: Sequence[Client], steps: int = 2000) -> None:
    """Step until all are answered."""
    for _ in range(steps):
        if all(client.is_done for client in clients):
            return
        engine.step()
    raise AssertionError("some request was never answered")


def alone(store: OpenStore, prompt: str, version: int | None = None, *, edited: bool = True) -> str:
    """What the platform's own decoder answers to one prompt, in a batch of its own."""
    model = store.edited_model(store.ledger.snapshot(version))
    batch = pad_prompts([store.base.template.encode_prompt(prompt)], store.base.pad_id)
    told = decode(model, batch, NEW, None if edited else Route.base(1))
    return str(store.base.tokenizer.decode(told.tokens[0], skip_special_tokens=True))
