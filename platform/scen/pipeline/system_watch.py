"""CPU time and memory that one process takes for a step of a wave."""

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import psutil
import torch

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
