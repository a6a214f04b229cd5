"""Revoke, expire, supersede and roll back on a real ledger: one commit each, told in the log."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from deltalake import DeltaTable

from scen.errors import ConfigError, ConflictError, NotFoundError
from scen.fs import Storage
from scen.ledger.actions import About, Action, Drop, Expire, Revoke, Rollback, os_user
from scen.ledger.events import Dropped, Revoked, Superseded
from scen.ledger.ledger import CommitResult, Ledger, WaveCommit, open_ledger
from scen.ledger.view import LogFilter
from scen.records import Edit

MakeWave = Callable[..., WaveCommit]
MONDAY = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture
def filled(ledger: Ledger, make_wave: MakeWave) -> Ledger:
    """Two waves of two edits: a-0, a-1, b-0, b-1."""
    ledger.commit(make_wave("a"), 0)
    ledger.commit(make_wave("b", 1), 1)
    return ledger


def test_a_revoke_takes_edits_away_and_says_who_and_why(filled: Ledger, storage: Storage) -> None:
    about = About(why="wrong name", who="ann")
    assert filled.act(Revoke(["a-1", "b-0"], about), 2) == CommitResult(3, False)
    assert filled.snapshot().ids == open_ledger(storage).snapshot().ids == ["a-0", "b-1"]
    assert filled.snapshot(2).ids == ["a-0", "a-1", "b-0", "b-1"]
    last = filled.log()[-1]
    assert (last.version, last.action, last.who, last.why) == (3, "revoke", "ann", "wrong name")
    assert (last.num_edits, last.counts, last.stream) == (2, {"revoked": 2}, "news")
    with pytest.raises(NotFoundError, match="'a-1' is not active in version 3: it was revoked in"):
        filled.find("a-1")
    assert filled.find("a-1", 2).row == 1


def test_who_is_the_user_of_the_system_where_nobody_is_named(filled: Ledger) -> None:
    filled.settle(Revoke(["a-0"]))
    assert {entry.who for entry in filled.log()} == {os_user()}
    assert os_user()


def test_a_wave_takes_the_place_of_older_edits_in_one_commit(
    filled: Ledger, storage: Storage, make_wave: MakeWave
) -> None:
    wave = replace(make_wave("c", 2), supersedes={"a-0": "c-1", "b-1": "c-1"}, why="new mayor")
    assert filled.commit(wave, 2) == CommitResult(3, False)
    assert filled.snapshot().ids == ["a-1", "b-0", "c-0", "c-1"]
    assert filled.events(2)[2:] == [Superseded("a-0", 3, "c-1"), Superseded("b-1", 3, "c-1")]
    last = open_ledger(storage).log()[-1]
    assert (last.num_edits, last.counts) == (2, {"committed": 2, "superseded": 2})
    assert (last.action, last.why, last.wave_key) == ("commit", "new mayor", "c")
    for wrong in ({"a-0": "b-0"}, {"a-1": "x"}):
        with pytest.raises(ConfigError, match="supersedes"):
            filled.commit(replace(make_wave("d"), supersedes=wrong), 3)
    with pytest.raises(ConfigError, match="'a-0' is superseded by c-1 in version 3"):
        filled.commit(replace(make_wave("d"), supersedes={"a-0": "d-0"}), 3)
    assert filled.version() == 3


def test_edits_expire_at_their_time(ledger: Ledger) -> None:
    until = [MONDAY, MONDAY.replace(tzinfo=None), MONDAY + timedelta(microseconds=1), None]
    edits = [Edit(f"e{i}", f"q{i}", "t", valid_until=moment) for i, moment in enumerate(until)]
    ledger.commit(WaveCommit("w", "s", 0, "0" * 64, edits), 0)
    before = MONDAY - timedelta(microseconds=1)
    assert ledger.act(Expire(before), 1) == CommitResult(1, True)
    assert ledger.act(Expire(MONDAY), 1) == CommitResult(2, False)
    assert ledger.snapshot().ids == ["e2", "e3"]
    assert ledger.act(Expire(MONDAY), 2) == CommitResult(2, True)
    assert ledger.log()[-1].counts == {"expired": 2}


def test_a_rollback_brings_back_a_version(filled: Ledger, make_wave: MakeWave) -> None:
    filled.commit(replace(make_wave("c", 2), supersedes={"a-0": "c-0"}), 2)
    filled.settle(Revoke(["b-1"]))
    before = {version: filled.snapshot(version) for version in range(5)}
    for version in (2, 0, 3, 1, 4):
        done = filled.settle(Rollback(version, About(why=f"back to {version}")))
        assert not done.already_committed
        assert filled.snapshot().entries == before[version].entries
        last = filled.log()[-1]
        assert (last.action, last.to, last.why) == ("rollback", version, f"back to {version}")
        assert filled.settle(Rollback(version)) == CommitResult(done.version, True)
    assert filled.log()[5].counts == {"revoked": 4}


def test_what_is_dropped_is_never_restored(filled: Ledger) -> None:
    filled.settle(Revoke(["a-0"]))
    with pytest.raises(ConfigError, match="'b-0' is active, so it cannot be dropped"):
        filled.settle(Drop(["a-0", "b-0"]))
    filled.settle(Drop(["a-0"]))
    assert filled.events(3) == [Dropped("a-0", 4)]
    with pytest.raises(ConfigError, match="the expert of 'a-0' was deleted"):
        filled.settle(Rollback(2))
    assert filled.version() == 4


@pytest.mark.parametrize(
    ("action", "error", "words"),
    [
        (Revoke(["a-0", "zzz"]), NotFoundError, "zzz"),
        (Rollback(3), NotFoundError, "3 is not one of 0 to 2"),
        (Rollback(-1), NotFoundError, "-1 is not one of 0 to 2"),
        (Revoke(["a-0"], About(action_id="no good")), ConfigError, "action_id"),
    ],
)
def test_what_cannot_be_done_writes_nothing(
    filled: Ledger, storage: Storage, action: Action, error: type[Exception], words: str
) -> None:
    files = storage.names("")
    with pytest.raises(error, match=words):
        filled.settle(action)
    assert storage.names("") == files


def test_an_action_is_done_once_however_often_it_is_tried(filled: Ledger) -> None:
    revoke = Revoke(["a-0"], About(action_id="click-1"))
    assert filled.act(revoke, 2) == CommitResult(3, False)
    filled.settle(Rollback(2))
    assert filled.act(revoke, 2) == filled.act(revoke, 4) == CommitResult(3, True)
    assert filled.snapshot().ids == ["a-0", "a-1", "b-0", "b-1"]


def test_a_stale_version_is_refused_and_settle_looks_again(filled: Ledger) -> None:
    with pytest.raises(ConflictError, match="expected version 1, found 2"):
        filled.act(Revoke(["a-0"]), 1)
    assert filled.settle(Revoke(["a-0"])) == CommitResult(3, False)


def test_a_writer_whose_epoch_is_over_is_refused(filled: Ledger, make_wave: MakeWave) -> None:
    assert filled.epoch() is None
    filled.commit(replace(make_wave("c"), epoch=4), 2)
    filled.act(Revoke(["a-0"], About(epoch=4)), 3)
    filled.act(Revoke(["a-1"], About(epoch=7)), 4)
    assert (filled.epoch(), filled.log()[-1].epoch) == (7, 7)
    with pytest.raises(ConflictError, match="epoch 6 is over, a writer of epoch 7"):
        filled.commit(replace(make_wave("d"), epoch=6), 5)
    with pytest.raises(ConflictError, match="epoch 6 is over"):
        filled.settle(Revoke(["b-0"], About(epoch=6)))
    assert filled.commit(make_wave("d"), 5) == CommitResult(6, False)  # no epoch, no fence
    assert filled.commit(replace(make_wave("c"), epoch=4), 6) == CommitResult(3, True)


def test_an_edit_has_its_history_whether_active_or_not(filled: Ledger) -> None:
    filled.settle(Revoke(["a-0"], About(why="wrong")))
    filled.settle(Rollback(2, About(why="right after all")))
    found = filled.history("a-0")
    assert [event.kind for event, _ in found] == ["committed", "revoked", "restored"]
    assert found[1][0] == Revoked("a-0", 3)
    assert [told.why for _, told in found] == ["", "wrong", "right after all"]
    with pytest.raises(NotFoundError, match=r"'a-00' is not in the ledger; did you mean a-0"):
        filled.history("a-00")
    with pytest.raises(NotFoundError):
        filled.history("' or '1' = '1")


def test_the_log_is_filtered(filled: Ledger) -> None:
    filled.settle(Revoke(["a-0"]))
    log = filled.log()
    for wanted, versions in [
        (LogFilter(), [1, 2, 3]),
        (LogFilter(stream="news"), [1, 2, 3]),
        (LogFilter(stream="olds"), []),
        (LogFilter(action="revoke"), [3]),
        (LogFilter(since=log[1].committed_at), [2, 3]),
        (LogFilter(versions=frozenset([1, 3]), action="commit"), [1]),
    ]:
        assert [entry.version for entry in wanted.keep(log)] == versions


def test_any_reader_of_delta_finds_what_a_commit_was(filled: Ledger, storage: Storage) -> None:
    filled.settle(Revoke(["a-0"], About(why="почему", who="ann")))
    newest = DeltaTable(storage.child_uri("ledger")).history(1)[0]
    told = json.loads(newest["scen"])
    assert (told["action"], told["who"], told["why"]) == ("revoke", "ann", "почему")
    assert newest["version"] == 3
