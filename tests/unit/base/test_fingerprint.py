"""Which base it is: every byte of the weights counts, and large files are not read twice."""

import os
from pathlib import Path

import pytest

from scen.base.fingerprint import fingerprint_base
from scen.base.load import Base
from scen.errors import BaseError

LARGE = 1 << 26


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A folder with weights of 64 MiB, which take no room."""
    folder = tmp_path / "large"
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as stream:
        stream.truncate(LARGE)
    return folder


def notes(cache: Path) -> list[Path]:
    return list((cache / "digests").glob("*"))


def test_the_digest_of_a_large_file_is_kept_until_the_file_changes(
    large: Path, tiny: Base, cache: Path
) -> None:
    first = fingerprint_base(large, tiny.template)
    [note] = notes(cache)
    weights = large / "model.safetensors"
    stamp = weights.stat().st_mtime_ns
    with weights.open("r+b") as stream:
        stream.write(b"x")
    os.utime(weights, ns=(stamp, stamp))  # the change cannot be seen from outside
    assert fingerprint_base(large, tiny.template) == first
    os.utime(weights, ns=(stamp, stamp + 1))
    assert fingerprint_base(large, tiny.template) != first
    assert len(notes(cache)) == 2
    assert note in notes(cache)


def test_small_files_leave_nothing_in_the_cache(tiny: Base, cache: Path) -> None:
    fingerprint_base(tiny.folder, tiny.template)
    assert not cache.exists()


def test_it_needs_no_cache(large: Path, tiny: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fingerprint_base(large, tiny.template)
    monkeypatch.setenv("SCEN_CACHE", str(large / "model.safetensors" / "cache"))
    assert fingerprint_base(large, tiny.template) == first


def test_shards_count_in_their_order(tmp_path: Path, tiny: Base) -> None:
    found = []
    for shards in (b"ab", b"ba"):
        for number, content in enumerate(shards):
            (tmp_path / f"model-{number}.safetensors").write_bytes(bytes([content]))
        found.append(fingerprint_base(tmp_path, tiny.template))
    assert found[0] != found[1]


def test_older_weights_count_where_there_are_no_safetensors(tmp_path: Path, tiny: Base) -> None:
    with pytest.raises(BaseError, match=r"\.safetensors or \.bin"):
        fingerprint_base(tmp_path, tiny.template)
    (tmp_path / "pytorch_model.bin").write_bytes(b"a")
    first = fingerprint_base(tmp_path, tiny.template)
    (tmp_path / "pytorch_model.bin").write_bytes(b"b")
    assert fingerprint_base(tmp_path, tiny.template) != first
