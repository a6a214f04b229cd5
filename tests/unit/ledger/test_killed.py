"""`kill -9` at any moment: what is committed stays, what is not can be committed again."""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from scen.fs import Storage
from scen.ledger.ledger import CommitResult, Ledger, WaveCommit, create_or_open, open_ledger
from scen.ledger.tensors import load_bundle, save_bundle
from scen.records import Edit

pytestmark = pytest.mark.slow

NUM_WAVES = 8

BUNDLE_ONLY = """
import sys, time, torch
from scen.fs import Storage
from scen.ledger.tensors import save_bundle
print(save_bundle(Storage(sys.argv[1]), {"key": torch.ones(2, 3)}), flush=True)
time.sleep(600)
"""

ALL_WAVES = """
import sys
from scen.fs import Storage
from scen.records import Edit
from scen.ledger.ledger import WaveCommit, open_ledger
ledger = open_ledger(Storage(sys.argv[1]))
for wave in range(int(sys.argv[2])):
    edits = [Edit(id=f"{wave}-{i}", prompt=f"q {wave} {i}", target="t") for i in range(50)]
    commit = WaveCommit(f"w{wave}", "s", wave, "0" * 64, edits)
    print(ledger.commit(commit, ledger.version()).version, flush=True)
"""


ALL_ACTIONS = """
import sys
from scen.fs import Storage
from scen.records import Edit
from scen.ledger.actions import About, Drop, Revoke, Rollback
from scen.ledger.ledger import WaveCommit, open_ledger
ledger = open_ledger(Storage(sys.argv[1]))
for turn in range(int(sys.argv[2])):
    edits = [Edit(f"{turn}-{i}", f"q {turn} {i}", "t") for i in range(4)]
    older = {f"{turn - 1}-3": f"{turn}-0"} if turn else {}
    commit = WaveCommit(f"w{turn}", "s", turn, "0" * 64, edits, supersedes=older)
    print(ledger.commit(commit, ledger.version()).version, flush=True)
    for name, action in [
        ("revoke", Revoke([f"{turn}-1", f"{turn}-2"], About(action_id=f"revoke{turn}"))),
        ("back", Rollback(5 * turn + 1, About(action_id=f"back{turn}"))),
        ("again", Revoke([f"{turn}-2"], About(action_id=f"again{turn}"))),
        ("drop", Drop([f"{turn}-2"], About(action_id=f"drop{turn}"))),
    ]:
        print(ledger.settle(action).version, flush=True)
"""


READ_AND_END = """
import sys
from scen.fs import Storage
from scen.ledger.ledger import open_ledger
print(len(open_ledger(Storage(sys.argv[1])).snapshot().entries), "deltalake.fs" in sys.modules)
"""


def run_until(code: str, arguments: list[str], num_lines: int) -> list[str]:
    """The first lines of a fresh interpreter that is then killed at once."""
    command = [sys.executable, "-P", "-c", code, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip() for _ in range(num_lines)]
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    return lines


def test_killed_between_bundle_and_ledger(storage: Storage, ledger: Ledger) -> None:
    [digest] = run_until(BUNDLE_ONLY, [storage.uri], 1)
    assert open_ledger(storage).version() == 0
    assert save_bundle(storage, {"key": torch.ones(2, 3)}) == digest
    assert storage.names("bundles") == [f"bundles/{digest}.safetensors"]
    commit = WaveCommit("w", "s", 0, digest, [Edit(id="a", prompt="q", target="t")])
    assert open_ledger(storage).commit(commit, 0) == CommitResult(1, False)
    [entry] = ledger.snapshot().entries
    assert torch.equal(load_bundle(storage, entry.bundle)["key"], torch.ones(2, 3))


def test_killed_again_and_again_amid_commits(storage: Storage, ledger: Ledger) -> None:
    for num_lines in (1, 3, 5):
        told = run_until(ALL_WAVES, [storage.uri, str(NUM_WAVES)], num_lines)
        assert told == [str(version + 1) for version in range(num_lines)]
        assert ledger.version() >= num_lines
    run_until(ALL_WAVES, [storage.uri, str(NUM_WAVES)], NUM_WAVES)
    assert ledger.version() == NUM_WAVES
    assert [entry.wave_key for entry in ledger.log()] == [f"w{i}" for i in range(NUM_WAVES)]
    ids = Counter(ledger.snapshot().ids)
    assert (len(ids), set(ids.values())) == (NUM_WAVES * 50, {1})


def test_killed_amid_actions_of_every_kind(
    storage: Storage, ledger: Ledger, tmp_path: Path
) -> None:
    for num_lines in (2, 4, 8, 11, 15):
        run_until(ALL_ACTIONS, [storage.uri, "3"], num_lines)
    smooth = create_or_open(Storage(str(tmp_path / "smooth")), ledger.manifest)
    run_until(ALL_ACTIONS, [str(tmp_path / "smooth"), "3"], 15)
    assert ledger.version() == smooth.version() == 15
    for version in range(16):
        mine, theirs = (each.snapshot(version) for each in (ledger, smooth))
        assert (mine.ids, dict(mine.state.gone)) == (theirs.ids, dict(theirs.state.gone))
    assert smooth.snapshot().ids == ["0-0", "0-1", "1-0", "1-1", "2-0", "2-1", "2-3"]


def test_a_process_that_reads_ends_well(storage: Storage, ledger: Ledger) -> None:
    """With deltalake.fs in use, one process in ten is aborted at its end, after its last line."""
    ledger.commit(WaveCommit("w", "s", 0, "0" * 64, [Edit(id="a", prompt="q", target="t")]), 0)
    command = [sys.executable, "-P", "-c", READ_AND_END, storage.uri]
    for _ in range(4):
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "1 False\n", "")


def test_a_commit_that_was_cut_off_leaves_no_edit(ledger: Ledger, storage: Storage) -> None:
    """A data file without its line in the log, as a kill inside a commit leaves it."""
    wave = WaveCommit("w", "s", 0, "0" * 64, [Edit(id="a", prompt="q", target="t")])
    ledger.commit(wave, 0)
    Path(storage.uri, "ledger", "_delta_log", f"{1:020d}.json").unlink()
    reopened = open_ledger(storage)
    assert (reopened.version(), reopened.snapshot().entries) == (0, ())
    assert reopened.is_committed("w") is None
    assert reopened.commit(wave, 0) == CommitResult(1, False)
    assert reopened.snapshot().ids == ["a"]
