"""`kill -9` of workers and drivers: every edit is committed once, and nothing is made twice."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.ray_head import Head
from cluster.wave_case import EDITS, case_config, run_case
from scen.cluster.worker_group import WorkerGroup
from scen.fs import Storage
from scen.ledger.ledger import open_ledger

pytestmark = pytest.mark.cluster
SCRIPT = Path(__file__).with_name("wave_driver.py")
TESTS = Path(__file__).parents[1]
# Each life of the driver ends later than the one before it.
ENDS = ["planned", "mid-train", "trained", "mid-evaluate", "evaluated", "committed", "tracked"]


def content(folder: Path) -> dict[str, Any]:
    """All of a store that must not depend on who was killed when."""
    storage = Storage(str(folder))
    ledger = open_ledger(storage)
    entries = ledger.snapshot().entries
    return {
        "edits": [(e.edit_id, e.edit.digest, e.wave_key, e.version) for e in entries],
        "experts": [(e.bundle, e.row) for e in entries],
        "bundles": storage.names("bundles"),
        "commits": [(c.version, c.wave_key, c.num_edits, c.metadata) for c in ledger.log()],
    }


def parts_of(folder: Path) -> int:
    """Parts of the wave that are written down as trained."""
    return sum("/parts/" in name for name in Storage(str(folder)).names("waves"))


@pytest.mark.usefixtures("ray")
def test_a_killed_worker_is_replaced(head: Head, tiny_folder: Path, tmp_path: Path) -> None:
    config = case_config(tiny_folder, expert={"batch_size": 2, "steps": 100, "stop_loss": 0})
    victims: list[psutil.Process] = []
    parts_then: list[int] = []

    def kill_one(step: str, _done: int, _total: int) -> None:
        if step == "train" and not victims:
            victims.append(head.workers()[-1])
            victims[0].kill()
            parts_then.append(parts_of(tmp_path / "killed"))

    with WorkerGroup() as group:
        run_case(tmp_path / "killed", config, group, kill_one)
        assert not victims[0].is_running()
    assert 1 <= parts_then[0] < 11  # it died in the middle
    run_case(tmp_path / "alone", config)
    found = content(tmp_path / "killed")
    assert found["edits"] == content(tmp_path / "alone")["edits"]
    assert [row for _, row in found["experts"]] == list(range(21))
    assert len(found["commits"]) == 1


def start(address: str, folder: Path, base: Path, *moment: str) -> tuple[int, str]:
    """One life of a driver: its exit status, and what it said on stderr."""
    environment = os.environ | {"PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-P", str(SCRIPT), address, str(folder), str(base), *moment],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


def test_a_driver_that_is_killed_at_every_step_is_simply_run_again(
    head: Head, tiny_folder: Path, tmp_path: Path
) -> None:
    assert start("here", tmp_path / "alone", tiny_folder)[0] == 0
    versions = []
    for moment in ENDS:
        status, said = start(head.address, tmp_path / "killed", tiny_folder, moment)
        assert status == -signal.SIGKILL, said
        versions.append(open_ledger(Storage(str(tmp_path / "killed"))).version())
    assert versions == [0, 0, 0, 0, 0, 1, 1]
    before = content(tmp_path / "killed")
    assert start(head.address, tmp_path / "killed", tiny_folder)[0] == 0
    assert content(tmp_path / "killed") == before == content(tmp_path / "alone")
    assert [edit_id for edit_id, *_ in before["edits"]] == [edit.id for edit in EDITS]
