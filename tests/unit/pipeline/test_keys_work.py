"""Keys that several ranks read are those that one process reads, bit for bit; one of them
calibrates a new base."""

from functools import partial
from pathlib import Path

import pytest
import torch

from scen.fs import Storage
from scen.model.base import Base, open_base
from scen.model.keys import KeyPlace
from scen.pipeline.work import CalibrationTask, CalibrationWork, KeysTask, KeysWork, do_share
from scen.routing.keys import read_prompt_keys
from scen.routing.router import plain_router
from scen.snapshot.method import Profile

PLACES = (KeyPlace(1, "mean"), KeyPlace(4, "last"))
PROMPTS = tuple(f"What is {'very ' * (i % 7)}number {i}?" for i in range(75))
TASK = KeysTask(PLACES, PROMPTS, "keys/a")


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "store"))


def test_ranks_share_the_batches(storage: Storage, tiny: Base, tiny_folder: Path) -> None:
    for rank in (1, 0):
        do_share(KeysWork.of(TASK, storage, tiny), rank, 2)
    bare = open_base(str(tiny_folder), template="llama2-inst", dtype="float32", device="cpu")
    driver = KeysWork.of(TASK, storage, bare)
    assert [driver.size(i) for i in range(driver.count)] == [32, 32, 11]
    assert all(driver.is_done(i) for i in range(3))
    assert torch.equal(driver.collect(), read_prompt_keys(tiny, PLACES, PROMPTS))
    assert not bare.is_loaded
    assert storage.names("") == []


def test_a_batch_that_was_read_is_not_read_again(storage: Storage, tiny: Base) -> None:
    work = KeysWork.of(TASK, storage, tiny)
    work.keep(1, torch.zeros(32, 2, 64).half())
    do_share(work, 0, 1)
    key_NKF = work.collect()
    assert int((key_NKF == 0).all(2).all(1).sum()) == 32


def test_tasks_do_not_meet(storage: Storage, tiny: Base) -> None:
    do_share(KeysWork.of(TASK, storage, tiny), 0, 1)
    other = KeysTask(PLACES, PROMPTS, "keys/b")
    assert not KeysWork.of(other, storage, tiny).is_done(0)


def test_one_rank_calibrates(storage: Storage, tiny: Base) -> None:
    router = plain_router(PLACES, read_prompt_keys(tiny, PLACES, PROMPTS), 0.1, 0.5)
    profile = Profile({"fingerprint": "f"}, {"layer": 3}, router, {"how": "quick"})
    made: list[int] = []

    def make(rank: int) -> Profile:
        made.append(rank)
        return profile

    task = CalibrationTask("calibration/a")
    for rank in (1, 0):
        do_share(CalibrationWork(task, storage, partial(make, rank)), rank, 2)
    driver = CalibrationWork(task, storage, lambda: make(2))
    assert driver.is_done(0)
    found = driver.collect()
    assert made == [0]
    assert found is not None
    assert (found.expert, found.calibration) == (profile.expert, profile.calibration)
    assert torch.equal(found.router.encoder.mean_KF, router.encoder.mean_KF)
    assert storage.names("") == []


def test_a_base_that_cannot_be_calibrated(storage: Storage) -> None:
    work = CalibrationWork(CalibrationTask("calibration/b"), storage, lambda: None)
    do_share(work, 0, 1)
    assert work.is_done(0)
    assert work.collect() is None
    assert storage.names("") == []
