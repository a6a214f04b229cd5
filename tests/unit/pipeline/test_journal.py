"""A step is done once, whoever asks; what was cut off was not done."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scen.fs import Storage
from scen.pipeline.plan import Journal

KILLED = """
import os, signal, sys
from scen.fs import Storage
from scen.pipeline.plan import Journal
def work():
    print("working", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
journal = Journal(Storage(sys.argv[1]), "w")
journal.once("planned", lambda: {"index": 0})
journal.once("trained", work)
"""


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "store"))


class Work:
    """A step that counts how often it is done."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> dict[str, Any]:
        self.times += 1
        return {"times": self.times, "losses": [[0.25, 1e-7]], "why": "Großstadt"}


def test_a_step_is_done_once_by_whoever_asks(storage: Storage) -> None:
    work = Work()
    first = Journal(storage, "w").once("trained", work)
    again = Journal(Storage(storage.uri), "w").once("trained", work)
    assert first == again == {"times": 1, "losses": [[0.25, 1e-7]], "why": "Großstadt"}
    assert work.times == 1


def test_steps_and_waves_have_their_own_marks(storage: Storage) -> None:
    work, journal = Work(), Journal(storage, "w")
    journal.once("trained", work)
    assert (journal.has("trained"), journal.has("evaluated")) == (True, False)
    assert not Journal(storage, "w2").has("trained")
    assert journal.once("evaluated", work)["times"] == 2
    assert Journal(storage, "w2").once("trained", work)["times"] == 3


def test_a_step_that_fails_is_done_again(storage: Storage) -> None:
    journal, work = Journal(storage, "w"), Work()

    def fail() -> dict[str, Any]:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        journal.once("trained", fail)
    assert not journal.has("trained")
    assert journal.once("trained", work)["times"] == 1


def test_a_killed_step_leaves_no_mark(storage: Storage) -> None:
    command = [sys.executable, "-P", "-c", KILLED, storage.uri]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (-signal.SIGKILL, "working\n")
    journal, work = Journal(storage, "w"), Work()
    assert storage.names("waves") == ["waves/w/planned.json"]
    assert journal.once("planned", work) == {"index": 0}
    assert journal.once("trained", work)["times"] == 1


def test_of_two_at_once_the_first_result_is_everyone_s(storage: Storage) -> None:
    late = Journal(storage, "w")

    def overtaken() -> dict[str, Any]:
        Journal(storage, "w").once("trained", lambda: {"by": "the other"})
        return {"by": "this one"}

    assert late.once("trained", overtaken) == {"by": "the other"}
