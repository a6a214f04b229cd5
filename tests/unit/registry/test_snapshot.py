"""Snapshots: the order of their edits, and what is different between two of them."""

from datetime import UTC, datetime

import pytest

from scen.records import Edit
from scen.registry.actions import WaveCommit, wave_events
from scen.registry.events import Event, Restored, Revoked, Superseded
from scen.registry.snapshot import Diff, Snapshot, diff_snapshots
from scen.registry.state import State, fold

AT = datetime(2026, 1, 1, tzinfo=UTC)


def commit(before: Snapshot, *ids: str, supersedes: dict[str, str] | None = None) -> Snapshot:
    """The snapshot after a wave of these edits."""
    edits = [Edit(edit_id, f"q {edit_id}", "t") for edit_id in ids]
    wave = WaveCommit(f"w{ids[0]}", "s", 0, "0" * 64, edits, supersedes=supersedes or {})
    return after(before, *wave_events(wave, before.state, before.version + 1, AT))


def after(before: Snapshot, *events: Event) -> Snapshot:
    """The next version, with these events in it."""
    return Snapshot(before.version + 1, fold(before.state, events))


def told(diff: Diff) -> tuple[list[str], list[str], list[tuple[str, str]]]:
    """The ids of a difference."""
    added, removed = ([e.edit_id for e in part] for part in (diff.added, diff.removed))
    return added, removed, list(diff.replaced)


@pytest.fixture
def versions() -> list[Snapshot]:
    """a and b; c takes the place of a, d that of c; b is revoked; then all is rolled back."""
    found = [Snapshot(0)]
    found.append(commit(found[-1], "a", "b"))
    found.append(commit(found[-1], "c", supersedes={"a": "c"}))
    found.append(commit(found[-1], "d", supersedes={"c": "d"}))
    found.append(after(found[-1], Revoked("b", 4)))
    found.append(after(found[-1], Revoked("d", 5), Restored("a", 5), Restored("b", 5)))
    return found


def test_a_new_ledger_is_empty() -> None:
    assert (Snapshot(0).entries, Snapshot(0).ids) == ((), [])
    assert Snapshot(0) == Snapshot(0, State())


def test_active_edits_are_in_the_order_of_their_commits(versions: list[Snapshot]) -> None:
    assert [s.ids for s in versions] == [[], ["a", "b"], ["b", "c"], ["b", "d"], ["d"], ["a", "b"]]
    assert versions[5].entries == versions[1].entries


def test_a_difference_forwards(versions: list[Snapshot]) -> None:
    assert told(diff_snapshots(versions[0], versions[1])) == (["a", "b"], [], [])
    assert told(diff_snapshots(versions[1], versions[2])) == (["c"], ["a"], [("a", "c")])
    assert told(diff_snapshots(versions[1], versions[4])) == (["d"], ["a", "b"], [("a", "d")])
    assert told(diff_snapshots(versions[4], versions[5])) == (["a", "b"], ["d"], [])
    assert told(diff_snapshots(versions[1], versions[5])) == ([], [], [])


def test_a_difference_backwards(versions: list[Snapshot]) -> None:
    assert told(diff_snapshots(versions[2], versions[1])) == (["a"], ["c"], [("c", "a")])
    assert told(diff_snapshots(versions[4], versions[1])) == (["a", "b"], ["d"], [("d", "a")])
    assert told(diff_snapshots(versions[3], versions[0])) == ([], ["b", "d"], [])


def test_an_edit_that_was_superseded_and_whose_heir_is_gone_is_only_removed(
    versions: list[Snapshot],
) -> None:
    gone = after(versions[2], Revoked("c", 3))
    assert told(diff_snapshots(versions[1], gone)) == ([], ["a"], [])
    assert Superseded("a", 2, "c").kind == "superseded"
