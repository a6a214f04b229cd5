"""Edits that were handed in one by one become committed waves, as they come."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from scen.config import Config
from scen.data.inbox import Inbox
from scen.errors import ConfigError
from scen.fs import Storage
from scen.pipeline.runtime import (
    Runtime,
    Steps,
    make_store,
    make_validator,
    open_parts,
    tracking_uri_of,
)
from scen.snapshot.open import OpenStore
from scen.waves.drain import Drain, Drained
from scen.waves.local import LocalParts
from scen.waves.plan import Wave

_POLL_S = 0.5


@dataclass(frozen=True)
class DrainJob:
    """The inbox of a stream, and whether to end when nothing waits (`is_once`) or never."""

    stream: str
    locality: str | None = None
    is_tracked: bool = True
    is_once: bool = False


def drain_inbox(
    job: DrainJob,
    storage: Storage,
    config: Config,
    show: Callable[[Drained], None],
    runtime: Runtime | None = None,
) -> OpenStore:
    """Make waves of what waits, and show what became of each. Raises ScenError."""
    runtime = runtime or Runtime()
    if config.waves.on_conflict == "refuse":
        raise ConfigError(
            "--on-conflict: refuse would end here for good at the first contradiction; take "
            "quarantine or supersede"
        )
    inbox = Inbox(storage, job.stream)
    store = make_store(storage, config, runtime)
    uri = tracking_uri_of(storage) if job.is_tracked else None
    with runtime.steps() as steps:
        parts = open_parts(store, config, steps, job.locality, uri, runtime.make_parts)
        runtime.say(f"{storage.uri}/inbox/{job.stream} is drained; stop with Ctrl-C")
        for found in _waves(_drain(job.stream, inbox, parts, steps), is_once=job.is_once):
            show(found)
    return store


def _drain(stream: str, inbox: Inbox, parts: LocalParts, steps: Steps) -> Drain:
    def starting(wave: Wave) -> None:
        steps.start_wave(f"wave {wave.index} of {stream}: {len(wave.edits)} edits")

    return Drain(
        stream, inbox, parts, lambda: make_validator(parts, allow_null_text=True), starting
    )


def _waves(drain: Drain, *, is_once: bool) -> Iterator[Drained]:
    while True:
        found = drain.step(is_last=is_once)
        if found is not None:
            yield found
        elif is_once:
            return
        else:
            time.sleep(_POLL_S)
