"""The state machine of an edit: what may follow what, and that nothing given is changed."""

from datetime import UTC, datetime

import pytest

from scen.errors import ConfigError
from scen.records import Edit
from scen.registry.actions import WaveCommit, wave_events
from scen.registry.events import Dropped, Event, Expired, Restored, Revoked, Superseded
from scen.registry.state import Gone, State, apply, fold


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
