"""Whatever is committed, revoked and rolled back: a version routes as if it were the only one."""

import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scen.errors import IntegrityError
from scen.fs import Storage
from scen.ledger.actions import Action, Revoke, Rollback, WaveCommit
from scen.ledger.ledger import Ledger, create_or_open
from scen.ledger.manifest import StoreManifest
from scen.ledger.state import Snapshot
from scen.model.keys import KeyPlace
from scen.records import Edit
from scen.routing.neurons import Choice, KeyNeurons
from scen.routing.router import Router, plain_router
from scen_serve.engine import snapshots
from scen_serve.engine.snapshots import NeuronRows

PLACES = (KeyPlace(1, "mean"), KeyPlace(4, "last"))
BASE = {"name": "none", "fingerprint": "f" * 64, "template": "raw", "dtype": "float32"}


def draw_keys(rows: int, seed: int) -> Tensor:
    """key_NKF at two places of 24 numbers."""
    return 3 + torch.randn(rows, 2, 24, generator=torch.Generator().manual_seed(seed))


@dataclass
class Store:
    """A ledger, and the keys that lie in its bundles. `reads` are the bundles that were read."""

    ledger: Ledger
    bundles: dict[str, Tensor] = field(default_factory=dict)
    reads: list[str] = field(default_factory=list)

    def commit(self, count: int, supersedes: int = 0) -> int:
        """Edits of a new bundle, which take the place of the first few that are active."""
        snapshot = self.ledger.snapshot()
        wave = len(self.bundles)
        digest, ids = f"{wave:064x}", [f"{wave}-{i}" for i in range(count)]
        self.bundles[digest] = draw_keys(count, wave)
        pairs = dict(zip(snapshot.ids[:supersedes], ids, strict=False))
        commit = WaveCommit(
            f"w{wave}", "s", wave, digest, [Edit(i, f"Who {i}?", "x") for i in ids], pairs
        )
        return self.ledger.commit(commit, snapshot.version).version

    def act(self, action: Action) -> int:
        return self.ledger.settle(action).version

    def read(self, digest: str) -> tuple[dict[str, Tensor], None]:
        self.reads.append(digest)
        if digest not in self.bundles:
            raise IntegrityError(f"{digest} is damaged")
        return {"key": self.bundles[digest]}, None

    def keys(self, snapshot: Snapshot) -> Tensor:
        """key_EKF of the edits of a version."""
        rows = [self.bundles[entry.bundle][entry.row] for entry in snapshot.entries]
        return torch.stack(rows) if rows else torch.zeros(0, 2, 24)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Without edits."""
    manifest = StoreManifest.new(BASE, {}, {})
    return Store(create_or_open(Storage(str(tmp_path / "store")), manifest))


@pytest.fixture
def router() -> Router:
    """Cosines at the two places."""
    return plain_router(PLACES, draw_keys(60, 999), 0.1, 0.5)


def asked(store: Store) -> Tensor:
    """Keys of prompts near all edits that ever were, and of strangers."""
    own = [key_EKF + 0.2 * draw_keys(len(key_EKF), 7) for key_EKF in store.bundles.values()]
    return torch.cat([*own, draw_keys(5, 8)])


def assert_routes_alone(neurons: KeyNeurons, store: Store, snapshot: Snapshot) -> None:
    """The version routes as neurons do that were made for its edits alone."""
    key_BKF = asked(store)
    ours = neurons.choose(key_BKF)
    theirs = KeyNeurons.build(neurons.router, store.keys(snapshot)).choose(key_BKF)
    assert len(neurons) == len(snapshot.ids)
    assert torch.equal(ours.index_BE[:, 0], theirs.index_BE[:, 0])
    # Keys that are encoded in another batch may fall to another of the 255 steps.
    torch.testing.assert_close(ours.score_BE, theirs.score_BE, rtol=0, atol=5e-3)


def random_step(store: Store, draw: random.Random) -> int:
    """One more version."""
    snapshot = store.ledger.snapshot()
    kind = draw.choice(["commit", "commit", "supersede", "revoke", "rollback"])
    if kind == "rollback":
        return store.act(Rollback(draw.randrange(snapshot.version + 1)))
    if kind == "revoke" and snapshot.ids:
        return store.act(Revoke(draw.sample(snapshot.ids, draw.randint(1, len(snapshot.ids)))))
    return store.commit(draw.randint(1, 5), draw.randint(1, 3) if kind == "supersede" else 0)


@pytest.mark.parametrize("seed", range(4))
def test_any_history_routes_as_each_version_alone(
    store: Store, router: Router, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Versions are read as they come, some are skipped, older ones are asked for between, and a
    reader that starts late is held against them too."""
    monkeypatch.setattr(snapshots, "UNIT", 4)  # so that hidden rows are soon too many
    draw = random.Random(seed)
    rows, late = NeuronRows(router, store.read), NeuronRows(router, store.read)
    held: list[tuple[KeyNeurons, Tensor, Choice]] = []
    for step in range(14):
        version = random_step(store, draw)
        wanted = [version] if draw.random() < 0.8 else []
        wanted += [draw.randrange(version + 1)] if draw.random() < 0.4 else []
        for number in wanted:
            snapshot = store.ledger.snapshot(number)
            readers = (rows, late) if step > 6 else (rows,)
            for reader in readers:
                neurons = reader.neurons(snapshot)
                assert_routes_alone(neurons, store, snapshot)
                held.append((neurons, asked(store), neurons.choose(asked(store))))
    for neurons, key_BKF, before in held:  # requests still run on all of them
        after = neurons.choose(key_BKF)
        assert torch.equal(after.index_BE, before.index_BE)
        assert torch.equal(after.score_BE, before.score_BE)


