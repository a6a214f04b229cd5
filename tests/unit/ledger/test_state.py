"""Events, the states and snapshots that they come to, and differences between two."""

from datetime import UTC, datetime

import pytest

from scen.errors import ConfigError
from scen.ledger.actions import WaveCommit, wave_events
from scen.ledger.events import Dropped, Event, Expired, Restored, Revoked, Superseded
from scen.ledger.state import Diff, Gone, Snapshot, State, apply, diff_snapshots, fold
from scen.records import Edit


@pytest.fixture
def state() -> State:
    """Three active edits: a, b, c."""
    edits = [Edit(edit_id, f"q {edit_id}", "t") for edit_id in "abc"]
    wave = WaveCommit("w", "s", 0, "0" * 64, edits)
    return fold(State(), wave_events(wave, State(), 1, datetime(2026, 1, 1, tzinfo=UTC)))


def ids(state: State) -> list[str]:
    """The active ones."""
    return [entry.edit_id for entry in state.active]


@pytest.mark.parametrize(
    ("event", "gone"),
    [
        (Revoked("b", 2), Gone("revoked", 2)),
        (Expired("b", 3), Gone("expired", 3)),
        (Superseded("b", 4, "c"), Gone("superseded", 4, "c")),
    ],
)
def test_an_edit_leaves_and_comes_back(state: State, event: Event, gone: Gone) -> None:
    left = apply(state, event)
    assert (ids(left), left.gone) == (["a", "c"], {"b": gone})
    assert (ids(state), dict(state.gone)) == (["a", "b", "c"], {})
    assert list(left.entries) == ["a", "b", "c"]
    assert (
        left.describe("b")
        == str(gone)
        == f"{gone.status}{' by c' if gone.by else ''} " + (f"in version {gone.version}")
    )
    back = apply(left, Restored("b", 9))
    assert back == state
    assert (back.describe("b"), back.describe("x")) == ("active", "not in the ledger")


@pytest.mark.parametrize("kind", [Revoked, Expired])
def test_what_is_gone_cannot_leave_again(state: State, kind: type[Revoked] | type[Expired]) -> None:
    left = apply(state, Revoked("b", 2))
    with pytest.raises(ConfigError, match="'b' is revoked in version 2, so it cannot be"):
        apply(left, kind("b", 3))
    with pytest.raises(ConfigError, match="'b' is revoked in version 2"):
        apply(left, Superseded("b", 3, "c"))


@pytest.mark.parametrize("event", [Restored("b", 2), Dropped("b", 2)])
def test_what_is_active_is_neither_restored_nor_dropped(state: State, event: Event) -> None:
    with pytest.raises(ConfigError, match=f"'b' is active, so it cannot be {event.kind}"):
        apply(state, event)


@pytest.mark.parametrize(
    "event",
    [Revoked("x", 2), Expired("x", 2), Superseded("x", 2, "a"), Restored("x", 2), Dropped("x", 2)],
)
def test_what_was_never_committed_has_no_life(state: State, event: Event) -> None:
    with pytest.raises(ConfigError, match="'x' is not in the ledger"):
        apply(state, event)


@pytest.mark.parametrize("by", ["b", "x", "a"])
def test_only_another_active_edit_takes_a_place(state: State, by: str) -> None:
    left = apply(state, Revoked("a", 2))
    with pytest.raises(ConfigError, match=f"'b' cannot be superseded by '{by}'"):
        apply(left, Superseded("b", 3, by))


@pytest.mark.parametrize("event", [Restored("b", 4), Dropped("b", 4)])
def test_what_is_dropped_stays_gone(state: State, event: Event) -> None:
    dropped = fold(state, [Revoked("b", 2), Dropped("b", 3)])
    assert dropped.gone["b"] == Gone("revoked", 2, is_dropped=True)
    with pytest.raises(ConfigError, match="the expert of 'b' was deleted"):
        apply(dropped, event)


def test_an_id_is_committed_once(state: State) -> None:
    edit = Edit("b", "other", "t")
    wave = WaveCommit("v", "s", 0, "0" * 64, [edit])
    events = wave_events(wave, State(), 2, datetime(2026, 1, 1, tzinfo=UTC))
    for known in (state, apply(state, Revoked("b", 2))):
        with pytest.raises(ConfigError, match="'b' is in the ledger already"):
            fold(known, events)


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
