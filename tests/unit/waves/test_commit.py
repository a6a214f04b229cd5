"""The commit of a wave while others commit too: tried again, given up, or refused."""

from dataclasses import replace
from typing import Any

import pytest

from scen.errors import ConflictError
from scen.records import Edit
from scen.registry.ledger import Ledger, WaveCommit
from scen.registry.snapshot import Snapshot
from scen.waves.commit_wave import COMMIT_TRIES
from scen.waves.local import LocalParts
from scen.waves.plan import Wave
from scen.waves.run_stream import settings


class CrowdedLedger(Ledger):
    """A ledger to which others commit just after a snapshot was read."""

    others: list[WaveCommit]

    def snapshot(self, version: int | None = None) -> Snapshot:
        """The snapshot, which the next of the others makes old."""
        found = super().snapshot(version)
        if version is None and self.others:
            Ledger.commit(self, self.others.pop(0), found.version)
        return found


def crowded(parts: LocalParts, others: list[list[Edit]]) -> LocalParts:
    """The parts on a ledger to which others commit these edits, one wave per snapshot read."""
    ledger = CrowdedLedger(parts.store.storage, parts.store.ledger.manifest)
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
    with pytest.raises(ConflictError, match=r"5 other commits came first; run again"):
        crowded(parts, edits_of_others(COMMIT_TRIES)).commit(*ready)
    assert "edit-0" not in parts.store.ledger.snapshot().ids
    assert parts.commit(*ready) == COMMIT_TRIES + 1


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
