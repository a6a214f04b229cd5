"""A served store: its engine, and the follower that keeps the engine on the right version."""

import contextlib
import importlib
import logging
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal, Protocol

from scen.fs import Storage
from scen.ledger.markers import Lease, Policy, read_policy, write_policy
from scen.snapshot.open import OpenStore
from scen_serve.engine.caches import ExpertCache, HostExpertCache, empty_bank
from scen_serve.engine.engine import Engine
from scen_serve.engine.request import ServingEngine
from scen_serve.engine.snapshots import ServedSnapshot, SnapshotReader
from scen_serve.settings import EngineLimits, VllmSettings
from scen_serve.telemetry import log_event

log = logging.getLogger(__name__)
_KEPT = 4  # versions requested by number that stay loaded
_ASKED_S = (
    900.0  # for which they stay loaded and leased after a request; longer than an answer takes
)
_STUCK_S = 60.0  # a step that takes longer is considered hung
_STOP_S = 15.0  # vLLM ends its processes in this time
_MIN_POLL_S = 2.0  # minimum polling interval while a registry announces versions
_RETRY_S = 30.0  # before an unreachable registry is tried again


class Announcements(Protocol):
    """A source that announces new versions, such as a registry."""

    def wait(self, version: int, timeout_s: float) -> int | None:
        """Wait until the newest version exceeds `version`, at most `timeout_s`, and return it; None
        if it cannot be determined. Never raises."""
        ...


class PollSchedule:
    """When the follower checks the store.

    Every `poll_s` seconds if no registry announces versions, or it is gone or hangs; otherwise on
    each announcement, and every few seconds for what is not announced, such as a changed policy.
    """

    def __init__(self, poll_s: float, announcements: Announcements | None = None) -> None:
        self._poll_s = poll_s
        self._announcements = announcements
        self._newest = -1
        self._is_notified = False
        self._retry_at = 0.0

    @property
    def follows(self) -> Literal["registry", "ledger"]:
        """Where the follower learns of new versions."""
        return "registry" if self._is_notified else "ledger"

    def wait(self, stop: threading.Event) -> None:
        """Return when it is time to check again, or to stop."""
        until = time.monotonic() + max(self._poll_s, _MIN_POLL_S)
        while self._announcements is not None and time.monotonic() >= self._retry_at:
            newest = self._announcements.wait(self._newest, _MIN_POLL_S)
            self._is_notified = newest is not None
            if newest is None:
                self._retry_at = time.monotonic() + _RETRY_S
                break
            is_new, self._newest = newest > self._newest, newest
            if is_new or stop.is_set() or time.monotonic() >= until:
                return
        stop.wait(self._poll_s)


