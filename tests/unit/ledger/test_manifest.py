"""A store belongs to one base and one method, and says so before anything is written."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from scen.errors import BaseError, ConfigError, IntegrityError, NotFoundError
from scen.fs import Storage
from scen.ledger.ledger import Ledger, WaveCommit, create_or_open, open_ledger
from scen.ledger.manifest import StoreManifest, read_manifest

MakeManifest = Callable[..., StoreManifest]
MakeWave = Callable[..., WaveCommit]


def test_the_manifest_is_written_once(
    ledger: Ledger, storage: Storage, make_manifest: MakeManifest, make_wave: MakeWave
) -> None:
    first = storage.read("store.json")
    ledger.commit(make_wave("a"), 0)
    again = create_or_open(storage, make_manifest(base={"dtype": "bfloat16"}))
    assert storage.read("store.json") == first
    assert again.manifest.base == make_manifest().base
    assert again.manifest.method == make_manifest().method
    assert again.manifest.artifacts == {"router": "a" * 64}
    assert again.manifest.created_at.endswith("+00:00")
    assert (again.manifest.format, again.version()) == (3, 1)


def test_another_base_is_refused_by_name(
    ledger: Ledger, storage: Storage, make_manifest: MakeManifest
) -> None:
    other = make_manifest(base={"name": "llama", "fingerprint": "b" * 64})
    with pytest.raises(BaseError) as caught:
        create_or_open(storage, other)
    for part in ("tiny", "f" * 12, "llama", "b" * 12, "another --store"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("stored", "meant", "fact"),
    [
        ({}, {"layer": 5}, "layer is 4, not 5"),
        ({}, {"rank": 8}, "rank is None, not 8"),
    ],
)
def test_another_method_is_refused_by_setting(
    storage: Storage,
    make_manifest: MakeManifest,
    stored: dict[str, object],
    meant: dict[str, object],
    fact: str,
) -> None:
    create_or_open(storage, make_manifest(method=stored))
    with pytest.raises(ConfigError, match=f"in this store {fact}. Keep its settings"):
        create_or_open(storage, make_manifest(method=meant))


def test_what_is_left_out_is_the_store_s_own(storage: Storage, make_manifest: MakeManifest) -> None:
    create_or_open(storage, make_manifest(method={"rank": 8}))
    bound = create_or_open(storage, make_manifest(method={})).manifest
    assert bound.method["rank"] == 8


def test_a_tuple_is_the_list_that_json_makes_of_it(
    ledger: Ledger, storage: Storage, make_manifest: MakeManifest
) -> None:
    same = make_manifest(method={"places": ({"layer": 0, "kind": "mean"},)})
    assert create_or_open(storage, same).version() == 0


def test_no_ledger_says_how_to_make_one(storage: Storage, make_manifest: MakeManifest) -> None:
    with pytest.raises(NotFoundError, match="scen edit") as caught:
        open_ledger(storage)
    assert storage.uri in str(caught.value)
    storage.put_json("store.json", asdict(make_manifest()))
    with pytest.raises(NotFoundError, match="there is no ledger"):
        open_ledger(storage)
    assert create_or_open(storage, make_manifest()).version() == 0
    assert open_ledger(storage).version() == 0


@pytest.mark.parametrize("text", [b"{oops", b"[1]", b'{"format": 1}', b"\xff", b""])
def test_a_damaged_manifest_is_named(storage: Storage, text: bytes) -> None:
    storage.put_new("store.json", text)
    with pytest.raises(IntegrityError, match=r"store\.json is damaged"):
        open_ledger(storage)


def test_a_manifest_of_another_format_is_refused(
    storage: Storage, make_manifest: MakeManifest
) -> None:
    storage.put_json("store.json", asdict(make_manifest()) | {"format": 1})
    with pytest.raises(IntegrityError, match=r"format 1 is none of \(2, 3\)"):
        read_manifest(storage)


@pytest.mark.parametrize("name", ["with space", "ünï ☃", "a+b=c&d", "file"])
def test_the_ledger_lies_beside_its_manifest(
    tmp_path: Path, make_manifest: MakeManifest, make_wave: MakeWave, name: str
) -> None:
    scheme = "file://" if name == "file" else ""
    storage = Storage(f"{scheme}{tmp_path / name}")
    create_or_open(storage, make_manifest()).commit(make_wave("a"), 0)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert sorted(p.name for p in (tmp_path / name).iterdir()) == ["ledger", "store.json"]
    assert [entry.version for entry in open_ledger(storage).log()] == [1]


@pytest.mark.parametrize("character", "%#?[]\\^|")
def test_a_folder_that_delta_cannot_read_is_refused(
    tmp_path: Path, make_manifest: MakeManifest, character: str
) -> None:
    storage = Storage(str(tmp_path / f"a{character}b"))
    with pytest.raises(ConfigError, match="rename the folder"):
        create_or_open(storage, make_manifest())
    assert storage.names("") == []
