"""Keeping an engine on the newest version of its store, off the engine's thread."""

import logging
import threading
import time
from collections import OrderedDict

from scen_serve.engine import Engine
from scen_serve.served import ServedSnapshot, SnapshotReader

log = logging.getLogger(__name__)
_KEPT = 4  # versions that requests asked for by number, ready for the next such request


class Follower:
    """Looks at the ledger each `poll_s` seconds and swaps in a newer version once it is whole.

    A version that cannot be read leaves the one that is served in place; `error` says why. Going
    back, or staying, takes `activate`.
    """

    def __init__(self, engine: Engine, reader: SnapshotReader, poll_s: float = 0.5) -> None:
        self.error: str | None = None
        self.held: int | None = None  # the version that was activated by hand
        self.swaps = 0
        self.swap_seconds = 0.0
        self.failures = 0
        self._engine = engine
        self._reader = reader
        self._poll_s = poll_s
        self._kept: OrderedDict[int, ServedSnapshot] = OrderedDict()
        self._kept_lock = threading.Lock()
        self._lock = threading.Lock()  # of the reader

    def look(self) -> bool:
        """Swap in the newest version if there is a newer one; True where one was swapped in.

        Raises nothing: whatever is wrong with the store, the engine goes on with what it has.
        """
        try:
            with self._lock:
                current = self._engine.snapshot
                has_news = self.held is None and (
                    current is None or self._reader.newest() > current.version
                )
                if has_news:
                    self._swap(None)
            self.error = None
        except Exception as error:
            self.failures += 1
            if str(error) != self.error:
                log.warning("the newest version cannot be served: %s", error)
            self.error = str(error)
            return False
        return has_news

    def run(self, stop: threading.Event) -> None:
        """Look until told to stop."""
        while not stop.is_set():
            self.look()
            stop.wait(self._poll_s)

    def activate(self, version: int | None) -> ServedSnapshot:
        """Serve this version until told otherwise; None follows the ledger again. Raises
        NotFoundError or IntegrityError where it cannot be read; what is served stays then."""
        with self._lock:
            found = self._swap(version)
            self.held = version
            return found

    def find(self, version: int) -> ServedSnapshot:
        """A version that a request asks for. Raises as `activate` does."""
        current = self._engine.snapshot
        if current is not None and current.version == version:
            return current
        with self._kept_lock:
            kept = self._kept.get(version)
        if kept is None:
            with self._lock:
                kept = self._reader.read(version)
        self.keep(kept)
        return kept

    def keep(self, snapshot: ServedSnapshot) -> None:
        """Hold a version ready, for requests that ask for it by number."""
        with self._kept_lock:
            self._kept[snapshot.version] = snapshot
            self._kept.move_to_end(snapshot.version)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)

    def _swap(self, version: int | None) -> ServedSnapshot:
        began = time.perf_counter()
        found = self._reader.read(version)
        self._engine.snapshot = found
        self.swaps += 1
        self.swap_seconds += time.perf_counter() - began
        log.info("serving version %d with %d edits", found.version, len(found.places))
        return found
