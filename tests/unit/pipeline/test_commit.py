"""The commit of a wave while others commit too: tried again, given up, or refused."""

from dataclasses import replace
from typing import Any

import pytest

from scen.errors import ConflictError
from scen.ledger.ledger import Ledger, WaveCommit
from scen.ledger.state import Snapshot
from scen.pipeline import gate
from scen.pipeline.gate import COMMIT_TRIES, pauses
from scen.pipeline.local import LocalParts
from scen.pipeline.plan import Wave
from scen.pipeline.stream import settings
from scen.records import Edit


class CrowdedLedger(Ledger):
    """A ledger to which others commit just after a snapshot was read."""

    others: list[WaveCommit]
    late: WaveCommit | None = None
    """Committed when somebody has just been told that a wave is not."""

    def is_committed(self, wave_key: str) -> int | None:
        """As it was a moment ago."""
        found = super().is_committed(wave_key)
        if found is None and self.late is not None:
            Ledger.commit(self, self.late, self.version())
        return found

    def snapshot(self, version: int | None = None) -> Snapshot:
        """The snapshot, which the next of the others makes old."""
        found = super().snapshot(version)
        if version is None and self.others:
            Ledger.commit(self, self.others.pop(0), found.version)
        return found


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses as they are, but shorter."""
    monkeypatch.setattr(gate, "_MAX_PAUSE_S", 0.05)


def crowded(
    parts: LocalParts, others: list[list[Edit]], late: WaveCommit | None = None
) -> LocalParts:
    """The parts on a ledger to which others commit these edits, one wave per snapshot read."""
    ledger = CrowdedLedger(parts.store.storage, parts.store.ledger.manifest)
    ledger.late = late
    ledger.others = [
        WaveCommit(f"other-{index}", "other", index, "0" * 64, edits)
        for index, edits in enumerate(others)
    ]
    return replace(parts, store=replace(parts.store, ledger=ledger))


def edits_of_others(count: int) -> list[list[Edit]]:
    """Waves of one edit each."""
    return [[Edit(f"other-{i}", f"Who is number {i}?", "isle")] for i in range(count)]


def evaluated_wave(parts: LocalParts, edits: list[Edit]) -> tuple[Wave, dict[str, Any], Any]:
    """A wave that is ready to be committed."""
    wave = Wave("news", 0, tuple(edits), settings(parts.config, parts.store))
    trained = parts.train(wave)
    return wave, trained, parts.evaluate(wave, trained)


def test_a_commit_that_comes_second_is_tried_again(parts: LocalParts, facts: list[Edit]) -> None:
    ready = evaluated_wave(parts, facts[:2])
    version = crowded(parts, edits_of_others(COMMIT_TRIES - 1)).commit(*ready)
    assert version == COMMIT_TRIES
    snapshot = parts.store.ledger.snapshot()
    assert snapshot.ids == [*(f"other-{i}" for i in range(COMMIT_TRIES - 1)), "edit-0", "edit-1"]
    assert parts.store.ledger.log()[-1].metadata["reliability"] == "1.0"


def test_a_commit_gives_up_when_others_always_come_first(
    parts: LocalParts, facts: list[Edit]
) -> None:
    ready = evaluated_wave(parts, facts[:1])
    with pytest.raises(ConflictError, match=r"12 times another commit came first; the wave is kep"):
        crowded(parts, edits_of_others(COMMIT_TRIES)).commit(*ready)
    assert "edit-0" not in parts.store.ledger.snapshot().ids
    assert parts.commit(*ready) == COMMIT_TRIES + 1


def test_a_wave_that_another_driver_of_the_stream_has_just_committed_is_done(
    parts: LocalParts, facts: list[Edit]
) -> None:
    wave, trained, evaluated = evaluated_wave(parts, facts[:2])
    same = WaveCommit(wave.key, "news", 0, trained["bundle"], facts[:2])
    assert crowded(parts, [], same).commit(wave, trained, evaluated) == 1
    assert len(parts.store.ledger.log()) == 1


def test_writers_that_meet_wait_for_different_times() -> None:
    one, other = list(pauses()), list(pauses())
    assert len(one) == COMMIT_TRIES
    assert one[0] == other[0] == 0
    assert all(0 <= pause <= min(2, 0.05 * 2**i) for i, pause in enumerate(one[1:]))
    assert one[1:] != other[1:]


def test_a_wave_is_committed_once(parts: LocalParts, facts: list[Edit]) -> None:
    ready = evaluated_wave(parts, facts[:1])
    assert [parts.commit(*ready) for _ in range(3)] == [1, 1, 1]
    parts.store.ledger.commit(WaveCommit("w", "s", 0, "0" * 64, edits_of_others(1)[0]), 1)
    assert parts.commit(*ready) == 1
    assert len(parts.store.ledger.log()) == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": "theirs", "target": "isle"}, "edit theirs is committed with the same prompt"),
        ({"target": "isle"}, "this id is committed with other content"),
        ({}, "edit-1 is committed by another run"),
    ],
)
def test_an_edit_that_another_run_committed_meanwhile_stops_the_wave(
    parts: LocalParts, facts: list[Edit], change: dict[str, Any], reason: str
) -> None:
    """The edits are admitted anew, when the file is run again."""
    ready = evaluated_wave(parts, facts[:2])
    others = crowded(parts, [[replace(facts[1], **change)]])
    with pytest.raises(ConflictError, match=rf"{reason}.*; run the file again"):
        others.commit(*ready)
    assert parts.store.ledger.version() == 1
