"""The ledger with many edits: how long it takes to open, read, follow and write it.

`python tests/bench/bench_ledger.py --edits 100000`: waves of 200 edits, then medians of each step.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.report import emit, timed
from scen.fs import Storage
from scen.records import Edit
from scen.registry.actions import About, Revoke, Rollback
from scen.registry.ledger import Ledger, WaveCommit, create_or_open, open_ledger
from scen.registry.manifest import StoreManifest

WAVE = 200
BASE = {"name": "none", "fingerprint": "f" * 64, "template": "raw", "dtype": "float32"}


def make_wave(index: int) -> WaveCommit:
    """A wave of edits of the usual size."""
    edits = [
        Edit(
            id=f"zsre-{index}-{i}",
            prompt=f"What is the place of birth of person number {index * WAVE + i}?",
            target=f"town {i}",
            subject=f"person number {index * WAVE + i}",
            near_misses=(f"What is the place of death of person number {index * WAVE + i}?",),
            source="bench",
        )
        for i in range(WAVE)
    ]
    return WaveCommit(f"bench-{index:05d}", "bench", index, f"{index:064x}", edits)


def seconds(repeats: int, work: Callable[[], object]) -> float:
    """Median wall time of some work."""
    return round(statistics.median(timed(work)[1] for _ in range(repeats)), 4)


def fill(storage: Storage, num_edits: int) -> tuple[Ledger, float]:
    """A ledger with so many edits, and how many seconds a wave took, in the median."""
    ledger = create_or_open(storage, StoreManifest.new(BASE, {}, {}))
    taken = []
    for index in range(num_edits // WAVE):
        began = time.perf_counter()
        ledger.commit(make_wave(index), index)
        taken.append(time.perf_counter() - began)
    return ledger, statistics.median(taken)


def bench(folder: Path, num_edits: int) -> None:
    """Fill a ledger and print the figures."""
    storage = Storage(str(folder / "store"))
    _, commit_s = fill(storage, num_edits)
    version = num_edits // WAVE
    opened = open_ledger(storage)
    snapshot_s = seconds(1, opened.snapshot)
    first_edit_s = seconds(1, lambda: opened.snapshot().entries[0].edit)
    follower = open_ledger(storage)
    follower.snapshot()
    commits = iter(range(version, version + 5))
    late_s = seconds(5, lambda: opened.commit(make_wave(n := next(commits)), n))
    follow_s = seconds(1, follower.snapshot)
    ids = iter(opened.snapshot().ids[::1000])
    emit(
        bench="ledger",
        edits=num_edits,
        commit_200_while_filling_s=round(commit_s, 4),
        cold_open_s=seconds(5, lambda: open_ledger(storage)),
        cold_snapshot_s=seconds(3, lambda: open_ledger(storage).snapshot()),
        snapshot_s=snapshot_s,
        first_edit_s=first_edit_s,
        warm_snapshot_s=seconds(5, opened.snapshot),
        commit_200_s=late_s,
        follow_5_commits_s=follow_s,
        events_of_last_version_s=seconds(5, lambda: opened.events(opened.version() - 1)),
        is_committed_s=seconds(5, lambda: opened.is_committed("bench-00000")),
        revoke_s=seconds(5, lambda: opened.settle(Revoke([next(ids)], About(why="bench")))),
        rollback_s=seconds(1, lambda: opened.settle(Rollback(version))),
        history_s=seconds(3, lambda: opened.history("zsre-0-0")),
        log_s=seconds(3, opened.log),
        ledger_bytes=sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()),
    )


def main() -> int:
    """Bench with as many edits as are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edits", type=int, default=20_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench(Path(folder), args.edits)
    return 0


if __name__ == "__main__":
    sys.exit(main())
