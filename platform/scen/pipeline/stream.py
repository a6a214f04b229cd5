"""Run a stream of edits as consecutive waves; rerunning a killed stream resumes it.

A thread reads ahead while the current wave is trained.
"""

import queue
import re
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from scen.config import Config
from scen.errors import ConfigError, InputError
from scen.fs import Storage
from scen.ledger.state import Snapshot
from scen.pipeline.admit import Admission, admit
from scen.pipeline.near import NearFinder, require_keys, set_aside
from scen.pipeline.plan import Journal, Wave, cut_waves
from scen.pipeline.run_wave import WaveParts, WaveReport, run_wave
from scen.records import Edit
from scen.snapshot.open import OpenStore

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class StreamStep:
    """The outcome of one wave of edits. `report` is None if none of them was new."""

    admission: Admission
    report: WaveReport | None


def run_stream(
    stream: str,
    batches: Iterable[list[Edit]],
    store: OpenStore,
    config: Config,
    parts: WaveParts,
    starting: Callable[[Wave], None] = lambda _: None,
) -> Iterator[StreamStep]:
    """Cut, admit and run the waves of a stream.

    The cut depends on the edits alone, so that a rerun has the same waves. See `run_waves`.
    """
    size, max_bytes = config.waves.size, config.waves.max_bytes
    waves = cut_waves(check_name(stream), batches, size, settings(config, store), max_bytes)
    yield from run_waves(waves, store, config, parts, starting)


def run_waves(
    waves: Iterable[Wave],
    store: OpenStore,
    config: Config,
    parts: WaveParts,
    starting: Callable[[Wave], None] = lambda _: None,
) -> Iterator[StreamStep]:
    """Admit and run waves, one after the other.

    Committed waves are skipped, and edits that are committed with identical content are not trained
    again. A wave that an earlier run committed but did not track has a step of its own. Raises
    InputError before a wave with contradictions if `waves.on_conflict` is refuse, ConfigError for
    `waves.on_collision` quarantine in a store without keys.
    """
    if config.waves.on_collision == "quarantine":
        require_keys(store)
    queue = deque[Wave]()
    for wave in with_later(waves, queue):
        if store.ledger.is_committed(wave.key) is not None:
            nothing = Admission((), wave.edits, ())
            yield StreamStep(nothing, run_wave(wave, parts, store.storage))
            continue
        snapshot = store.ledger.snapshot()
        admission = admit(wave.edits, snapshot, config.waves.on_conflict)
        if config.waves.on_conflict == "refuse":
            _require_agreement(wave, admission)
        if config.waves.on_collision == "quarantine":
            finder = NearFinder(store, parts.read_keys)
            admission = set_aside(admission, finder.find(admission, snapshot))
        for late in _untracked(wave, admission.known, snapshot, store.storage):
            yield StreamStep(Admission((), (), ()), run_wave(late, parts, store.storage))
        if admission.later:
            queue.append(Wave(wave.stream, wave.index, admission.later, wave.settings))
        if not admission.fresh:
            yield StreamStep(admission, None)
            continue
        fresh = Wave(wave.stream, wave.index, admission.fresh, wave.settings)
        starting(fresh)
        yield StreamStep(admission, run_wave(fresh, parts, store.storage))


def with_later(waves: Iterable[Wave], queue: deque[Wave]) -> Iterator[Wave]:
    """The waves, each followed by those that were queued meanwhile."""
    for wave in waves:
        yield wave
        while queue:
            yield queue.popleft()


def _untracked(
    wave: Wave, known: Iterable[Edit], snapshot: Snapshot, storage: Storage
) -> Iterator[Wave]:
    """The committed but untracked waves of known edits, reconstructed as they were run."""
    ids = {edit.id for edit in known}
    committed = snapshot.state.entries.values()
    for key in dict.fromkeys(e.wave_key for e in committed if e.edit_id in ids):
        if not Journal(storage, key).has("tracked"):
            entries = [entry for entry in committed if entry.wave_key == key]
            edits = tuple(entry.edit for entry in entries)
            late = Wave(entries[0].stream, entries[0].wave, edits, wave.settings)
            if late.key == key:  # else it was run under other settings
                yield late


def _require_agreement(wave: Wave, admission: Admission) -> None:
    """Raises InputError for edits that contradict others."""
    contradictions = admission.contradictions
    if contradictions:
        first = contradictions[0]
        raise InputError(
            f"wave {wave.index} of {wave.stream}: {len(contradictions)} of {len(wave.edits)} edits "
            f"contradict others, and --on-conflict refuse takes none of the wave; the first is "
            f"{first.edit.id}: {first.field}: {first.reason}"
        )


def check_name(stream: str) -> str:
    """The name, if it is valid for a stream. Raises ConfigError."""
    if not _NAME.fullmatch(stream):
        raise ConfigError(
            f"--stream: {stream!r} must be lower-case letters, digits and ._- (64 at most), "
            "such as zsre-2026"
        )
    return stream


def name_stream(uri: str) -> str:
    """The stream name for a file."""
    stem = re.sub(r"\..*$", "", uri.rstrip("/").rsplit("/", 1)[-1]).lower()
    cleaned = re.sub(r"[^a-z0-9._-]+", "-", stem).strip("-._")
    return cleaned[:64] or "stream"


def settings(config: Config, store: OpenStore) -> dict[str, Any]:
    """The settings that determine the experts of a wave; part of its key."""
    kind = store.method.kind
    names = {"steps", "lr", "stop_loss"} | ({"other_ways"} if kind.is_low_rank else set())
    expert = store.method.fill(config.expert).model_dump(include=names)
    neurons = config.router.model_dump(include={"neuron_steps", "neuron_lr", "neuron_optimizer"})
    trained = {} if kind.has_router else {"neurons": neurons}
    method = store.method.to_dict()
    return {"base": store.base.fingerprint, "method": method, "expert": expert} | trained


T = TypeVar("T")
_POLL_S = 0.2  # between checks whether the iterator was closed


def prefetch(items: Iterable[T], depth: int) -> Generator[T]:
    """The same items in the same order, produced by a thread up to `depth` (at least 1) ahead.
    Exceptions of `items` are raised here, after the items before them. The thread ends with the
    iterator."""
    buffer = _Buffer(items, depth)
    thread = threading.Thread(target=buffer.fill, daemon=True, name="prefetch")
    thread.start()
    try:
        yield from buffer.take()
    finally:
        buffer.is_closed.set()
        thread.join()


class _Buffer(Generic[T]):
    """Items from the producer thread, each wrapped in a list; an empty list marks the end, an
    exception a failure."""

    def __init__(self, items: Iterable[T], depth: int) -> None:
        self.is_closed = threading.Event()
        self._items = items
        self._ready: queue.Queue[list[T] | BaseException] = queue.Queue(depth)

    def fill(self) -> None:
        """Produce all items, until the consumer closes the buffer."""
        try:
            for item in self._items:
                self._put([item])
                if self.is_closed.is_set():
                    return
            self._put([])
        except BaseException as err:  # raised in the consumer
            self._put(err)

    def take(self) -> Generator[T]:
        """The items as they arrive."""
        while True:
            message = self._ready.get()
            if isinstance(message, BaseException):
                raise message
            if not message:
                return
            yield message[0]

    def _put(self, message: list[T] | BaseException) -> None:
        while not self.is_closed.is_set():
            try:
                self._ready.put(message, timeout=_POLL_S)
            except queue.Full:
                continue
            return
