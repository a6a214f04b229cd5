"""`kill -9` of workers and drivers: every edit is committed once, and nothing is made twice."""

import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

import forked
from cluster import wave_driver
from cluster.ray_head import Head
from cluster.wave_case import EDITS, case_config, run_case
from scen.cluster.worker_group import WorkerGroup
from scen.fs import Storage
from scen.ledger.ledger import open_ledger

pytestmark = pytest.mark.cluster
PARTS = (len(EDITS) + 1) // 2
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
    config = case_config(tiny_folder, expert={"batch_size": 2, "steps": 60, "stop_loss": 0})
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
    assert 1 <= parts_then[0] < PARTS  # it died in the middle
    run_case(tmp_path / "alone", config)
    found = content(tmp_path / "killed")
    assert found["edits"] == content(tmp_path / "alone")["edits"]
    assert [row for _, row in found["experts"]] == list(range(len(EDITS)))
    assert len(found["commits"]) == 1


def drive(address: str | None, folder: Path, base: Path, moment: str | None = None) -> int:
    """The exit status of one life of a driver."""
    args = (address, str(folder), str(base), moment)
    return forked.live(folder.with_suffix(".log"), wave_driver.drive, *args, on_ray=True)


def test_a_driver_that_is_killed_at_every_step_is_simply_run_again(
    head: Head, tiny_folder: Path, tmp_path: Path
) -> None:
    assert drive(None, tmp_path / "alone", tiny_folder) == 0
    versions = []
    for moment in ENDS:
        status = drive(head.address, tmp_path / "killed", tiny_folder, moment)
        assert status == -signal.SIGKILL, (tmp_path / "killed.log").read_text()
        versions.append(open_ledger(Storage(str(tmp_path / "killed"))).version())
    assert versions == [0, 0, 0, 0, 0, 1, 1]
    before = content(tmp_path / "killed")
    assert drive(head.address, tmp_path / "killed", tiny_folder) == 0
    assert content(tmp_path / "killed") == before == content(tmp_path / "alone")
    assert [edit_id for edit_id, *_ in before["edits"]] == [edit.id for edit in EDITS]
