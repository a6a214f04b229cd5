"""Several drivers on one store at once: every edit is committed, and once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from scen.config import WaveConfig
from scen.errors import ConflictError
from scen.ledger.ledger import WaveCommit, open_ledger
from scen.pipeline.gate import commit_wave
from scen.pipeline.local import LocalParts
from scen.pipeline.plan import Wave
from scen.pipeline.stream import run_stream, settings
from scen.records import Edit

pytestmark = pytest.mark.slow

MakeParts = Callable[..., LocalParts]
WRITERS = 8


def test_many_writers_that_begin_at_once_all_come_in(parts: LocalParts) -> None:
    """Each writer has a ledger object of its own, as a process has."""
    storage, start = parts.store.storage, Barrier(WRITERS)

    def write(number: int) -> list[int]:
        ledger = open_ledger(storage)

        def append(commit: WaveCommit, version: int) -> int:
            return ledger.commit(commit, version).version

        start.wait()
        found = []
        for index in range(2):
            edit = Edit(f"{number}-{index}", f"Who is number {number} of {index}?", "isle")
            wave = Wave(f"writer-{number}", index, (edit,), {})
            found.append(commit_wave(wave, "0" * 64, {}, ledger, WaveConfig(), append))
        return found

    with ThreadPoolExecutor(WRITERS) as pool:
        versions = [version for found in pool.map(write, range(WRITERS)) for version in found]
    assert sorted(versions) == list(range(1, 2 * WRITERS + 1))
    assert len(set(open_ledger(storage).snapshot().ids)) == 2 * WRITERS


def test_one_stream_under_two_settings_at_once_is_committed_once(
    make_parts: MakeParts, facts: list[Edit]
) -> None:
    """Both have trained the wave; the second is told, and finds all of it known when run again."""
    first, second = make_parts(), make_parts(expert={"steps": 5})
    ready = []
    for parts in (first, second):
        wave = Wave("news", 0, tuple(facts[:3]), settings(parts.config, parts.store))
        trained = parts.train(wave)
        ready.append((wave, trained, parts.evaluate(wave, trained)))
    assert ready[0][0].key != ready[1][0].key
    assert first.commit(*ready[0]) == 1
    with pytest.raises(ConflictError, match="committed by another run; run the file again"):
        second.commit(*ready[1])
    [step] = run_stream("news", [facts[:3]], second.store, second.config, second)
    assert [edit.id for edit in step.admission.known] == ["edit-0", "edit-1", "edit-2"]
    assert second.store.ledger.version() == 1


def test_the_same_stream_twice_at_once_is_one_stream(
    make_parts: MakeParts, facts: list[Edit]
) -> None:
    """Two drivers with the same words: whoever is first with a step, both go on from it."""
    drivers = [make_parts(), make_parts()]
    start = Barrier(2)

    def drive(parts: LocalParts) -> list[int | None]:
        start.wait()
        steps = run_stream("news", [facts], parts.store, parts.config, parts)
        return [step.report.version for step in steps if step.report is not None]

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(drive, drivers))
    assert [1, 2] in found
    log = open_ledger(drivers[0].store.storage).log()
    assert [entry.num_edits for entry in log] == [3, 3]
    assert open_ledger(drivers[0].store.storage).snapshot().ids == [edit.id for edit in facts]