class Follower:
    """Checks the store every `poll_s` seconds, or on announcement, and swaps in another version
    once it is fully loaded.

    That is the version held by the policy, else the newest, never an older one. If a version cannot
    be read, the served one stays in place and `error` holds the reason. `pinned`, if set, takes
    precedence over the policy.
    """

    def __init__(
        self,
        engine: ServingEngine,
        reader: SnapshotReader,
        storage: Storage,
        poll_s: float = 0.5,
        announcements: Announcements | None = None,
    ) -> None:
        self.error: str | None = None
        self.policy = Policy()
        self.pinned: int | None = None
        self.candidate: ServedSnapshot | None = None
        self.swaps = 0
        self.swap_seconds = 0.0
        self.failures = 0
        self._engine = engine
        self._reader = reader
        self._storage = storage
        self.schedule = PollSchedule(poll_s, announcements)
        self._kept: OrderedDict[int, ServedSnapshot] = OrderedDict()
        self._kept_lock = threading.Lock()
        self._lock = threading.Lock()  # guards the reader
        self._lease = Lease(storage)
        self._asked: dict[int, float] = {}  # by version, when it was last requested by number
        self._lease_lock = threading.Lock()  # guards these two; taken after the others

    @property
    def held(self) -> int | None:
        """The version to be served instead of the newest, if any."""
        return self.policy.held if self.pinned is None else self.pinned

    def look(self) -> bool:
        """Apply the policy and the ledger; True if another version was swapped in.

        Never raises: on any error the engine continues with the version it has or, if it has none,
        with the newest that can be read.
        """
        try:
            with self._lock:
                self.policy = read_policy(self._storage)
                has_swapped = self._settle()
                self._settle_candidate()
            self.error = None
        except Exception as error:
            self.failures += 1
            if str(error) != self.error:
                log.warning("cannot load the version to be served: %s", error)
            self.error = str(error)
            return self._engine.snapshot is None and self._fall_back()
        return has_swapped

    def run(self, stop: threading.Event) -> None:
        """Check until `stop` is set, and lease the served version so that `scen gc` keeps it."""
        while not stop.is_set():
            self.look()
            self._lease_served()
            self.schedule.wait(stop)
        with contextlib.suppress(Exception):  # it expires within an hour anyway
            self._lease.end()

    def activate(self, version: int | None, who: str = "") -> None:
        """Make all replicas serve this version until another is activated; None: the newest. Ends a
        canary. Raises NotFoundError or IntegrityError if this replica cannot read it."""
        self._set(Policy(held=version, who=who))

    def try_candidate(self, version: int, share: float, who: str = "") -> None:
        """Route a share (0 to 1) of the requests to this version. Raises as `activate` does."""
        held = self._engine.snapshot.version if self._engine.snapshot else None
        self._set(Policy(held, version, share, who))

    def draw(self) -> ServedSnapshot | None:
        """The candidate, at random for its share of the requests; else None."""
        candidate, share = self.candidate, self.policy.share
        return candidate if candidate is not None and random.random() < share else None

    def find(self, version: int) -> ServedSnapshot:
        """The version with this number, loaded if necessary, and leased so that `scen gc` keeps its
        experts while the request runs. Raises as `activate` does."""
        snapshot = self._find_loaded(version)
        if snapshot is None:
            with self._lock:
                if version <= self._reader.newest():
                    self._lease_version(self._lease.take, version)  # before its files are read
                snapshot = self._reader.read(version)
        self.keep(snapshot)
        return snapshot

    def keep(self, snapshot: ServedSnapshot) -> None:
        """Keep a version loaded and leased, for requests that name it by number."""
        with self._lease_lock:
            self._asked[snapshot.version] = time.monotonic()
        self._lease_version(self._lease.take, snapshot.version)
        self._remember(snapshot)

    def _remember(self, snapshot: ServedSnapshot) -> None:
        with self._kept_lock:
            self._kept[snapshot.version] = snapshot
            self._kept.move_to_end(snapshot.version)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)

    def _find_loaded(self, version: int) -> ServedSnapshot | None:
        for known in (self._engine.snapshot, self.candidate, self._find_kept(version)):
            if known is not None and known.version == version:
                return known
        return None

    def _find_kept(self, version: int) -> ServedSnapshot | None:
        with self._kept_lock:
            return self._kept.get(version)

    def _set(self, policy: Policy) -> None:
        """Check that the versions of a policy can be read, publish it, and apply it."""
        for version in policy.versions:
            if self._find_loaded(version) is None:
                with self._lock:
                    self._remember(self._reader.read(version))
        with self._lock:
            write_policy(self._storage, policy)
        self.look()

    def _settle(self) -> bool:
        """Swap if another version is to be served; True if it did."""
        current, held = self._engine.snapshot, self.held
        target = self._reader.newest() if held is None else held
        if current is not None:
            is_older = held is None and target < current.version
            if is_older or target == current.version:
                return False
        self._swap(target)
        return True

    def _settle_candidate(self) -> None:
        target = self.policy.candidate
        if target is None:
            self.candidate = None
        elif self.candidate is None or self.candidate.version != target:
            self.candidate = self._find_kept(target) or self._reader.read(target)

    def _lease_served(self) -> None:
        """Renew the lease; on a read-only store only the policy and pins protect the version."""
        with self._lock:  # never between leasing another version and swapping it in
            served = self._engine.snapshot
            if served is not None:
                self._lease_version(self._hold, served.version)

    def _hold(self, version: int) -> None:
        """Lease this version and those requested lately; forget the others."""
        since = time.monotonic() - _ASKED_S
        self._asked = {asked: at for asked, at in self._asked.items() if at > since}
        with self._kept_lock:
            for kept in self._kept.keys() - self._asked.keys():
                del self._kept[kept]
        self._lease.hold(version, others=self._asked.keys() - {version})

    def _lease_version(self, act: Callable[[int], object], version: int) -> None:
        try:
            with self._lease_lock:
                act(version)
        except Exception as error:
            log.warning(
                "version %d cannot be leased, so `scen gc` may delete it: %s", version, error
            )

    def _fall_back(self) -> bool:
        """Serve the newest version, if it can be read; True if it is served."""
        try:
            with self._lock:
                self._swap(self._reader.newest())
        except Exception as error:
            log.warning("cannot load the newest version either: %s", error)
            return False
        return True

    def _swap(self, version: int) -> None:
        began = time.perf_counter()
        self._lease_version(self._lease.take, version)  # before its files are read
        snapshot = self._find_kept(version) or self._reader.read(version)
        self._engine.snapshot = snapshot
        self.swaps += 1
        seconds = time.perf_counter() - began
        self.swap_seconds += seconds
        edits = len(snapshot.places)
        fields = {"version": snapshot.version, "edits": edits, "seconds": round(seconds, 4)}
        log_event(log, "swap", fields)


