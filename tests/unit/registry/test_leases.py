"""A server keeps what it answers from, and nothing for long once it is gone."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from scen.fs import Storage
from scen.registry.leases import LEASE, Lease, leased_versions

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
