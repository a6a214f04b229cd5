"""Marker files: epochs, leases, pins, serving policy."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from scen.errors import ConfigError, ConflictError, IntegrityError
from scen.fs import Storage
from scen.ledger.actions import About, Revoke
from scen.ledger.ledger import CommitResult, Ledger, WaveCommit, open_ledger
from scen.ledger.markers import (
    LEASE,
    Lease,
    Policy,
    claim_epoch,
    leased_versions,
    newest_epoch,
    pin,
    read_pins,
    read_policy,
    unpin,
    write_policy,
)


def test_epochs_are_claimed_once(storage: Storage) -> None:
    assert newest_epoch(storage) == 0
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: claim_epoch(storage), range(12)))
    assert sorted(found) == list(range(1, 13))
    assert newest_epoch(storage) == 12


def test_a_zombie_is_refused_before_its_successor_has_written_anything(
    ledger: Ledger, storage: Storage, make_wave: Callable[..., WaveCommit]
) -> None:
    zombie = claim_epoch(storage)
    assert ledger.commit(replace(make_wave("a"), epoch=zombie), 0) == CommitResult(1, False)
    heir = claim_epoch(storage)
    files = storage.names("ledger")
    with pytest.raises(ConflictError, match=f"epoch {zombie} is over, a writer of epoch {heir}"):
        ledger.commit(replace(make_wave("b"), epoch=zombie), 1)
    with pytest.raises(ConflictError, match="this writer must end"):
        ledger.settle(Revoke(["a-0"], About(epoch=zombie)))
    assert storage.names("ledger") == files
    done = open_ledger(storage).commit(replace(make_wave("b"), epoch=heir), 1)
    assert (done, ledger.epoch()) == (CommitResult(2, False), heir)


NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def test_one_server_holds_one_version(storage: Storage) -> None:
    first, second = Lease(storage), Lease(storage)
    assert leased_versions(storage, NOW) == set()
    first.hold(3, NOW)
    second.hold(12, NOW)
    assert leased_versions(storage, NOW) == {3, 12}
    first.hold(4, NOW)
    assert leased_versions(storage, NOW) == {4, 12}
    second.end()
    assert leased_versions(storage, NOW) == {4}
    assert len(storage.names("leases")) == 1


def test_a_version_that_is_about_to_be_served_is_leased_besides(storage: Storage) -> None:
    lease = Lease(storage)
    lease.hold(3, NOW)
    assert (lease.take(4, NOW), lease.take(4, NOW)) == (True, False)
    assert leased_versions(storage, NOW) == {3, 4}
    lease.hold(3, NOW)  # 4 could not be read
    assert leased_versions(storage, NOW) == {3}
    lease.take(5, NOW)
    lease.hold(5, NOW)
    assert leased_versions(storage, NOW) == {5}
    lease.end()
    assert storage.names("leases") == []


def test_versions_that_requests_name_are_leased_besides(storage: Storage) -> None:
    lease = Lease(storage)
    lease.hold(3, NOW, others=[1, 2])
    assert leased_versions(storage, NOW) == {1, 2, 3}
    lease.hold(4, NOW + LEASE / 2, others=[2])
    assert leased_versions(storage, NOW + LEASE / 2) == {2, 4}
    assert leased_versions(storage, NOW + LEASE) == {2, 4}  # both were renewed
    lease.hold(4, NOW + LEASE / 2)
    assert leased_versions(storage, NOW + LEASE) == {4}


def test_it_is_renewed_long_before_it_is_over_and_not_at_each_call(storage: Storage) -> None:
    lease = Lease(storage)
    lease.hold(3, NOW)
    before = storage.names("leases")
    lease.hold(3, NOW + LEASE / 2 - timedelta(seconds=1))
    assert storage.names("leases") == before
    lease.hold(3, NOW + LEASE / 2)
    assert storage.names("leases") != before
    assert leased_versions(storage, NOW + LEASE) == {3}


def test_a_killed_server_keeps_nothing_for_long(storage: Storage) -> None:
    Lease(storage).hold(3, NOW)
    assert leased_versions(storage, NOW + LEASE - timedelta(seconds=1)) == {3}
    assert leased_versions(storage, NOW + LEASE) == set()
    Lease(storage).hold(4, NOW + LEASE)
    assert [name.split(".")[1] for name in storage.names("leases")] == ["4"]  # it tidied up


def test_a_lease_that_could_not_be_written_is_tried_again_later(storage: Storage) -> None:
    lease = Lease(storage)
    folder = storage.local_path / "leases"
    folder.write_text("in the way")
    with pytest.raises(Exception, match="leases"):
        lease.hold(3, NOW)
    folder.unlink()
    lease.hold(3, NOW + timedelta(minutes=1))
    assert storage.names("leases") == []
    lease.hold(3, NOW + LEASE / 2)
    assert leased_versions(storage, NOW + LEASE) == {3}
    lease.end()


def test_an_owner_has_one_pin(storage: Storage) -> None:
    assert read_pins(storage) == {}
    pin(storage, "server-1", 12)
    pin(storage, "server-10", 3)
    pin(storage, "server-1", 9)
    pin(storage, "server-1", 9)
    assert read_pins(storage) == {"server-1": 9, "server-10": 3}
    unpin(storage, "server-1")
    unpin(storage, "nobody")
    assert read_pins(storage) == {"server-10": 3}


def test_killed_between_two_pins_the_older_holds(storage: Storage) -> None:
    pin(storage, "a", 100)
    storage.put_new(f"pins/a/{2:020d}", b"")
    assert read_pins(storage) == {"a": 2}


@pytest.mark.parametrize("owner", ["", "a/b", "A", ".."])
def test_an_owner_has_a_name(storage: Storage, owner: str) -> None:
    with pytest.raises(ConfigError, match="owner"):
        pin(storage, owner, 1)
    assert storage.names("") == []


def test_the_last_policy_counts(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    assert read_policy(storage) == Policy()
    for policy in (Policy(7, who="ann"), Policy(0, 9, 0.5), Policy()):
        write_policy(storage, policy)
        assert read_policy(storage) == policy
    assert [policy.versions for policy in (Policy(0, 9, 0.5), Policy(7), Policy())] == [
        {0, 9},
        {7},
        set(),
    ]
    assert len(storage.names("serving")) == 3


def test_a_damaged_policy_is_named(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    write_policy(storage, Policy(7))
    (tmp_path / "serving/000000000.json").write_text('{"hold": 7}')
    with pytest.raises(IntegrityError, match=r"serving/000000000\.json is damaged"):
        read_policy(storage)