def test_only_what_is_new_is_read(store: Store, router: Router) -> None:
    rows = NeuronRows(router, store.read)
    for _ in range(3):
        store.commit(4)
    before = rows.neurons(store.ledger.snapshot())
    store.act(Revoke(["0-1", "1-2"]))
    store.commit(2)
    after = rows.neurons(store.ledger.snapshot())
    older = rows.neurons(store.ledger.snapshot(2))
    assert store.reads == sorted(store.bundles)
    assert (len(before), len(after), len(older)) == (12, 12, 8)
    shared = {neurons.codes.int8_EKC.data_ptr() for neurons in (before, after, older)}
    assert len(shared) == 1


def test_an_edit_that_was_unknown_comes_back_in_its_place(store: Store, router: Router) -> None:
    store.commit(5)
    store.act(Revoke(["0-2"]))
    rows = NeuronRows(router, store.read)
    before = rows.neurons(store.ledger.snapshot())
    store.act(Rollback(1))
    snapshot = store.ledger.snapshot()
    assert snapshot.ids == ["0-0", "0-1", "0-2", "0-3", "0-4"]
    assert_routes_alone(rows.neurons(snapshot), store, snapshot)
    assert len(before) == 4
    store.commit(1)
    snapshot = store.ledger.snapshot()
    assert_routes_alone(rows.neurons(snapshot), store, snapshot)
    assert len(store.reads) == 3  # twice the first bundle: for four edits, then for the fifth


def test_hidden_rows_are_dropped_when_they_are_most(
    store: Store, router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "UNIT", 4)
    rows = NeuronRows(router, store.read)
    store.commit(20)
    whole = rows.neurons(store.ledger.snapshot())
    store.act(Revoke([f"0-{i}" for i in range(10)]))
    half = rows.neurons(store.ledger.snapshot())
    assert len(half.codes) == 20
    store.act(Revoke(["0-10"]))
    less = rows.neurons(store.ledger.snapshot())
    assert (len(less.codes), len(less)) == (9, 9)
    rows.neurons(store.ledger.snapshot(1))  # what was dropped is read again
    assert store.reads == [f"{0:064x}"] * 2
    assert (len(whole.codes), len(whole)) == (20, 20)


def test_an_old_version_of_few_edits_does_not_cost_the_newest_its_bank(
    store: Store, router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "UNIT", 4)
    rows = NeuronRows(router, store.read)
    store.commit(2)
    store.commit(30)
    newest = rows.neurons(store.ledger.snapshot())
    older = rows.neurons(store.ledger.snapshot(1))
    again = rows.neurons(store.ledger.snapshot())
    assert (len(older.codes), len(again.codes)) == (2, 32)
    assert again.codes.int8_EKC.data_ptr() == newest.codes.int8_EKC.data_ptr()


def test_a_version_that_cannot_be_read_is_read_when_it_can(store: Store, router: Router) -> None:
    rows = NeuronRows(router, store.read)
    store.commit(3)
    rows.neurons(store.ledger.snapshot())
    store.commit(2)
    store.commit(2)
    hidden = store.bundles.pop(f"{2:064x}")
    with pytest.raises(IntegrityError):
        rows.neurons(store.ledger.snapshot())
    snapshot = store.ledger.snapshot(1)
    store.bundles[f"{2:064x}"] = hidden
    assert_routes_alone(rows.neurons(snapshot), store, snapshot)
    snapshot = store.ledger.snapshot()
    assert_routes_alone(rows.neurons(snapshot), store, snapshot)
    assert store.reads == [f"{i:064x}" for i in (0, 1, 2, 2)]
