"""The registry of a store: one process in front of its ledger, for many writers and followers.

A plain class with async methods that runs as a named Ray actor. All its state is in the ledger, so
it may be killed at any time; each new process claims an epoch, which fences off the writes of
earlier ones. `RegistryClient` looks it up by name and limits the duration of every call.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from scen import __version__
from scen.cluster.session import NAMESPACE, registry_name
from scen.config import OnConflict
from scen.errors import ConflictError, ScenError
from scen.fs import Storage
from scen.ledger.actions import Action, WaveCommit
from scen.ledger.ledger import CommitResult, Ledger, open_ledger
from scen.ledger.markers import claim_epoch, read_published
from scen.ledger.state import Snapshot, State
from scen.ledger.view import Delta, Streams, View, delta_of, view_of
from scen.pipeline.admit import Admission, admit
from scen.records import Edit
from scen.text import normalise

log = logging.getLogger(__name__)
API = 1  # increased by changes that callers of an older registry cannot handle
_POLL_S = 0.5  # between two checks for commits of other writers
_UPGRADE = "RegistryClient.replace() replaces it by one with the caller's code; no data is lost"


class Registry:
    """Commits, snapshots and new versions of one store. Methods raise as those of `Ledger` do.

    The store is opened by the first call, and by the next one if that fails: an exception in the
    constructor would end the Ray actor permanently.
    """

    def __init__(self, uri: str, options: dict[str, str] | None = None) -> None:
        self._uri, self._options = uri, options
        self._ledger: Ledger | None = None
        self._epoch = 0
        self._open_lock, self._write_lock = asyncio.Lock(), asyncio.Lock()
        self._new_version = asyncio.Event()  # set, and replaced, when there is a new version
        self._newest = Snapshot(0)
        self._counts = {"commits": 0, "conflicts": 0}
        self._poller: asyncio.Task[None] | None = None
        self._started_at = datetime.now(UTC)

    async def info(self) -> dict[str, Any]:
        """This registry: its store, epoch, version, process and code, and how to upgrade it."""
        snapshot = await self._fresh()
        return {
            "store": self._uri,
            "epoch": self._epoch,
            "version": snapshot.version,
            "active": len(snapshot.entries),
            "pid": os.getpid(),
            "code": __version__,
            "api": API,
            "began": self._started_at.isoformat(timespec="seconds"),
            "upgrade": _UPGRADE,
        }

    async def metrics(self) -> dict[str, int]:
        """Metrics for monitoring; `..._since_start` counts since this process started."""
        snapshot = await self._fresh()
        since = {f"{name}_since_start": count for name, count in self._counts.items()}
        metrics = {"version": snapshot.version, "epoch": self._epoch}
        return metrics | {"active": len(snapshot.entries)} | since

    async def propose(
        self, edits: Sequence[Edit], on_conflict: OnConflict = "quarantine", stream: str = ""
    ) -> Admission:
        """The admission of edits, without writing anything; with `stream`, against the edits
        visible to it."""
        snapshot, streams = await self._fresh(), await self._streams(stream)
        return await asyncio.to_thread(admit, edits, _restrict(snapshot, streams), on_conflict)

    async def commit(self, wave: WaveCommit, expected_version: int) -> CommitResult:
        """Append a wave on top of `expected_version`; idempotent."""
        ledger = await self._open()
        epoch = self._epoch
        return await self._write(
            lambda: ledger.commit(replace(wave, epoch=epoch), expected_version)
        )

    async def act(self, action: Action, expected_version: int | None = None) -> CommitResult:
        """Revoke, expire, roll back or drop, on `expected_version` (None: the newest)."""
        ledger = await self._open()
        mine = replace(action, about=replace(action.about, epoch=self._epoch))
        if expected_version is None:
            return await self._write(lambda: ledger.settle(mine))
        return await self._write(lambda: ledger.act(mine, expected_version))

    async def snapshot(self, version: int | None = None, stream: str = "") -> View:
        """The active edits of a version (None: the newest); with `stream`, those visible to it."""
        snapshot, streams = await self._at(version), await self._streams(stream)
        return await asyncio.to_thread(view_of, snapshot, streams)

    async def delta(self, since: int, stream: str = "") -> Delta:
        """The change from a version to the newest."""
        after = await self._fresh()
        before, streams = await self._at(since), await self._streams(stream)
        return await asyncio.to_thread(delta_of, before, after, streams)

    async def find(self, edit_id: str) -> Edit:
        """An active edit of the newest version."""
        ledger = await self._open()
        return await asyncio.to_thread(lambda: ledger.find(edit_id).edit)

    async def lookup(self, prompt: str, stream: str = "") -> list[str]:
        """The ids of the active edits with this prompt, from memory."""
        snapshot, streams = await self._fresh(), await self._streams(stream)
        entries = snapshot.state.active_about([normalise(prompt)])
        return [e.edit_id for e in entries if streams is None or e.stream in streams]

    async def wait(self, version: int, timeout_s: float) -> int:
        """Wait for a version above `version`, at most `timeout_s`; returns the newest version."""
        end = asyncio.get_running_loop().time() + timeout_s
        newest = (await self._fresh()).version
        while newest <= version and (left := end - asyncio.get_running_loop().time()) > 0:
            if self._poller is None or self._poller.done():
                self._poller = asyncio.create_task(self._poll_ledger())
            try:
                await asyncio.wait_for(self._new_version.wait(), left)
            except TimeoutError:
                break
            newest = self._newest.version
        return self._newest.version

    def _report_metrics(self, numbers: Mapping[str, int]) -> None:
        """Called with new metrics; does nothing here."""

    async def _poll_ledger(self) -> None:
        """Poll the ledger until there is a new version."""
        new_version = self._new_version
        while not new_version.is_set():
            await asyncio.sleep(_POLL_S)
            try:
                await self._fresh()
            except (ScenError, OSError) as err:  # storage may be unavailable for a while
                log.warning("registry: the ledger cannot be read now (%s)", err)

    async def _write(self, work: Callable[[], CommitResult]) -> CommitResult:
        """Run one write at a time; reads are not blocked."""
        async with self._write_lock:
            try:
                done = await asyncio.to_thread(work)
                self._counts["commits"] += not done.already_committed
            except ConflictError:
                self._counts["conflicts"] += 1
                raise
            finally:
                self._report_metrics(self._counts)
        await self._fresh()
        return done

    async def _fresh(self) -> Snapshot:
        """The newest snapshot; wakes waiting calls if it is new."""
        snapshot = await self._at(None)
        if snapshot.version > self._newest.version:
            self._newest = snapshot
            self._report_metrics({"version": snapshot.version, "epoch": self._epoch})
            self._new_version.set()
            self._new_version = asyncio.Event()
        return self._newest

    async def _at(self, version: int | None) -> Snapshot:
        ledger = await self._open()
        return await asyncio.to_thread(ledger.snapshot, version)

    async def _streams(self, stream: str) -> Streams:
        if not stream:
            return None
        storage = Storage(self._uri, self._options)
        return {stream, *await asyncio.to_thread(read_published, storage)}

    async def _open(self) -> Ledger:
        async with self._open_lock:
            if self._ledger is None:
                storage = Storage(self._uri, self._options)
                ledger = await asyncio.to_thread(open_ledger, storage)
                self._epoch = await asyncio.to_thread(claim_epoch, storage)
                self._ledger = ledger
            return self._ledger


def _restrict(snapshot: Snapshot, streams: Streams) -> Snapshot:
    """The part of a snapshot that is visible to some streams."""
    if streams is None:
        return snapshot
    state = snapshot.state
    mine = {name: e for name, e in state.entries.items() if e.stream in streams}
    gone = {name: left for name, left in state.gone.items() if name in mine}
    return Snapshot(snapshot.version, State(mine, gone))


_MAX_ATTEMPTS = 8
_PAUSE_S = 0.2  # before the second attempt; doubled for each further one
_PING_S = 5.0


class MeteredRegistry(Registry):
    """A registry whose metrics Ray exports to Prometheus as ray_scen_registry_<name>."""

    def _report_metrics(self, numbers: Mapping[str, int]) -> None:
        from ray.util.metrics import Gauge

        for name, value in numbers.items():
            gauge = Gauge(f"scen_registry_{name}", tag_keys=("store",))
            gauge.set(value, tags={"store": self._uri})


class RegistryClient:
    """The registry of one store. `timeout_s` limits each attempt of a call."""

    def __init__(
        self, uri: str, options: dict[str, str] | None = None, timeout_s: float = 60.0
    ) -> None:
        self._uri, self._options, self._timeout_s = uri, options, timeout_s
        self._actor: Any = None

    def call(self, method: str, *args: Any, timeout_s: float | None = None) -> Any:
        """The result of a method of `Registry`. Raises what it raises, or ScenError if the registry
        does not answer after several attempts. `timeout_s` is added to the client's."""
        limit = self._timeout_s + (timeout_s or 0.0)
        return self._try(lambda actor: getattr(actor, method).remote(*args), limit)

    def wait(self, version: int, timeout_s: float) -> int:
        """Wait for a version above `version`, at most `timeout_s`; returns the newest version."""
        return int(self.call("wait", version, timeout_s, timeout_s=timeout_s))

    def replace(self) -> dict[str, Any]:
        """Replace the running registry by one with this code; returns its `info()`. All data is in
        the ledger, and late writes of the old process are refused."""
        import ray

        self._look_up()
        ray.kill(self._actor, no_restart=True)
        self._actor = None
        info: dict[str, Any] = self.call("info")
        return info

    def _try(self, start: Callable[[Any], Any], limit_s: float) -> Any:
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

        cause: Exception | None = None
        for attempt in range(_MAX_ATTEMPTS):
            if attempt:
                time.sleep(_PAUSE_S * 2 ** (attempt - 1))
            try:
                if self._actor is None:
                    self._look_up()
                return ray.get(start(self._actor), timeout=limit_s)
            except GetTimeoutError as err:
                cause = err
                self._restart_if_hung()
            except RayTaskError as err:
                raise err.cause if isinstance(err.cause, ScenError) else err from None
            except (RayActorError, ValueError) as err:
                cause, self._actor = err, None
        raise ScenError(f"registry: no answer ({cause}); is the cluster up?") from cause

    def _look_up(self) -> None:
        """Look the registry up by its name, or start it."""
        import ray

        options: dict[str, Any] = {
            "name": registry_name(self._uri),
            "namespace": NAMESPACE,
            "lifetime": "detached",
            "get_if_exists": True,
            "max_restarts": -1,
            "max_task_retries": -1,
            "num_cpus": 0,
        }
        actor: Any = ray.remote(MeteredRegistry)
        self._actor = actor.options(**options).remote(self._uri, self._options)

    def _restart_if_hung(self) -> None:
        """Kill a process that does not answer `info`; Ray restarts it."""
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError

        try:
            ray.get(self._actor.info.remote(), timeout=_PING_S)
        except GetTimeoutError:
            ray.kill(self._actor, no_restart=False)
        except RayActorError:
            self._actor = None
