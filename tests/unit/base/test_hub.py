"""Hub ids, without a network: the hub's own cache, and the errors."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMMIT = "0" * 40


def fetch(home: Path, name: str) -> str:
    """What a process without network access makes of a hub id."""
    code = f"from scen.base.hub import fetch_hub; print(fetch_hub({name!r}))"
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
