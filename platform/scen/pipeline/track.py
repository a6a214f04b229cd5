"""Record committed waves in the tracker, with the CPU time and memory of their steps.

An unavailable tracker does not block a run: untracked waves are queued as files and sent later.
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
from scen.tracking.client import Tracker, WaveRecord


class TrackQueue:
    """The queued records of one stream: `untracked/<stream>/<wave>-<key>.json`.

    Files are never deleted: a record is pending until the journal of its wave says tracked.
    """

    def __init__(self, storage: Storage, stream: str) -> None:
        self._storage = storage
        self._folder = f"untracked/{stream}"

    def put(self, record: WaveRecord) -> None:
        """Queue a record, once."""
        name = f"{self._folder}/{record.wave:05d}-{record.wave_key}.json"
        self._storage.put_new(name, json.dumps(asdict(record), ensure_ascii=False).encode())

    def waiting(self) -> list[WaveRecord]:
        """The records that are not tracked yet, in wave order."""
        records = []
        for name in self._storage.names(self._folder):
            key = name.rsplit("/", 1)[-1].removesuffix(".json").partition("-")[2]
            if not Journal(self._storage, key).has("tracked"):
                records.append(WaveRecord(**self._storage.read_json(name)))
        return records


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WaveTracking:
    """Sends the waves of a store to a tracker."""

    storage: Storage
    tracker: Tracker
    base_name: str

    def track(
        self, wave: Wave, journal: Journal, results: dict[str, Any], version: int
    ) -> dict[str, Any]:
        """Track this wave, then those that are queued. A tracker failure is logged as a warning:
        the record is queued in storage and sent by the next wave or run."""
        if journal.has("tracked"):
            return journal.read("tracked")
        record, queue = self._record(wave, results, version), TrackQueue(self.storage, wave.stream)
        try:
            tracked = self._send(record)
        except Exception as err:  # a tracker failure must not fail a committed wave
            queue.put(record)
            log.warning("wave %s is committed but not tracked yet (%s)", wave.key, err)
            return {"run_id": None}
        try:
            for late in queue.waiting():
                self._send(late)
        except Exception as err:  # as above
            log.warning("earlier waves are not tracked yet (%s)", err)
        return tracked

    def _send(self, record: WaveRecord) -> dict[str, Any]:
        journal = Journal(self.storage, record.wave_key)
        return journal.once("tracked", lambda: {"run_id": self.tracker.track_wave(record)})

    def _record(self, wave: Wave, results: dict[str, Any], version: int) -> WaveRecord:
        """The record of a wave from its evaluation results and `losses`. Results of earlier
        releases have no threshold, latency or memory."""
        report = EvalReport(**results["report"])
        return WaveRecord(
            stream=wave.stream,
            wave=wave.index,
            wave_key=wave.key,
            ledger_version=version,
            base_name=self.base_name,
            params=_flat(dict(wave.settings)),
            metrics=flatten_report(report)
            | _train_metrics(results, len(wave.edits))
            | {f"latency/{name}": value for name, value in results.get("latency", {}).items()}
            | {f"system/{name}": value for name, value in results.get("memory", {}).items()},
            loss_curves=results["losses"],
            per_edit=self._lines(results["per_edit_path"]),
            dataset_digest=wave.digest,
            num_edits=len(wave.edits),
            threshold=results.get("threshold"),
            system=self._lines(results["system_path"]) if "system_path" in results else [],
        )

    def _lines(self, path: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.storage.read(path).decode().splitlines()]


def _train_metrics(results: dict[str, Any], num_edits: int) -> dict[str, float]:
    return {
        "train/seconds": results["seconds"],
        "train/seconds_per_edit": results["seconds"] / num_edits,
        "train/edits_per_second": num_edits / results["seconds"],
        "train/bytes_per_edit": results["bytes_per_edit"],
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
_MAX_SAMPLES = 64  # above it, samples are merged and the interval doubled
_MEGABYTE = 1e6  # as MLflow counts


@dataclass(frozen=True, slots=True)
class _Sample:
    """CPU seconds so far and current memory at `at` (Unix time)."""

    at: float
    cpu_seconds: float
    memory: dict[str, float]


class SystemWatch:
    """Context manager that samples the CPU time and memory of this process.

    Other processes, such as cluster workers, are not included.
    """

    def __init__(self, interval_s: float = _FIRST_INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._samples: list[_Sample] = []
        self._clock = time.time() - time.perf_counter()  # monotonic, unlike the system clock

    def __enter__(self) -> "SystemWatch":
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._sample()

    def rows(self) -> list[dict[str, float]]:
        """A row per sample except the first: `at`, `process_cpu_percentage` since the previous one
        (100: one core) and the figures of `process_memory`. About 64 rows at most; merged samples
        keep the larger memory."""
        return [_row(before, now) for before, now in pairwise(self._samples)]

    def _run(self) -> None:
        while not self._done.wait(self._interval_s):
            self._sample()
            if len(self._samples) > _MAX_SAMPLES:
                self._samples = _merged(self._samples)
                self._interval_s *= 2

    def _sample(self) -> None:
        at = self._clock + time.perf_counter()
        self._samples.append(_Sample(at, time.process_time(), process_memory()))


def process_memory() -> dict[str, float]:
    """Current memory of this process in megabytes: `process_memory_megabytes` (resident) and, if it
    uses CUDA, `gpu_memory_megabytes` (reserved by torch, summed over devices)."""
    memory = {"process_memory_megabytes": psutil.Process().memory_info().rss / _MEGABYTE}
    if torch.cuda.is_initialized():
        devices = range(torch.cuda.device_count())
        held = sum(torch.cuda.memory_reserved(device) for device in devices)
        memory["gpu_memory_megabytes"] = held / _MEGABYTE
    return memory


def memory_peaks(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The maximum of each `process_memory` figure over the rows, as `..._peak_megabytes`."""
    peaks: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            if name.endswith("_memory_megabytes"):
                peak = name.replace("_megabytes", "_peak_megabytes")
                peaks[peak] = max(value, peaks.get(peak, 0.0))
    return peaks


def _row(before: _Sample, now: _Sample) -> dict[str, float]:
    share = (now.cpu_seconds - before.cpu_seconds) / (now.at - before.at)
    return {"at": now.at, "process_cpu_percentage": 100 * share} | now.memory


def _merged(samples: list[_Sample]) -> list[_Sample]:
    """The first sample, then pairs merged: the second one with the larger memory of the two."""
    rest = samples[1:]
    pairs = zip(rest[::2], rest[1::2], strict=False)
    merged = [_Sample(b.at, b.cpu_seconds, _larger(a.memory, b.memory)) for a, b in pairs]
    return [samples[0], *merged, *(rest[-1:] if len(rest) % 2 else [])]


def _larger(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    return {name: max(value, first.get(name, 0.0)) for name, value in second.items()}
