"""The engine is kept on the newest version that is whole."""

import pytest

from scen.errors import NotFoundError
from scen.snapshot.open import OpenStore
from scen_serve.engine import Engine
from scen_serve.follower import Follower
from scen_serve.served import SnapshotReader
from unit.serve.conftest import commit_wave, serve_edits


@pytest.fixture
def follower(engine: Engine, reader: SnapshotReader) -> Follower:
    """Of an engine on which nothing is loaded."""
    engine.snapshot = None
    return Follower(engine, reader)


def served(engine: Engine) -> int | None:
    return None if engine.snapshot is None else engine.snapshot.version


def test_it_follows(follower: Follower, engine: Engine, store: OpenStore) -> None:
    assert [follower.look(), follower.look()] == [True, False]
    assert served(engine) == 2
    before = engine.snapshot
    commit_wave(store, serve_edits(1, 32), 2)
    assert follower.look()
    assert served(engine) == 3
    assert before is not None
    assert before.version == 2  # for the requests that run on it
    assert follower.swaps == 2


def test_a_damaged_version_is_not_served(
    follower: Follower, engine: Engine, store: OpenStore
) -> None:
    follower.look()
    commit_wave(store, serve_edits(1, 32), 2)
    bundle = store.ledger.snapshot().entries[-1].bundle
    path = store.storage.local_path / f"bundles/{bundle}.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert not follower.look()
    assert served(engine) == 2
    assert follower.error is not None
    assert "damaged" in follower.error
    path.write_bytes(whole)
    assert follower.look()
    assert served(engine) == 3
    assert not follower.error


def test_a_version_that_was_activated_stays(
    follower: Follower, engine: Engine, store: OpenStore
) -> None:
    follower.activate(1)
    commit_wave(store, serve_edits(1, 32), 2)
    assert not follower.look()
    assert (served(engine), follower.held) == (1, 1)
    with pytest.raises(NotFoundError):
        follower.activate(9)
    assert (served(engine), follower.held) == (1, 1)
    follower.activate(None)
    assert (served(engine), follower.held) == (3, None)


def test_versions_that_are_asked_for_are_kept(follower: Follower, reader: SnapshotReader) -> None:
    follower.look()
    assert follower.find(1) is follower.find(1)
    assert follower.find(1).version == 1
    for version in range(5):
        follower.keep(type(follower.find(1))(10 + version, (), (), follower.find(1).neurons))
    with pytest.raises(NotFoundError):
        follower.find(10)  # long gone
