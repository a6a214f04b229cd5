"""The follower keeps the engine on the version to be served, and notices new versions in time."""

import threading
import time
from datetime import UTC, datetime

import pytest

from scen.errors import NotFoundError
from scen.ledger.markers import leased_versions
from scen.snapshot.open import OpenStore
from scen_serve.engine.engine import Engine
from scen_serve.engine.request import ServingEngine
from scen_serve.engine.snapshots import SnapshotReader
from scen_serve.service import Follower, PollSchedule
from unit.serve.conftest import MakeEngine, commit_wave, serve_edits


@pytest.fixture
def follower(engine: Engine, reader: SnapshotReader, store: OpenStore) -> Follower:
    """Of an engine on which nothing is loaded."""
    engine.snapshot = None
    return Follower(engine, reader, store.storage)


def served(engine: ServingEngine) -> int | None:
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


def test_all_followers_do_what_one_was_told(
    follower: Follower, make_engine: MakeEngine, reader: SnapshotReader, store: OpenStore
) -> None:
    other = Follower(make_engine(), reader, store.storage)
    follower.activate(1, "root")
    assert other.look()
    assert (served(other._engine), other.held, other.policy.who) == (1, 1, "root")
    follower.activate(None)
    assert other.look()
    assert (served(other._engine), other.held) == (2, None)


def test_a_canary_takes_its_share_and_holds_the_others(
    follower: Follower, engine: Engine, store: OpenStore
) -> None:
    follower.activate(1)
    follower.try_candidate(2, 0.25)
    commit_wave(store, serve_edits(1, 32), 2)
    assert not follower.look()
    drawn = [follower.draw() for _ in range(2000)]
    assert 350 < sum(found is not None for found in drawn) < 650
    assert {found.version for found in drawn if found} == {2}
    assert served(engine) == 1
    follower.activate(2)  # promoted
    assert (served(engine), follower.draw()) == (2, None)
    follower.activate(None)
    assert served(engine) == 3


def test_a_pin_comes_before_the_policy(follower: Follower, engine: Engine) -> None:
    follower.pinned = 1
    follower.activate(2)
    assert (served(engine), follower.held) == (1, 1)
    follower.pinned = None
    assert follower.look()
    assert served(engine) == 2


def test_a_new_server_serves_something(
    follower: Follower, engine: Engine, store: OpenStore
) -> None:
    """A version that is missing, and a policy that is damaged, do not keep it from starting."""
    follower.pinned = 99
    assert follower.look()
    assert (served(engine), "99" in str(follower.error)) == (2, True)
    store.storage.put_new("serving/000000000.json", b"{")
    follower.pinned = None
    follower.look()
    assert (served(engine), "damaged" in str(follower.error)) == (2, True)


def test_a_version_asked_for_by_number_is_leased_for_a_while(
    follower: Follower, store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leased() -> set[int]:
        follower._lease_served()
        return leased_versions(store.storage, datetime.now(UTC))

    follower.look()
    follower.find(1)
    with pytest.raises(NotFoundError):
        follower.find(9)
    assert leased() == {1, 2}
    assert follower._find_kept(1) is not None
    later = time.monotonic() + 901
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert leased() == {2}
    assert follower._find_kept(1) is None
    follower.activate(1)  # the policy holds it, without a lease for requests
    assert leased() == {1}


LONG_S = 3600.0


class Board:
    """Tells the newest version to those who wait, as a registry does; nothing where `is_away`."""

    def __init__(self, version: int = 0) -> None:
        self.is_away = False
        self.asked = 0
        self._version = version
        self._changed = threading.Condition()

    def put(self, version: int) -> None:
        """There is another version."""
        with self._changed:
            self._version = version
            self._changed.notify_all()

    def wait(self, version: int, timeout_s: float) -> int | None:
        """As `Announcements.wait`."""
        with self._changed:
            self.asked += 1
            if not self.is_away:
                self._changed.wait_for(lambda: self._version > version, timeout_s)
            return None if self.is_away else self._version


def seconds_of_wait(schedule: PollSchedule, stop: threading.Event | None = None) -> float:
    began = time.monotonic()
    schedule.wait(stop or threading.Event())
    return time.monotonic() - began


def test_news_end_a_rest() -> None:
    board = Board(2)
    schedule = PollSchedule(LONG_S, board)
    assert seconds_of_wait(schedule) < 5  # version 2 is new to it
    assert schedule.follows == "registry"
    later = threading.Timer(0.2, board.put, [3])
    later.start()
    assert seconds_of_wait(schedule) < 5
    later.join()


def test_where_nothing_is_told_it_looks_each_so_often() -> None:
    board = Board()
    board.is_away = True
    schedule = PollSchedule(0.05, board)
    assert [0.04 < seconds_of_wait(schedule) < 5 for _ in range(5)] == [True] * 5
    assert (schedule.follows, board.asked) == ("ledger", 1)  # it is not asked again and again
    alone = PollSchedule(0.05)
    assert 0.04 < seconds_of_wait(alone) < 5
    assert alone.follows == "ledger"


def test_a_calm_rest_ends_too() -> None:
    board = Board(2)
    schedule = PollSchedule(0.05, board)
    schedule.wait(threading.Event())
    assert 1.5 < seconds_of_wait(schedule) < 10  # the policy must be looked at
    assert schedule.follows == "registry"


def test_a_rest_ends_when_all_does() -> None:
    stop = threading.Event()
    stop.set()
    schedule = PollSchedule(LONG_S, Board(2))
    schedule.wait(stop)
    assert seconds_of_wait(schedule, stop) < 5
    assert seconds_of_wait(PollSchedule(LONG_S), stop) < 1


def test_a_follower_serves_what_it_is_told_of(
    engine: Engine, reader: SnapshotReader, store: OpenStore
) -> None:
    engine.snapshot = None
    board, stop = Board(2), threading.Event()
    follower = Follower(engine, reader, store.storage, LONG_S, board)
    thread = threading.Thread(target=follower.run, args=(stop,))
    thread.start()
    board.put(commit_wave(store, serve_edits(1, 32), 2))
    until = time.monotonic() + 30
    while engine.snapshot is None or engine.snapshot.version != 3:
        assert time.monotonic() < until
        time.sleep(0.01)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
