"""Views and what leads from one to the next, for followers that keep no ledger."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from scen.errors import ConflictError
from scen.fs import Storage
from scen.ledger.actions import Revoke, Rollback
from scen.ledger.ledger import Ledger, WaveCommit
from scen.ledger.markers import publish, read_published, unpublish
from scen.ledger.state import Snapshot
from scen.ledger.view import apply_delta, delta_of, view_of

MakeWave = Callable[..., WaveCommit]


@pytest.fixture
def versions(ledger: Ledger, make_wave: MakeWave) -> list[Snapshot]:
    """Commits of two streams, a supersession, a revocation and a rollback."""
    ledger.commit(make_wave("a"), 0)
    ledger.commit(replace(make_wave("b", 1), stream="olds", supersedes={"a-0": "b-1"}), 1)
    ledger.settle(Revoke(["a-1"]))
    ledger.settle(Rollback(1))
    return [ledger.snapshot(version) for version in range(5)]


def test_a_view_is_its_snapshot(versions: list[Snapshot]) -> None:
    for snapshot in versions:
        view = view_of(snapshot)
        assert view.version == snapshot.version
        assert len(view) == len(snapshot.entries)
        order = list(snapshot.state.entries)
        assert view.rows() == [
            (e.edit_id, e.bundle, e.row, order.index(e.edit_id)) for e in snapshot.entries
        ]


@pytest.mark.parametrize("streams", [None, {"news"}, {"olds"}, {"none"}])
def test_deltas_lead_from_any_version_to_any_other(
    versions: list[Snapshot], streams: set[str] | None
) -> None:
    for before in versions:
        for after in versions:
            found = apply_delta(view_of(before, streams), delta_of(before, after, streams))
            assert found.rows() == view_of(after, streams).rows()
            assert found.version == after.version


def test_a_stream_sees_its_own(versions: list[Snapshot]) -> None:
    assert view_of(versions[2], {"olds"}).id_N.tolist() == ["b-0", "b-1"]
    assert view_of(versions[2], {"news"}).id_N.tolist() == ["a-1"]


def test_a_delta_follows_one_version(versions: list[Snapshot]) -> None:
    with pytest.raises(ConflictError, match="it follows version 1, not 0"):
        apply_delta(view_of(versions[0]), delta_of(versions[1], versions[2]))


def test_published_streams_are_known_until_they_are_taken_back(storage: Storage) -> None:
    assert read_published(storage) == frozenset()
    for _ in range(2):
        publish(storage, "news")
    publish(storage, "olds")
    unpublish(storage, "olds")
    unpublish(storage, "none")
    assert read_published(storage) == {"news"}
