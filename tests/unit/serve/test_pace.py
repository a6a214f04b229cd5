"""A follower is woken by news, and looks by itself where nobody tells any."""

import threading
import time

from scen.snapshot.open import OpenStore
from scen_serve.engine import Engine
from scen_serve.follower import Follower
from scen_serve.pace import Pace
from scen_serve.served import SnapshotReader
from unit.serve.conftest import commit_wave, serve_edits

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
        """As `News.wait`."""
        with self._changed:
            self.asked += 1
            if not self.is_away:
                self._changed.wait_for(lambda: self._version > version, timeout_s)
            return None if self.is_away else self._version


def seconds_of_rest(pace: Pace, stop: threading.Event | None = None) -> float:
    began = time.monotonic()
    pace.rest(stop or threading.Event())
    return time.monotonic() - began


def test_news_end_a_rest() -> None:
    board = Board(2)
    pace = Pace(LONG_S, board)
    assert seconds_of_rest(pace) < 5  # version 2 is news to it
    assert pace.follows == "registry"
    later = threading.Timer(0.2, board.put, [3])
    later.start()
    assert seconds_of_rest(pace) < 5
    later.join()


def test_where_nothing_is_told_it_looks_each_so_often() -> None:
    board = Board()
    board.is_away = True
    pace = Pace(0.05, board)
    assert [0.04 < seconds_of_rest(pace) < 5 for _ in range(5)] == [True] * 5
    assert (pace.follows, board.asked) == ("ledger", 1)  # it is not asked again and again
    alone = Pace(0.05)
    assert 0.04 < seconds_of_rest(alone) < 5
    assert alone.follows == "ledger"


def test_a_calm_rest_ends_too() -> None:
    board = Board(2)
    pace = Pace(0.05, board)
    pace.rest(threading.Event())
    assert 1.5 < seconds_of_rest(pace) < 10  # the policy must be looked at
    assert pace.follows == "registry"


def test_a_rest_ends_when_all_does() -> None:
    stop = threading.Event()
    stop.set()
    pace = Pace(LONG_S, Board(2))
    pace.rest(stop)
    assert seconds_of_rest(pace, stop) < 5
    assert seconds_of_rest(Pace(LONG_S), stop) < 1


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
