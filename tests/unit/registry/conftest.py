"""A ledger in a temporary store, and small waves for it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from scen.fs import Storage
from scen.records import Edit
from scen.registry.ledger import Ledger, WaveCommit, create_or_open
from scen.registry.manifest import StoreManifest

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
