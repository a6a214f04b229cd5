"""The steps of a wave on Ray Train workers; the store's registry commits it."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from scen.cluster.registry import RegistryClient
from scen.cluster.sharding import measure_device, read_deepspeed
from scen.cluster.worker_group import WorkerGroup, WorkerJob
from scen.config import Config
from scen.errors import ConfigError, ScenError
from scen.fs import Storage
from scen.ledger.actions import WaveCommit
from scen.model.base import Base
from scen.model.keys import KeyPlace
from scen.pipeline.local import LocalParts, Progress
from scen.pipeline.work import (
    CalibrationTask,
    CalibrationWork,
    KeysTask,
    KeysWork,
    SharedWork,
)
from scen.snapshot.method import Profile, making_profile, save_profile
from scen.snapshot.open import Say

_POLL_S = 0.2  # between two checks for finished pieces


@dataclass(frozen=True)
class RayParts(LocalParts):
    """`LocalParts` that trains and evaluates on the workers of a Ray cluster.

    Requires a connected Ray (`ray_session`). Every worker must be able to access the store; the
    base of the store may be without weights.
    """

    group: WorkerGroup = field(default_factory=WorkerGroup)

    def do(self, step: str, work: SharedWork) -> None:
        """Do the pieces that are not done yet, shared among the workers. Raises ScenError."""
        share_out(self.group, self._job, step, work, self.progress)

    def read_keys(self, prompts: Sequence[str]) -> Tensor:
        """The keys of prompts, read by the workers."""
        store, places = self.store, self.store.method.places
        return read_on_workers(self.group, store.storage, self.config, store.base, places, prompts)

    def append(self, commit: WaveCommit, version: int) -> int:
        """Commit a wave through the registry of the store, which notifies its followers."""
        return int(self._registry.call("commit", commit, version).version)

    @cached_property
    def _registry(self) -> RegistryClient:
        return RegistryClient(self.store.storage.uri, self.store.storage.options)

    @cached_property
    def _job(self) -> WorkerJob:
        return worker_job(self.group, self.store.storage, self.config, self.store.base)


def read_on_workers(
    group: WorkerGroup,
    storage: Storage,
    config: Config,
    base: Base,
    places: tuple[KeyPlace, ...],
    prompts: Sequence[str],
) -> Tensor:
    """key_NKF float16 of prompts, read by the workers. With the group bound, this is a
    `ReadElsewhere`. Raises ScenError."""
    task = KeysTask(places, tuple(prompts), f"keys/{uuid.uuid4().hex}")
    work = KeysWork.of(task, storage, base)
    share_out(group, worker_job(group, storage, config, base), "read", work, lambda *_: None)
    return work.collect()


def calibrate_on_workers(
    group: WorkerGroup, say: Say, storage: Storage, config: Config, base: Base
) -> Profile | None:
    """The profile of a new base, made by one of the workers, each of which holds the whole base;
    None if the base cannot be calibrated. With the first arguments bound, this is a
    `CalibrateElsewhere`. Raises ConfigError if the base is sharded, ScenError."""
    if group.strategy(config.cluster, base, measure_device) == "zero3":
        raise ConfigError(
            f"router.profile: {base.name} has no profile, and a base that is sharded over the "
            "workers cannot be calibrated; run `scen calibrate` where it fits whole and pass its "
            "file with --profile, or go without by --profile none"
        )
    say(f"{base.name} has no profile: a worker calibrates it (`--profile none` goes without)")
    task = CalibrationTask(f"calibration/{uuid.uuid4().hex}")
    work = CalibrationWork(task, storage, lambda: None)
    share_out(group, worker_job(group, storage, config, base), "calibrate", work, lambda *_: None)
    made = work.collect()
    if made is None:
        return None
    with making_profile(base.fingerprint) as path:
        save_profile(made, path)
    return replace(made, source="cache")


def worker_job(group: WorkerGroup, storage: Storage, config: Config, base: Base) -> WorkerJob:
    """The job of workers on a store. `auto` settings of the base are resolved here, since they may
    resolve differently on the workers' machines."""
    settings = config.cluster
    strategy = group.strategy(settings, base, measure_device)
    # Read here, since the workers' nodes may not have the file.
    deepspeed = read_deepspeed(settings.deepspeed) if strategy == "zero3" else None
    described = base.describe()
    resolved: dict[str, Any] = {name: described[name] for name in ("name", "template", "dtype")}
    resolved_config = config.model_copy(update={"base": config.base.model_copy(update=resolved)})
    return WorkerJob(storage.uri, storage.options, resolved_config, deepspeed)


def share_out(
    group: WorkerGroup, job: WorkerJob, step: str, work: SharedWork, progress: Progress
) -> None:
    """Have the workers do the pieces that are not done yet.

    Failed workers are replaced as long as some pieces get done. Raises ScenError.
    """
    watch = _ProgressWatch(step, work, progress)
    left = watch.poll()
    while left > 0:
        group.give(job, work.task)
        before = left
        while left > 0 and group.failure is None:
            time.sleep(_POLL_S)
            left = watch.poll()
        if left == before:
            raise ScenError(f"{step}: the workers failed ({group.failure})")


class _ProgressWatch:
    """Reports the progress of pieces that other processes write."""

    def __init__(self, step: str, work: SharedWork, progress: Progress) -> None:
        self._step, self._work, self._progress = step, work, progress
        self._open = set(range(work.count))
        self._total = sum(work.size(index) for index in range(work.count))

    def poll(self) -> int:
        """Report the pieces finished since the last call; returns how many are still open."""
        for index in sorted(self._open):
            if self._work.is_done(index):
                self._open.discard(index)
                self._progress(self._step, self._work.size(index), self._total)
        return len(self._open)
