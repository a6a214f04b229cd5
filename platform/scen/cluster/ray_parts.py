"""The steps of a wave with their work on Ray Train workers, committed by the store's registry."""

import time
from dataclasses import dataclass, field
from functools import cached_property

from scen.cluster.crew import Crew
from scen.cluster.registry_client import RegistryClient
from scen.cluster.strategy import choose_strategy, measure_device
from scen.cluster.worker import CrewJob
from scen.cluster.zero3 import read_deepspeed
from scen.errors import ScenError
from scen.registry.actions import WaveCommit
from scen.waves.local import LocalParts
from scen.waves.shared_work import SharedWork

_POLL_S = 0.2  # between two looks at what is written down


@dataclass(frozen=True)
class RayParts(LocalParts):
    """`LocalParts` whose training and measuring run on the workers of a Ray cluster.

    Wants a connected Ray (`ray_session`). The store must be where every worker can reach it.
    """

    crew: Crew = field(default_factory=Crew)

    def do(self, step: str, work: SharedWork) -> None:
        """Do the pieces that were not done before, shared by the workers.

        Workers that gave up are replaced as long as something gets done. Raises ScenError.
        """
        watch = _Watch(self, step, work)
        left = watch.look()
        while left > 0:
            self.crew.give(self._job, work.task)
            before = left
            while left > 0 and self.crew.failure is None:
                time.sleep(_POLL_S)
                left = watch.look()
            if left == before:
                raise ScenError(f"{step}: the workers gave up ({self.crew.failure})")

    def append(self, commit: WaveCommit, version: int) -> int:
        """Let the registry of the store write a wave, so that its followers hear of it at once."""
        return int(self._registry.call("commit", commit, version).version)

    @cached_property
    def _registry(self) -> RegistryClient:
        return RegistryClient(self.store.storage.uri, self.store.storage.options)

    @cached_property
    def _job(self) -> CrewJob:
        storage, settings = self.store.storage, self.config.cluster
        strategy = choose_strategy(settings, self.store.base, measure_device)
        # Read here: the workers' nodes need not have the file.
        deepspeed = read_deepspeed(settings.deepspeed) if strategy == "zero3" else None
        return CrewJob(storage.uri, storage.options, self.config, deepspeed)


class _Watch:
    """Tells the progress of pieces that others write down."""

    def __init__(self, parts: LocalParts, step: str, work: SharedWork) -> None:
        self._parts, self._step, self._work = parts, step, work
        self._open = set(range(work.count))
        self._total = sum(work.size(index) for index in range(work.count))

    def look(self) -> int:
        """Tell of pieces that are done since the last look; how many are still open."""
        for index in sorted(self._open):
            if self._work.is_done(index):
                self._open.discard(index)
                self._parts.progress(self._step, self._work.size(index), self._total)
        return len(self._open)
