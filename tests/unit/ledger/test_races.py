"""Many writers at once: one wins, the others are told, nothing is lost or doubled."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from scen.errors import ConflictError
from scen.fs import Storage
from scen.ledger.ledger import Ledger, WaveCommit, create_or_open, open_ledger
from scen.ledger.manifest import StoreManifest

MakeManifest = Callable[..., StoreManifest]
MakeWave = Callable[..., WaveCommit]

NUM_WRITERS = 16


def race(step: Callable[[int], str]) -> Counter[str]:
    """How often the step came to what, in threads that start together."""
    barrier = Barrier(NUM_WRITERS)

    def start(index: int) -> str:
        barrier.wait()
        return step(index)

    with ThreadPoolExecutor(NUM_WRITERS) as pool:
        return Counter(pool.map(start, range(NUM_WRITERS)))


def try_commit(ledger: Ledger, wave: WaveCommit, expected_version: int) -> str:
    """One try, as a word."""
    try:
        result = ledger.commit(wave, expected_version)
    except ConflictError:
        return "conflict"
    return "again" if result.already_committed else "won"


@pytest.mark.slow
def test_one_of_many_waves_wins_and_all_can_follow(
    storage: Storage, ledger: Ledger, make_wave: MakeWave
) -> None:
    def commit_once(index: int) -> str:
        return try_commit(open_ledger(storage), make_wave(f"w{index}", index), 0)

    def commit_in_the_end(index: int) -> str:
        while True:
            own = open_ledger(storage)
            word = try_commit(own, make_wave(f"w{index}", index), own.version())
            if word != "conflict":
                return word

    assert race(commit_once) == {"won": 1, "conflict": NUM_WRITERS - 1}
    assert ledger.version() == 1
    assert race(commit_in_the_end) == {"again": 1, "won": NUM_WRITERS - 1}
    assert ledger.version() == NUM_WRITERS
    assert sorted(entry.wave_key for entry in ledger.log()) == sorted(
        f"w{i}" for i in range(NUM_WRITERS)
    )
    assert Counter(ledger.snapshot().ids) == {
        f"w{i}-{j}": 1 for i in range(NUM_WRITERS) for j in range(2)
    }


def test_one_wave_from_many_writers_is_committed_once(
    storage: Storage, ledger: Ledger, make_wave: MakeWave
) -> None:
    found = race(lambda _: try_commit(open_ledger(storage), make_wave("w"), 0))
    assert found["won"] == 1
    assert found["again"] + found["conflict"] == NUM_WRITERS - 1
    assert (ledger.version(), ledger.snapshot().ids) == (1, ["w-0", "w-1"])


@pytest.mark.parametrize("attempt", range(4))
def test_a_store_that_many_make_is_one_empty_ledger(
    tmp_path: Path, make_manifest: MakeManifest, attempt: int
) -> None:
    uri = str(tmp_path / f"store{attempt}")
    found = race(lambda _: str(create_or_open(Storage(uri), make_manifest()).version()))
    assert found == {"0": NUM_WRITERS}
    assert open_ledger(Storage(uri)).version() == 0
