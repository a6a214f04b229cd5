"""A pointer means one model: it survives JSON, and knows whatever is not what it was made of."""

import json
from dataclasses import replace

import pytest

from scen.errors import IntegrityError
from scen.fs import Storage
from scen.ledger.actions import Revoke, Rollback
from scen.ledger.ledger import Ledger
from scen.ledger.manifest import (
    HeldWave,
    SnapshotPointer,
    StoreManifest,
    bank_rows,
    point_at,
    read_manifest,
    store_id,
)
from unit.ledger.conftest import BASE, MakeManifest, MakeWave

HELD = HeldWave("c", "c" * 64, ("a-1", "c-0", "c-1"), ("b-0",))


@pytest.fixture
def filled(ledger: Ledger, make_wave: MakeWave) -> Ledger:
    """Version 2: waves a and b."""
    for index, key in enumerate("ab"):
        ledger.commit(make_wave(key, index), index)
    return ledger


def pointer_of(ledger: Ledger, version: int, held: HeldWave | None = None) -> SnapshotPointer:
    """Of a version of the store at `/old`."""
    return point_at("/old", ledger.manifest, ledger.snapshot(version), held)


@pytest.mark.parametrize("held", [None, HELD])
def test_it_goes_through_json(filled: Ledger, held: HeldWave | None) -> None:
    pointer = pointer_of(filled, 2, held)
    assert SnapshotPointer.from_dict(json.loads(json.dumps(pointer.to_dict()))) == pointer
    assert (pointer.store, pointer.version, pointer.base) == ("/old", 2, BASE)


@pytest.mark.parametrize("value", [{}, {"held": None, "store": 1}, {"held": {"key": "c"}}, None])
def test_an_invalid_pointer_is_an_error(value: object) -> None:
    with pytest.raises(IntegrityError, match="register the version again"):
        SnapshotPointer.from_dict(value)  # type: ignore[arg-type]


def test_a_held_wave_takes_the_place_of_what_it_replaces(filled: Ledger) -> None:
    snapshot = filled.snapshot()
    rows = [(row.edit_id, row.bundle[0], row.row) for row in bank_rows(snapshot)]
    assert rows == [("a-0", "0", 0), ("a-1", "0", 1), ("b-0", "0", 0), ("b-1", "0", 1)]
    rows = [(row.edit_id, row.bundle[0], row.row) for row in bank_rows(snapshot, HELD)]
    assert rows[:3] == [("a-0", "0", 0), ("a-1", "0", 1), ("b-1", "0", 1)]
    assert rows[3:] == [("c-0", "c", 1), ("c-1", "c", 2)]  # a-1 is committed already


def test_the_digest_is_of_what_answers(filled: Ledger) -> None:
    filled.settle(Revoke(["b-0"]))
    filled.settle(Rollback(2))
    digests = [pointer_of(filled, version).digest for version in range(5)]
    assert digests[4] == digests[2]
    digests.append(pointer_of(filled, 2, HELD).digest)
    digests.append(pointer_of(filled, 2, replace(HELD, replaces=())).digest)
    assert len(set(digests)) == len(digests) - 1


def test_another_history_is_not_taken_for_it(
    filled: Ledger, make_wave: MakeWave, make_manifest: MakeManifest
) -> None:
    pointer, manifest = pointer_of(filled, 2), filled.manifest
    pointer.require(manifest, filled.snapshot(2))
    other = StoreManifest(manifest.base, manifest.method, {"router": "b" * 64})
    for made, version in [(manifest, 1), (other, 2), (make_manifest({"fingerprint": "0"}), 2)]:
        with pytest.raises(IntegrityError, match="the one that was registered at /old"):
            pointer.require(made, filled.snapshot(version))


def test_a_store_keeps_its_id(filled: Ledger, storage: Storage, make_wave: MakeWave) -> None:
    before = store_id(filled.manifest)
    filled.commit(make_wave("z", 9), 2)
    assert store_id(read_manifest(storage)) == before
    assert store_id(replace(filled.manifest, created_at="2020-01-01")) != before
