"""What a block takes of the machine: seen while it runs, and not longer."""

import mmap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from scen.pipeline.track import SystemWatch, memory_peaks, process_memory


def spend(seconds: float) -> None:
    """Keep one core busy for this long."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        sum(range(1000))


@contextmanager
def holding(megabytes: int) -> Iterator[None]:
    """Hold this much memory straight from the system: an allocator may reuse what it has kept."""
    held = mmap.mmap(-1, megabytes * 1_000_000)
    for start in range(0, len(held), mmap.PAGESIZE):
        held[start] = 1
    try:
        yield
    finally:
        held.close()


def watched(busy: bool) -> float:
    """The processor share of half a second, in percent."""
    with SystemWatch(interval_s=60) as watch:
        spend(0.5) if busy else time.sleep(0.5)
    [row] = watch.rows()
    return row["process_cpu_percentage"]


def test_work_is_distinguished_from_waiting() -> None:
    assert watched(busy=False) < 15 < watched(busy=True)


def test_looks_have_their_time_and_memory() -> None:
    began = time.time()
    with SystemWatch(interval_s=0.02) as watch, holding(megabytes=80):
        time.sleep(0.2)
    rows = watch.rows()
    assert len(rows) >= 4
    assert began - 1 < rows[0]["at"] < rows[-1]["at"] < time.time() + 1
    assert all(row["process_memory_megabytes"] > 50 for row in rows)
    peak = memory_peaks(rows)["process_memory_peak_megabytes"]
    assert peak >= rows[-1]["process_memory_megabytes"] + 60


def test_a_long_block_has_no_more_rows_than_fit() -> None:
    with SystemWatch(interval_s=0.001) as watch:
        with holding(megabytes=80):
            time.sleep(0.1)
        time.sleep(0.5)
    rows = watch.rows()
    assert 30 < len(rows) <= 65
    times = [row["at"] for row in rows]
    assert times == sorted(times)
    assert times[-1] - times[0] > 0.4
    peak = memory_peaks(rows)["process_memory_peak_megabytes"]
    assert peak >= rows[-1]["process_memory_megabytes"] + 60  # joining keeps the larger


def test_the_look_out_ends_with_its_block() -> None:
    before = threading.active_count()
    with SystemWatch():
        assert threading.active_count() == before + 1
    with pytest.raises(ValueError, match="broken"), SystemWatch():
        raise ValueError("broken")
    assert threading.active_count() == before


def test_peaks_of_rows() -> None:
    rows = [
        {"at": 1.0, "process_memory_megabytes": 5.0},
        {"process_memory_megabytes": 7.0, "gpu_memory_megabytes": 2.0},
        {"process_memory_megabytes": 6.0, "process_cpu_percentage": 90.0},
    ]
    assert memory_peaks(rows) == {
        "process_memory_peak_megabytes": 7.0,
        "gpu_memory_peak_megabytes": 2.0,
    }
    assert memory_peaks([]) == {}


def test_without_cuda_in_use_there_is_no_gpu_memory() -> None:
    assert ("gpu_memory_megabytes" in process_memory()) is torch.cuda.is_initialized()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_memory_is_what_torch_holds() -> None:
    held = torch.ones(25_000_000, device="cuda")
    assert process_memory()["gpu_memory_megabytes"] >= 100
    del held
