"""Bundles are held in memory as far as they fit."""

from pathlib import Path

import pytest
import torch

from scen.fs import Storage
from scen.ledger.bundles import bundle_path
from scen.ledger.tensors import save_bundle
from scen.snapshot.load import BundleRows, Place

SIZE = 4 * 4 * 2  # bytes of a bundle: four rows of four halves


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "store"))


def bundles(storage: Storage, count: int) -> list[str]:
    """Bundles of four rows; each row is filled with its number among all."""
    row_N4 = torch.arange(4 * count).half()[:, None].expand(-1, 4)
    return [save_bundle(storage, {"x": part}) for part in row_N4.split(4)]


def marks(rows: BundleRows, places: list[Place]) -> list[float]:
    """The number in each row."""
    return [float(number) for number in rows.read(places, ("x",))["x"][:, 0]]


def hide(storage: Storage, digest: str) -> None:
    """Whoever reads it now is in trouble."""
    (storage.local_path / bundle_path(digest)).unlink()


def test_no_more_is_held_than_fits(storage: Storage) -> None:
    digests = bundles(storage, 5)
    rows = BundleRows(storage, max_bytes=3 * SIZE)
    places = [Place(digest, row) for digest in digests for row in (3, 1)]
    expected = [4.0 * i + row for i in range(5) for row in (3, 1)]
    assert marks(rows, places) == expected
    assert rows.held_bytes == 3 * SIZE
    for digest in digests[:3]:
        hide(storage, digest)
    assert marks(rows, places) == expected
    assert rows.held_bytes == 3 * SIZE


def test_bundles_that_nobody_wants_any_more_give_way(storage: Storage) -> None:
    a, b, c = bundles(storage, 3)
    rows = BundleRows(storage, max_bytes=2 * SIZE)
    marks(rows, [Place(a, 0), Place(b, 0)])
    assert marks(rows, [Place(b, 0), Place(c, 0)]) == [4.0, 8.0]
    for digest in (b, c):
        hide(storage, digest)
    assert marks(rows, [Place(c, 1), Place(b, 1)]) == [9.0, 5.0]
    assert rows.held_bytes == 2 * SIZE


def test_a_bundle_that_is_too_large_is_read_each_time(storage: Storage) -> None:
    [digest] = bundles(storage, 1)
    rows = BundleRows(storage, max_bytes=SIZE - 1)
    assert marks(rows, [Place(digest, 2)]) == marks(rows, [Place(digest, 2)]) == [2.0]
    assert rows.held_bytes == 0


def test_nothing_is_dropped_as_long_as_there_is_room(storage: Storage) -> None:
    a, b = bundles(storage, 2)
    rows = BundleRows(storage)
    marks(rows, [Place(a, 0)])
    marks(rows, [Place(b, 0)])
    hide(storage, a)
    assert marks(rows, [Place(a, 3)]) == [3.0]
