"""The driver of a wave on a Ray cluster, or one that dies by SIGKILL at a moment that is named.

A moment is `mid-train`, `mid-evaluate` (some pieces are written down), or the step that was just
done: planned, trained, evaluated, committed, tracked.
"""

import os
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from cluster.wave_case import EDITS, LOCALITY, NEUTRAL, case_config
from scen.cluster.parts import RayParts
from scen.cluster.session import ray_session
from scen.cluster.worker_group import WorkerGroup
from scen.fs import Storage
from scen.pipeline.local import LocalParts
from scen.pipeline.plan import Journal, Wave
from scen.pipeline.run_wave import run_wave
from scen.pipeline.stream import settings
from scen.snapshot.open import create_store
from scen.tracking.client import NullTracker


class MortalParts:
    """Real parts, and an end after the step that is named."""

    def __init__(self, parts: LocalParts, fatal: str | None) -> None:
        self.parts, self.fatal = parts, fatal

    def reach(self, moment: str) -> None:
        """The process ends here, without any clean-up, where this is its moment."""
        if moment == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def train(self, wave: Wave) -> dict[str, Any]:
        """Comes after the plan is written down."""
        self.reach("planned")
        return self.parts.train(wave)

    def evaluate(self, wave: Wave, trained: dict[str, Any]) -> dict[str, Any]:
        """Comes after the training is written down."""
        self.reach("trained")
        return self.parts.evaluate(wave, trained)

    def read_keys(self, prompts: Sequence[str]) -> Tensor:
        """Writes nothing, so there is nothing to tear."""
        return self.parts.read_keys(prompts)

    def judge(self, evaluated: dict[str, Any]) -> list[str]:
        """Writes nothing, so there is nothing to tear."""
        return self.parts.judge(evaluated)

    def commit(self, wave: Wave, trained: dict[str, Any], evaluated: dict[str, Any]) -> int:
        """Comes after the measuring is written down."""
        self.reach("evaluated")
        version = self.parts.commit(wave, trained, evaluated)
        self.reach("committed")
        return version

    def track(
        self, wave: Wave, journal: Journal, found: dict[str, Any], version: int
    ) -> dict[str, Any]:
        """The last step."""
        tracked = self.parts.track(wave, journal, found, version)
        self.reach("tracked")
        return tracked


def drive(address: str | None, folder: str, base: str, fatal: str | None = None) -> None:
    """Run the wave to its end, or to the moment; without an address, in this process."""
    config = case_config(Path(base), expert={"batch_size": 2}, cluster={"workers": 1})
    store = create_store(Storage(folder), config, NEUTRAL)

    def progress(step: str, _done: int, _total: int) -> None:
        if fatal == f"mid-{step}":
            os.kill(os.getpid(), signal.SIGKILL)

    with ExitStack() as stack:
        make = LocalParts
        if address is not None:
            stack.enter_context(ray_session(address))
            make = partial(RayParts, group=stack.enter_context(WorkerGroup()))  # type: ignore[assignment]
        parts = make(store, config, LOCALITY, NullTracker(), progress)
        wave = Wave("case", 0, EDITS, settings(config, store))
        run_wave(wave, MortalParts(parts, fatal), store.storage)
