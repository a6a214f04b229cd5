"""Writing traces beside the work that they tell of: never in its way, no reason to fail."""

import logging
import queue
import threading
import time

from scen.errors import ScenError
from scen.tracking.trace_record import TraceRecord
from scen.tracking.trace_store import TraceStore

log = logging.getLogger(__name__)
_PAUSE_S = 30.0  # after MLflow could not be opened
_END_S = 5.0


class TraceWriter:
    """Hands traces to MLflow on a thread of its own. `limit` traces may wait; more are dropped.

    `written`, `dropped` (there was no room) and `failed` (MLflow did not take it) count traces.
    """

    def __init__(self, tracking_uri: str, experiment: str, limit: int = 256) -> None:
        self.written = 0
        self.dropped = 0
        self.failed = 0
        self._place = (tracking_uri, experiment)
        self._queue: queue.Queue[TraceRecord | None] = queue.Queue(limit)
        self._store: TraceStore | None = None
        self._closed_until = 0.0
        self._error: str | None = None
        self._thread = threading.Thread(target=self._run, name="scen-traces", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def offer(self, trace: TraceRecord) -> None:
        """Have a trace written some time; dropped where too many wait. Never waits, raises
        nothing."""
        try:
            self._queue.put_nowait(trace)
        except queue.Full:
            self.dropped += 1

    def stop(self) -> None:
        """Write what waits, for a few seconds."""
        try:
            self._queue.put(None, timeout=_END_S)
        except queue.Full:
            return
        if self._thread.is_alive():
            self._thread.join(_END_S)

    def _run(self) -> None:
        while (trace := self._queue.get()) is not None:
            try:
                self._opened().put(trace)
            except ScenError as err:
                self._fail(err)
            else:
                self.written += 1
                self._error = None

    def _opened(self) -> TraceStore:
        """The store. Raises ScenError where it cannot be opened, and for a while afterwards."""
        if self._store is None:
            if time.monotonic() < self._closed_until:
                raise ScenError(self._error or "")
            try:
                self._store = TraceStore(*self._place)
            except Exception as err:
                self._closed_until = time.monotonic() + _PAUSE_S
                raise ScenError(str(err)) from err
        return self._store

    def _fail(self, error: ScenError) -> None:
        """Count it; the log is told once of each trouble."""
        self.failed += 1
        if str(error) != self._error:
            self._error = str(error)
            log.warning("traces are not written: %s", error)
