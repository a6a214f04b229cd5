"""The steps of a wave with their work on Ray Train workers, committed by the store's registry."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from scen.cluster.registry import RegistryClient
from scen.cluster.sharding import measure_device, read_deepspeed
from scen.cluster.worker_group import Crew, CrewJob
from scen.config import Config
from scen.errors import ScenError
from scen.fs import Storage
from scen.ledger.actions import WaveCommit
from scen.model.base import Base
from scen.model.keys import KeyPlace
from scen.pipeline.local import LocalParts, Progress
from scen.pipeline.work import KeysTask, KeysWork, SharedWork

_POLL_S = 0.2  # between two looks at what is written down


@dataclass(frozen=True)
class RayParts(LocalParts):
    """`LocalParts` whose training and measuring run on the workers of a Ray cluster.

    Wants a connected Ray (`ray_session`). The store must be where every worker can reach it; its
    base may be without weights.
    """

    crew: Crew = field(default_factory=Crew)

    def do(self, step: str, work: SharedWork) -> None:
        """Do the pieces that were not done before, shared by the workers. Raises ScenError."""
        share_out(self.crew, self._job, step, work, self.progress)

    def read_keys(self, prompts: Sequence[str]) -> Tensor:
        """Read by the workers."""
        store, places = self.store, self.store.method.places
        return read_on_crew(self.crew, store.storage, self.config, store.base, places, prompts)

    def append(self, commit: WaveCommit, version: int) -> int:
        """Let the registry of the store write a wave, so that its followers hear of it at once."""
        return int(self._registry.call("commit", commit, version).version)

    @cached_property
    def _registry(self) -> RegistryClient:
        return RegistryClient(self.store.storage.uri, self.store.storage.options)

    @cached_property
    def _job(self) -> CrewJob:
        return crew_job(self.crew, self.store.storage, self.config, self.store.base)


def read_on_crew(
    crew: Crew,
    storage: Storage,
    config: Config,
    base: Base,
    places: tuple[KeyPlace, ...],
    prompts: Sequence[str],
) -> Tensor:
    """key_NKF float16 of prompts, read by the workers; with a crew it is a `ReadElsewhere`. Raises
    ScenError."""
    task = KeysTask(places, tuple(prompts), f"keys/{uuid.uuid4().hex}")
    work = KeysWork.of(task, storage, base)
    share_out(crew, crew_job(crew, storage, config, base), "read", work, lambda *_: None)
    return work.collect()


def crew_job(crew: Crew, storage: Storage, config: Config, base: Base) -> CrewJob:
    """The job of workers on a store. What `auto` means for the base is settled here, as it may mean
    another thing on their machines."""
    settings = config.cluster
    strategy = crew.strategy(settings, base, measure_device)
    # Read here: the workers' nodes need not have the file.
    deepspeed = read_deepspeed(settings.deepspeed) if strategy == "zero3" else None
    known = base.describe()
    facts: dict[str, Any] = {name: known[name] for name in ("name", "template", "dtype")}
    settled = config.model_copy(update={"base": config.base.model_copy(update=facts)})
    return CrewJob(storage.uri, storage.options, settled, deepspeed)


def share_out(crew: Crew, job: CrewJob, step: str, work: SharedWork, progress: Progress) -> None:
    """Have the workers do the pieces that were not done before.

    Workers that gave up are replaced as long as something gets done. Raises ScenError.
    """
    watch = _Watch(step, work, progress)
    left = watch.look()
    while left > 0:
        crew.give(job, work.task)
        before = left
        while left > 0 and crew.failure is None:
            time.sleep(_POLL_S)
            left = watch.look()
        if left == before:
            raise ScenError(f"{step}: the workers gave up ({crew.failure})")


class _Watch:
    """Tells the progress of pieces that others write down."""

    def __init__(self, step: str, work: SharedWork, progress: Progress) -> None:
        self._step, self._work, self._progress = step, work, progress
        self._open = set(range(work.count))
        self._total = sum(work.size(index) for index in range(work.count))

    def look(self) -> int:
        """Tell of pieces that are done since the last look; how many are still open."""
        for index in sorted(self._open):
            if self._work.is_done(index):
                self._open.discard(index)
                self._progress(self._step, self._work.size(index), self._total)
        return len(self._open)
