"""`verify_store` finds each kind of damage, names the file, and says what to do."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from scen.errors import NotFoundError
from scen.fs import Storage
from scen.ledger.actions import Revoke
from scen.ledger.bundles import bundle_path, read_rows
from scen.ledger.ledger import WaveCommit
from scen.ledger.tensors import save_bundle
from scen.ledger.verify import Finding, verify_ledger, verify_store
from unit.ledger.conftest import Shop

LOG = "ledger/_delta_log"


def flip(path: Path, at: int = -1) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


def cut(path: Path) -> None:
    """Cut a file off in its middle."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def data_file(shop: Shop) -> Path:
    """A data file of the ledger."""
    return sorted(shop.file("ledger").glob("*.parquet"))[0]


def kinds(found: list[Finding]) -> set[tuple[str, str]]:
    """Kind and file of each finding."""
    return {(finding.kind, finding.where) for finding in found}


def test_a_sound_store_has_no_findings(shop: Shop) -> None:
    told: list[tuple[int, int]] = []
    assert list(verify_store(shop.storage, lambda *some: told.append(some))) == []
    assert told == [(1, 4)] * 4
    shop.ledger.settle(Revoke(["a-0"]))
    assert list(verify_store(shop.storage)) == []


@pytest.mark.parametrize(
    ("damage", "kind", "fix"),
    [
        (flip, "damaged", "restore the file from a backup"),
        (cut, "damaged", "restore the file from a backup"),
        (Path.unlink, "missing", "commit them again under other ids"),
    ],
)
def test_a_bundle(shop: Shop, damage: Callable[[Path], None], kind: str, fix: str) -> None:
    damage(shop.bundle("b"))
    [found] = verify_store(shop.storage)
    assert (found.kind, found.where) == (kind, bundle_path(shop.bundles["b"]))
    assert "2 edits" in found.what
    assert fix in found.fix


def test_the_router(shop: Shop) -> None:
    shop.file(bundle_path(shop.router)).unlink()
    [found] = verify_store(shop.storage)
    assert (found.kind, found.what) == ("missing", "it held a router of the store")


def test_an_orphan_is_no_damage(shop: Shop) -> None:
    digest = save_bundle(shop.storage, {"key": torch.zeros(1, 8)})
    stray = shop.file("ledger/part-stray.parquet")
    stray.write_bytes(b"PAR1")
    found = list(verify_store(shop.storage))
    assert kinds(found) == {
        ("orphan", bundle_path(digest)),
        ("orphan", "ledger/part-stray.parquet"),
    }
    assert not any(finding.is_damage for finding in found)
    assert "`scen gc` deletes it" in {finding.fix for finding in found}


def test_what_an_unfinished_wave_has_trained_is_no_orphan(shop: Shop) -> None:
    digest = save_bundle(shop.storage, {"key": torch.zeros(1, 8)})
    shop.storage.put_json("waves/open/parts/0.json", {"bundle": digest, "losses": []})
    assert list(verify_store(shop.storage)) == []


@pytest.mark.parametrize("version", [0, 2, 3])
@pytest.mark.parametrize("damage", [cut, Path.unlink])
def test_a_log_file(shop: Shop, damage: Callable[[Path], None], version: int) -> None:
    name = f"{LOG}/{version:020d}.json"
    damage(shop.file(name))
    found = list(verify_store(shop.storage))
    if damage is Path.unlink and version == 3:  # the commit never was
        assert {finding.kind for finding in found} == {"orphan"}
        return
    [first, *_] = found
    assert first.kind == ("damaged" if damage is cut else "missing")
    assert first.where == name
    assert f"undoes version {version}" in first.fix


def test_a_log_file_that_is_cut_off_between_lines(shop: Shop) -> None:
    path = shop.file(f"{LOG}/{2:020d}.json")
    lines = path.read_text().splitlines(keepends=True)
    for keep in range(len(lines)):
        path.write_text("".join(lines[:keep]))
        assert any(finding.where.endswith(path.name) for finding in verify_store(shop.storage))


@pytest.mark.parametrize("damage", [cut, Path.unlink])
def test_a_data_file(shop: Shop, damage: Callable[[Path], None]) -> None:
    path = data_file(shop)
    damage(path)
    found = list(verify_store(shop.storage))
    kind = "damaged" if damage is cut else "missing"
    assert (kind, f"ledger/{path.name}") in kinds(found)


def test_a_byte_of_a_data_file(shop: Shop) -> None:
    """Wherever it is, unless it changes no value, as in the names of writers."""
    path = data_file(shop)
    name, whole = f"ledger/{path.name}", path.read_bytes()
    rows = read_rows(shop.storage, name, len(whole))
    for at in range(5, len(whole), 211):
        flip(path, at)
        if not any(finding.where == name for finding in verify_ledger(shop.storage)):
            assert read_rows(shop.storage, name, len(whole)) == rows
        path.write_bytes(whole)
    text = whole.find(b"Who is")
    assert text > 0
    flip(path, text)
    assert ("damaged", name) in kinds(list(verify_store(shop.storage)))


def test_an_edit_beyond_its_bundle(shop: Shop) -> None:
    digest = save_bundle(shop.storage, {"key": torch.zeros(1, 8)})
    edits = [*shop.ledger.snapshot().entries[:2]]
    renamed = [entry.edit.__class__(f"d-{i}", f"q{i}", "t") for i, entry in enumerate(edits)]
    shop.ledger.commit(WaveCommit("d", "news", 3, digest, renamed), 3)
    [found] = verify_store(shop.storage)
    assert (found.kind, found.where) == ("contradiction", bundle_path(digest))
    assert "none for ['d-1']" in found.what


def test_a_manifest(shop: Shop) -> None:
    cut(shop.file("store.json"))
    [found] = verify_store(shop.storage)
    assert (found.kind, found.where) == ("damaged", "store.json")


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        list(verify_store(Storage(str(tmp_path))))
