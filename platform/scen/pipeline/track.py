"""Record committed waves in the tracker, with the CPU time and memory of their steps.

A tracker that is down delays nothing: untracked waves are queued as files and recorded later.
"""

import json
import logging
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import psutil
import torch

from scen.evaluation.metrics import EvalReport, flatten_report
from scen.fs import Storage
from scen.pipeline.plan import Journal, Wave
from scen.tracking.tracker import Tracker, WaveRecord


class TrackQueue:
    """The records of one stream that wait: `untracked/<stream>/<wave>-<key>.json`.

    Nothing is taken out: a wave whose journal says that it is tracked waits no longer.
    """

    def __init__(self, storage: Storage, stream: str) -> None:
        self._storage = storage
        self._folder = f"untracked/{stream}"

    def put(self, record: WaveRecord) -> None:
        """Keep a record, once."""
        name = f"{self._folder}/{record.wave:05d}-{record.wave_key}.json"
        self._storage.put_new(name, json.dumps(asdict(record), ensure_ascii=False).encode())

    def waiting(self) -> list[WaveRecord]:
        """The records that no tracker has taken, in the order of their waves."""
        found = []
        for name in self._storage.names(self._folder):
            key = name.rsplit("/", 1)[-1].removesuffix(".json").partition("-")[2]
            if not Journal(self._storage, key).has("tracked"):
                found.append(WaveRecord(**self._storage.read_json(name)))
        return found


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WaveDiary:
    """The waves of a store, as a tracker hears of them."""

    storage: Storage
    tracker: Tracker
    base_name: str

    def track(
        self, wave: Wave, journal: Journal, found: dict[str, Any], version: int
    ) -> dict[str, Any]:
        """Tell the tracker of this wave, then of those that still wait. A tracker that is down is
        a warning: the record waits on storage, and the next wave or run tells it."""
        if journal.has("tracked"):
            return journal.read("tracked")
        record, queue = self._record(wave, found, version), TrackQueue(self.storage, wave.stream)
        try:
            tracked = self._tell(record)
        except Exception as err:  # a committed wave must not fail for want of a diary
            queue.put(record)
            log.warning("wave %s is committed but not tracked yet (%s)", wave.key, err)
            return {"run_id": None}
        try:
            for late in queue.waiting():
                self._tell(late)
        except Exception as err:  # as above
            log.warning("earlier waves are not tracked yet (%s)", err)
        return tracked

    def _tell(self, record: WaveRecord) -> dict[str, Any]:
        journal = Journal(self.storage, record.wave_key)
        return journal.once("tracked", lambda: {"run_id": self.tracker.track_wave(record)})

    def _record(self, wave: Wave, found: dict[str, Any], version: int) -> WaveRecord:
        """`found` is what the wave's evaluation came to, and `losses`; earlier versions of this
        package left no threshold and nothing about time and memory in it."""
        report = EvalReport(**found["report"])
        return WaveRecord(
            stream=wave.stream,
            wave=wave.index,
            wave_key=wave.key,
            ledger_version=version,
            base_name=self.base_name,
            params=_flat(dict(wave.settings)),
            metrics=flatten_report(report)
            | _train_metrics(found, len(wave.edits))
            | {f"latency/{name}": value for name, value in found.get("latency", {}).items()}
            | {f"system/{name}": value for name, value in found.get("memory", {}).items()},
            loss_curves=found["losses"],
            per_edit=self._lines(found["per_edit_path"]),
            dataset_digest=wave.digest,
            num_edits=len(wave.edits),
            threshold=found.get("threshold"),
            system=self._lines(found["system_path"]) if "system_path" in found else [],
        )

    def _lines(self, path: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.storage.read(path).decode().splitlines()]


def _train_metrics(found: dict[str, Any], num_edits: int) -> dict[str, float]:
    return {
        "train/seconds": found["seconds"],
        "train/seconds_per_edit": found["seconds"] / num_edits,
        "train/edits_per_second": num_edits / found["seconds"],
        "train/bytes_per_edit": found["bytes_per_edit"],
    }


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    flat: dict[str, str | int | float | bool] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, int | float | bool) else str(value)
    return flat


_FIRST_INTERVAL_S = 0.5
_MOST_SAMPLES = 64  # twice the interval where there are more
_MEGABYTE = 1e6  # as MLflow counts


@dataclass(frozen=True, slots=True)
class _Sample:
    """At `at` (seconds since 1970): processor seconds so far, and memory now."""

    at: float
    cpu_seconds: float
    memory: dict[str, float]


class SystemWatch:
    """Looks at this process every now and then while a block runs; used as a context manager.

    Work that other processes do, such as the workers of a cluster, is not seen.
    """

    def __init__(self, interval_s: float = _FIRST_INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)
        self._samples: list[_Sample] = []
        self._clock = time.time() - time.perf_counter()  # a clock that nobody sets

    def __enter__(self) -> "SystemWatch":
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._look()

    def rows(self) -> list[dict[str, float]]:
        """A row per look but the first: `at`, `process_cpu_percentage` since the look before (100:
        one core) and the figures of `process_memory`. At most 64 or so, however long it took; where
        looks were joined, the larger memory stands."""
        return [_row(before, now) for before, now in pairwise(self._samples)]

    def _look_on(self) -> None:
        while not self._done.wait(self._interval_s):
            self._look()
            if len(self._samples) > _MOST_SAMPLES:
                self._samples = _joined(self._samples)
                self._interval_s *= 2

    def _look(self) -> None:
        at = self._clock + time.perf_counter()
        self._samples.append(_Sample(at, time.process_time(), process_memory()))


def process_memory() -> dict[str, float]:
    """What this process holds now, in megabytes: `process_memory_megabytes` (resident) and, where
    it uses CUDA, `gpu_memory_megabytes` (reserved by torch, on all its devices)."""
    found = {"process_memory_megabytes": psutil.Process().memory_info().rss / _MEGABYTE}
    if torch.cuda.is_initialized():
        devices = range(torch.cuda.device_count())
        held = sum(torch.cuda.memory_reserved(device) for device in devices)
        found["gpu_memory_megabytes"] = held / _MEGABYTE
    return found


def memory_peaks(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The largest of each figure of `process_memory` in these rows, as `..._peak_megabytes`."""
    found: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            if name.endswith("_memory_megabytes"):
                peak = name.replace("_megabytes", "_peak_megabytes")
                found[peak] = max(value, found.get(peak, 0.0))
    return found


def _row(before: _Sample, now: _Sample) -> dict[str, float]:
    share = (now.cpu_seconds - before.cpu_seconds) / (now.at - before.at)
    return {"at": now.at, "process_cpu_percentage": 100 * share} | now.memory


def _joined(samples: list[_Sample]) -> list[_Sample]:
    """The first, then every second one with the memory of the one before it where that is more."""
    rest = samples[1:]
    pairs = zip(rest[::2], rest[1::2], strict=False)
    joined = [_Sample(b.at, b.cpu_seconds, _larger(a.memory, b.memory)) for a, b in pairs]
    return [samples[0], *joined, *(rest[-1:] if len(rest) % 2 else [])]


def _larger(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    return {name: max(value, one.get(name, 0.0)) for name, value in other.items()}
