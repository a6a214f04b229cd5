"""A ledger in a temporary store and small waves for it; a store of three waves with bundles."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from scen.fs import Storage
from scen.ledger.bundles import bundle_path
from scen.ledger.ledger import Ledger, WaveCommit, create_or_open
from scen.ledger.manifest import StoreManifest
from scen.ledger.tensors import save_bundle
from scen.records import Edit

BASE = {"name": "tiny", "fingerprint": "f" * 64, "template": "plain", "dtype": "float32"}
METHOD = {"method": "scen-lr", "layer": 4, "places": [{"layer": 0, "kind": "mean"}]}

MakeManifest = Callable[..., StoreManifest]
MakeWave = Callable[..., WaveCommit]


@pytest.fixture
def make_manifest() -> MakeManifest:
    """A manifest; keywords change its base (`base=...`) or its method (`method=...`)."""

    def make(
        base: dict[str, object] | None = None, method: dict[str, object] | None = None
    ) -> StoreManifest:
        return StoreManifest.new(BASE | (base or {}), METHOD | (method or {}), {"router": "a" * 64})

    return make


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """An empty store."""
    return Storage(str(tmp_path / "store"))


@pytest.fixture
def ledger(storage: Storage, make_manifest: MakeManifest) -> Ledger:
    """A ledger without edits."""
    return create_or_open(storage, make_manifest())


@pytest.fixture
def make_wave() -> MakeWave:
    """A wave of edits whose ids begin with its key."""

    def make(key: str, index: int = 0, num_edits: int = 2) -> WaveCommit:
        edits = [
            Edit(id=f"{key}-{i}", prompt=f"Who leads {key} {i}?", target=f"name {i}", author="ann")
            for i in range(num_edits)
        ]
        return WaveCommit(key, "news", index, f"{index:064x}", edits, {"why": "monday"})

    return make


@dataclass(frozen=True)
class Shop:
    """A store, its ledger, and the digests of its bundles by wave; `router` is its artifact."""

    storage: Storage
    ledger: Ledger
    bundles: dict[str, str]
    router: str

    def file(self, path: str) -> Path:
        """A file of the store."""
        return self.storage.local_path / path

    def bundle(self, wave: str) -> Path:
        """The file of a wave's bundle."""
        return self.file(bundle_path(self.bundles[wave]))


def add_wave(shop: Shop, name: str, seed: int) -> None:
    """A wave of two edits with their experts, journal included."""
    rows = torch.randn(2, 8, generator=torch.Generator().manual_seed(seed))
    shop.bundles[name] = digest = save_bundle(shop.storage, {"key": rows, "up": rows * 2})
    shop.storage.put_json(f"waves/{name}/trained.json", {"bundle": digest, "losses": []})
    edits = [Edit(f"{name}-{i}", f"Who is {name} {i}?", "t") for i in range(2)]
    wave = WaveCommit(name, "news", seed, digest, edits)
    shop.ledger.commit(wave, shop.ledger.version())


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """Waves a, b and c of two edits each."""
    storage = Storage(str(tmp_path / "store"))
    router = save_bundle(storage, {"mean": torch.ones(3), "gate": torch.ones(2, 2)})
    ledger = create_or_open(storage, StoreManifest.new(BASE, {}, {"router": router}))
    found = Shop(storage, ledger, {}, router)
    for seed, name in enumerate("abc"):
        add_wave(found, name, seed)
    return found
