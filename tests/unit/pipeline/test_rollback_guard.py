"""`scen eval --else-rollback`: back to a version, or wave by wave, never to what was revoked."""

from pathlib import Path

import pytest

from scen.cli.options import read_target
from scen.errors import ConfigError, ConflictError, ScenError
from scen.fs import Storage
from scen.ledger.actions import Revoke, Rollback
from scen.ledger.ledger import Ledger, WaveCommit, create_or_open
from scen.ledger.manifest import StoreManifest
from scen.pipeline.change import guard, previous_version
from scen.records import Edit

BASE = {"name": "tiny", "fingerprint": "f" * 64, "template": "plain", "dtype": "float32"}
BAD = ["reliability 0.5 is below waves.min_reliability 0.9"]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Versions 1 to 3: a, then b, then c, which takes the place of a."""
    found = create_or_open(Storage(str(tmp_path)), StoreManifest.new(BASE, {}, {}))
    for index, (name, older) in enumerate([("a", {}), ("b", {}), ("c", {"a": "c"})]):
        edit = Edit(name, f"Who is {index}?", "t")
        found.commit(WaveCommit(name, "s", index, "0" * 64, [edit], supersedes=older), index)
    return found


def previous(ledger: Ledger, reasons: list[str] = BAD) -> str:
    """What the guard says of the newest version."""
    with pytest.raises(ScenError) as caught:
        guard(ledger, reasons, ledger.snapshot(), "previous")
    return str(caught.value)


def test_previous_goes_back_wave_by_wave(ledger: Ledger) -> None:
    guard(ledger, [], ledger.snapshot(), "previous")
    assert ledger.version() == 3
    told = previous(ledger)
    assert told == f"version 3: {BAD[0]}; rolled back to 2 as version 4"
    assert ledger.snapshot().ids == ["a", "b"]
    assert ledger.log()[-1].why == f"version 3: {BAD[0]}"
    assert "rolled back to 1 as version 5" in previous(ledger)
    assert ledger.snapshot().ids == ["a"]
    assert "rolled back to 0 as version 6" in previous(ledger)
    assert "not rolled back: no edit is active" in previous(ledger)
    assert ledger.version() == 6


def test_previous_goes_on_from_a_rollback_by_hand(ledger: Ledger) -> None:
    ledger.settle(Rollback(1))
    ledger.settle(Rollback(2))
    assert previous_version(ledger, ledger.snapshot()) == 1


def test_what_was_revoked_since_is_not_brought_back(ledger: Ledger) -> None:
    ledger.settle(Revoke(["b"]))
    told = previous(ledger)
    assert "not rolled back: version 2 would bring back ['b'], revoked or expired since" in told
    assert ledger.version() == 4


def test_a_version_by_number_is_taken_as_it_is(ledger: Ledger) -> None:
    ledger.settle(Revoke(["b"]))
    for how in ("rolled back to 2", "already as at 2"):
        with pytest.raises(ScenError, match=f"{how} as version 5"):
            guard(ledger, BAD, ledger.snapshot(), 2)
    assert ledger.snapshot().ids == ["a", "b"]


def test_nothing_is_done_to_what_was_not_measured(ledger: Ledger) -> None:
    measured = ledger.snapshot()
    ledger.settle(Revoke(["c"]))
    with pytest.raises(ConflictError):
        guard(ledger, BAD, measured, 1)
    assert ledger.version() == 4


def test_the_word_is_a_version_or_previous() -> None:
    assert [read_target(word) for word in ("previous", "7")] == ["previous", 7]
    with pytest.raises(ValueError, match="'last' is neither a version nor previous"):
        read_target("last")


def test_previous_version_of_an_empty_ledger(tmp_path: Path) -> None:
    empty = create_or_open(Storage(str(tmp_path)), StoreManifest.new(BASE, {}, {}))
    with pytest.raises(ConfigError, match="no edit is active"):
        previous_version(empty, empty.snapshot())
