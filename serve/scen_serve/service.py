"""A store that is served: its engine, its follower, and their threads."""

import threading
import time

from scen.snapshot.open import OpenStore
from scen_serve.engine import Engine
from scen_serve.expert_cache import ExpertCache, ExpertShelf, empty_bank
from scen_serve.follower import Follower
from scen_serve.pace import News
from scen_serve.served import SnapshotReader
from scen_serve.settings import EngineLimits

_STUCK_S = 60.0  # a step that takes longer than this will not end


class Service:
    """Starts with no snapshot loaded; the follower's first look loads one."""

    def __init__(
        self,
        store: OpenStore,
        limits: EngineLimits,
        poll_s: float = 0.5,
        news: News | None = None,
    ) -> None:
        config, method = store.base.model.config, store.method
        self.store = store
        self.shelf = ExpertShelf(store.storage, method.kind.expert_tensors, limits.host_bytes)
        bank = empty_bank(config, method.rank, limits.expert_slots, store.base.device)
        self.engine = Engine(store.base, method.layer, ExpertCache(bank, self.shelf), limits)
        reader = SnapshotReader(store, self.shelf)
        self.follower = Follower(self.engine, reader, store.storage, poll_s, news)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=target.run, args=(self._stop,), name=name, daemon=True)
            for target, name in ((self.engine, "scen-engine"), (self.follower, "scen-follower"))
        ]

    @property
    def is_healthy(self) -> bool:
        """True where the engine's thread goes on."""
        is_alive = all(thread.is_alive() for thread in self._threads)
        return is_alive and time.monotonic() - self.engine.beat < _STUCK_S

    @property
    def is_ready(self) -> bool:
        """True where requests are answered."""
        return self.is_healthy and self.engine.snapshot is not None

    def start(self) -> None:
        """Start both threads."""
        for thread in self._threads:
            thread.start()

    def stop(self, drain_s: float = 30.0) -> None:
        """Let running answers end, for at most so long, then end both threads."""
        until = time.monotonic() + drain_s
        while self.is_healthy and not self._is_idle and time.monotonic() < until:
            time.sleep(0.02)
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(5)
        self.shelf.close()

    @property
    def _is_idle(self) -> bool:
        return self.engine.num_waiting + self.engine.num_running == 0
