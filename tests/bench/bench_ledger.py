"""The ledger with many edits: how long it takes to open, read, follow and write it.

`PYTHONPATH=tests python tests/bench/bench_ledger.py --edits 100000`: waves of 200 edits, then
medians of each step, and ratios of what is done late or cold to the same early or warm.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.report import emit, new_parser, timed
from scen.cluster.registry import Registry
from scen.fs import Storage
from scen.ledger.actions import About, Revoke, Rollback
from scen.ledger.ledger import Ledger, WaveCommit, create_or_open, open_ledger
from scen.ledger.manifest import StoreManifest
from scen.ledger.verify import verify_ledger
from scen.ledger.view import delta_of, view_of
from scen.records import Edit

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


def start_registry(uri: str) -> Registry:
    """A registry that has answered once, as after a kill."""
    registry = Registry(uri)
    asyncio.run(registry.info())
    return registry


def fill(storage: Storage, num_edits: int) -> tuple[Ledger, float]:
    """A ledger with so many edits, and how many seconds one of its first waves took, median."""
    ledger = create_or_open(storage, StoreManifest.new(BASE, {}, {}))
    taken = []
    for index in range(num_edits // WAVE):
        began = time.perf_counter()
        ledger.commit(make_wave(index), index)
        taken.append(time.perf_counter() - began)
    return ledger, statistics.median(taken[:10])


def bench(folder: Path, num_edits: int) -> None:
    """Fill a ledger and print the figures."""
    storage = Storage(str(folder / "store"))
    _, early_s = fill(storage, num_edits)
    version = num_edits // WAVE
    opened = open_ledger(storage)
    snapshot_s = seconds(1, opened.snapshot)
    first_edit_s = seconds(1, lambda: opened.snapshot().entries[0].edit)
    follower = open_ledger(storage)
    follower.snapshot()
    commits = iter(range(version, version + 5))
    late_s = seconds(5, lambda: opened.commit(make_wave(n := next(commits)), n))
    follow_s = seconds(1, follower.snapshot)
    ids = iter(opened.snapshot().ids[:: num_edits // 8])
    cold_s = seconds(3, lambda: open_ledger(storage).snapshot())
    warm_s = seconds(5, opened.snapshot)
    newest, older = opened.snapshot(), opened.snapshot(version)
    emit(
        bench="ledger",
        edits=num_edits,
        first_commits_200_s=round(early_s, 4),
        late_to_early_commit=round(late_s / early_s, 2),
        cold_to_warm_snapshot=round(cold_s / warm_s, 2),
        registry_cold_start_s=seconds(3, lambda: start_registry(storage.uri)),
        view_s=seconds(3, lambda: view_of(newest)),
        delta_of_5_commits_s=seconds(3, lambda: delta_of(older, newest)),
        cold_open_s=seconds(5, lambda: open_ledger(storage)),
        cold_snapshot_s=cold_s,
        snapshot_s=snapshot_s,
        first_edit_s=first_edit_s,
        warm_snapshot_s=warm_s,
        commit_200_s=late_s,
        follow_5_commits_s=follow_s,
        events_of_last_version_s=seconds(5, lambda: opened.events(opened.version() - 1)),
        is_committed_s=seconds(5, lambda: opened.is_committed("bench-00000")),
        revoke_s=seconds(5, lambda: opened.settle(Revoke([next(ids)], About(why="bench")))),
        rollback_s=seconds(1, lambda: opened.settle(Rollback(version))),
        history_s=seconds(3, lambda: opened.history("zsre-0-0")),
        log_s=seconds(3, opened.log),
        verify_s=seconds(1, lambda: list(verify_ledger(storage))),
        ledger_bytes=sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()),
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = new_parser(__doc__)
    parser.add_argument("--edits", type=int, default=20_000, help="in waves of 200 (%(default)s)")
    return parser.parse_args()


def main() -> int:
    """Bench with as many edits as are asked for."""
    args = parse()
    with tempfile.TemporaryDirectory() as folder:
        bench(Path(folder), args.edits)
    return 0


if __name__ == "__main__":
    sys.exit(main())