def build_engine(
    store: OpenStore, host: HostExpertCache, limits: EngineLimits, vllm: VllmSettings | None
) -> ServingEngine:
    """The embedded engine of a store; with `vllm`, vLLM, for a base that may be open without its
    weights. Raises ConfigError if the installed vLLM is missing or not the supported version."""
    if vllm is None:
        base, method = store.base, store.method
        bank = empty_bank(base.model.config, method.rank, limits.expert_slots, base.device)
        return Engine(base, method.layer, ExpertCache(bank, host), limits)
    plugin = importlib.import_module("scen_vllm.engine")  # by name: it imports this package
    engine: ServingEngine = plugin.VllmEngine(
        store, host, limits, vllm.engine_args(limits), vllm.address
    )
    return engine


class Service:
    """A store's engine and follower. No snapshot is loaded until the follower's first check. The
    engine is the embedded one unless `vllm` is given."""

    def __init__(
        self,
        store: OpenStore,
        limits: EngineLimits,
        poll_s: float = 0.5,
        announcements: Announcements | None = None,
        vllm: VllmSettings | None = None,
    ) -> None:
        tensors = store.method.kind.expert_tensors
        self.store = store
        self.host = HostExpertCache(store.storage, tensors, limits.host_bytes)
        self.engine = build_engine(store, self.host, limits, vllm)
        reader = SnapshotReader(store, self.host)
        self.follower = Follower(self.engine, reader, store.storage, poll_s, announcements)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=target.run, args=(self._stop,), name=name, daemon=True)
            for target, name in ((self.engine, "scen-engine"), (self.follower, "scen-follower"))
        ]

    @property
    def is_healthy(self) -> bool:
        """True while both threads run and the engine makes progress."""
        is_alive = all(thread.is_alive() for thread in self._threads)
        return is_alive and time.monotonic() - self.engine.beat < _STUCK_S

    @property
    def is_ready(self) -> bool:
        """True if requests can be answered."""
        return self.is_healthy and self.engine.snapshot is not None

    def start(self) -> None:
        """Start both threads."""
        for thread in self._threads:
            thread.start()

    def stop(self, drain_s: float = 30.0) -> None:
        """Wait at most `drain_s` seconds for running answers, then stop both threads."""
        until = time.monotonic() + drain_s
        while self.is_healthy and not self._is_idle and time.monotonic() < until:
            time.sleep(0.02)
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(_STOP_S)
        self.host.close()

    @property
    def _is_idle(self) -> bool:
        return self.engine.num_waiting + self.engine.num_running == 0
