"""Files of a store: create-if-absent, and errors that name the file."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from scen.errors import ConfigError, NotFoundError
from scen.fs import Storage


@pytest.fixture(params=["folder", "file://", "memory://"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """The same root on three backends."""
    uris = {
        "folder": str(tmp_path / "a store"),
        "file://": f"file://{tmp_path}/store",
        "memory://": "memory:///store",
    }
    return Storage(uris[request.param])


def test_a_file_is_created_once(storage: Storage) -> None:
    assert storage.put_new("waves/a/b.bin", b"first")
    assert not storage.put_new("waves/a/b.bin", b"second")
    assert storage.read("waves/a/b.bin") == b"first"


def test_of_many_writers_one_wins(storage: Storage) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: storage.put_new("marker", b"%d" % i), range(32)))
    assert won.count(True) == 1
    assert storage.read("marker") == b"%d" % won.index(True)


def test_json_comes_back(storage: Storage) -> None:
    value = {"b": [1, 2.5, None], "a": "Čačak 北京"}
    assert storage.put_json("x.json", value)
    assert not storage.put_json("x.json", {})
    assert storage.read_json("x.json") == value
    assert "Čačak 北京".encode() in storage.read("x.json")


def test_a_missing_file_is_not_found_by_its_full_name(storage: Storage) -> None:
    assert not storage.exists("none.json")
    for read in (storage.read, storage.read_json):
        with pytest.raises(NotFoundError, match=r"store/none\.json does not exist"):
            read("none.json")


def test_names_are_sorted_paths_under_a_folder(storage: Storage) -> None:
    for path in ("waves/b/1", "waves/a/2", "wavesx", "other", "waves/a b%20ü"):
        storage.put_new(path, b"")
    assert storage.names("waves") == ["waves/a b%20ü", "waves/a/2", "waves/b/1"]
    assert storage.names("nothing") == []
    assert len(storage.names("")) == 5
    assert storage.exists("wavesx")
    assert not storage.exists("waves")  # a folder is not a file


def test_a_folder_is_local_and_knows_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    relative = Storage("sub/../store")
    assert relative.is_local
    assert relative.local_path == tmp_path / "store"
    assert relative.child_uri("a/b") == f"{tmp_path}/store/a/b"
    assert Storage(f"file://{tmp_path}/store/").local_path == tmp_path / "store"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Storage("~/store").local_path == tmp_path / "store"


def test_a_bucket_is_not_local() -> None:
    bucket = Storage("s3://bucket/store/", {"region": "eu-west-1"})
    assert not bucket.is_local
    assert bucket.child_uri("ledger") == "s3://bucket/store/ledger"
    assert bucket.options == {"region": "eu-west-1"}
    with pytest.raises(ConfigError, match="s3://bucket/store is not a folder"):
        _ = bucket.local_path


@pytest.mark.parametrize("uri", ["s3://", "memory://", "file:///", "foo://bar/x"])
def test_a_uri_that_names_no_place_is_refused_and_leaves_nothing(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="store"):
        Storage(uri)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="store"):
        Storage(str(tmp_path / "file"))


def test_files_are_listed_with_size_and_time_and_deleted(storage: Storage) -> None:
    began = datetime.now(UTC) - timedelta(minutes=1)
    storage.put_new("b/2", b"xy")
    storage.put_new("b/1", b"x")
    storage.put_new("bb", b"")
    found = storage.files("b")
    assert [(file.path, file.size) for file in found] == [("b/1", 1), ("b/2", 2)]
    assert all(began < file.written_at < began + timedelta(minutes=5) for file in found)
    storage.delete("b/1")
    storage.delete("b/1")
    assert storage.names("b") == ["b/2"]
    assert storage.put_new("b/1", b"again")
