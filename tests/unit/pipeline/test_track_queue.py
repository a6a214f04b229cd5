"""Records wait until a tracker has them."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from scen.fs import Storage
from scen.pipeline.plan import Journal
from scen.pipeline.track import TrackQueue
from scen.tracking.client import WaveRecord


def record_of(wave: int, stream: str = "news") -> WaveRecord:
    """A small record."""
    return WaveRecord(
        stream=stream,
        wave=wave,
        wave_key=f"{stream}-{wave:05d}-abc",
        ledger_version=wave + 1,
        base_name="tiny",
        params={"steps": 3, "name": "é"},
        metrics={"loss": 0.5},
        loss_curves=[[2.0, 1.0], [3.0]],
        per_edit=[{"id": "a"}],
        dataset_digest="ab",
        num_edits=2,
    )


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def test_what_waits_comes_back_in_the_order_of_waves(storage: Storage) -> None:
    queue = TrackQueue(storage, "news")
    assert queue.waiting() == []
    for wave in (11, 2, 2):
        queue.put(record_of(wave))
    assert queue.waiting() == [record_of(2), record_of(11)]


def test_what_is_tracked_waits_no_longer(storage: Storage) -> None:
    queue = TrackQueue(storage, "news")
    queue.put(record_of(0))
    queue.put(record_of(1))
    Journal(storage, record_of(0).wave_key).once("tracked", lambda: {"run_id": "r"})
    assert queue.waiting() == [record_of(1)]


def test_streams_wait_apart(storage: Storage) -> None:
    TrackQueue(storage, "news").put(record_of(0))
    assert TrackQueue(storage, "news-2").waiting() == []
    assert TrackQueue(storage, "new").waiting() == []


def test_a_record_comes_back_whole(storage: Storage) -> None:
    queue = TrackQueue(storage, "news")
    samples = [{"at": 1.5, "process_cpu_percentage": 90.0}]
    record = replace(record_of(0), threshold=0.5, system=samples)
    queue.put(record)
    assert queue.waiting() == [record]


def test_a_record_of_an_earlier_version_still_waits(storage: Storage) -> None:
    """It has no threshold and no samples."""
    old = asdict(record_of(0))
    del old["threshold"], old["system"]
    storage.put_new("untracked/news/00000-news-00000-abc.json", json.dumps(old).encode())
    assert TrackQueue(storage, "news").waiting() == [record_of(0)]
