"""A store of three waves with small bundles, and no base."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from scen.fs import Storage
from scen.records import Edit
from scen.registry.ledger import Ledger, WaveCommit, create_or_open
from scen.registry.manifest import StoreManifest
from scen.store.bundles import bundle_path, save_bundle

BASE = {"name": "tiny", "fingerprint": "f" * 64, "template": "plain", "dtype": "float32"}


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
