"""Drain the inbox: edits handed in one at a time become committed waves as they arrive."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from scen.config import Config, WaveConfig
from scen.data import Rejection, Validator
from scen.data.inbox import Inbox
from scen.data.rows import RawRow
from scen.errors import ConfigError
from scen.fs import Storage
from scen.pipeline.admit import Remark
from scen.pipeline.local import LocalParts
from scen.pipeline.plan import Wave, count_due
from scen.pipeline.run_wave import WaveReport
from scen.pipeline.runtime import (
    Runtime,
    Steps,
    make_store,
    make_validator,
    open_parts,
    tracking_uri_of,
)
from scen.pipeline.stream import StreamStep, run_waves, settings
from scen.records import Edit
from scen.snapshot.open import OpenStore


@dataclass
class Drained:
    """What became of the edits of a cut. `report` is None where none of them was new."""

    number: int
    committed: int = 0
    known: int = 0
    superseded: int = 0
    rejections: list[Rejection] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    report: WaveReport | None = None


@dataclass(frozen=True)
class Drain:
    """The waves of one inbox. Safe to kill at any instant, and to run twice side by side: what a
    cut holds is written before its wave is run, and the ledger takes each wave once."""

    stream: str
    inbox: Inbox
    parts: LocalParts
    make_validator: Callable[[], Validator]
    """A new one for each wave: whether edits of different waves agree is for admission to say."""
    starting: Callable[[Wave], None] = lambda _: None

    def step(self, *, is_last: bool = False) -> Drained | None:
        """Run the newest cut to its end where that was not done; else cut a wave, if one is due,
        and run it. `is_last`: whatever waits is due."""
        number = self.inbox.last_cut()
        if number >= 0 and self.inbox.is_open(number):
            return self._run(number)
        waiting, limits = self.inbox.waiting(), self.parts.config.waves
        count = count_due(waiting, _at_once(limits) if is_last else limits, datetime.now(UTC))
        if not count:
            return None
        self.inbox.cut(number + 1, waiting[:count])
        return self._run(number + 1)

    def _run(self, number: int) -> Drained:
        found = Drained(number)
        edits = self._check(self.inbox.rows(number), found)
        store, config = self.parts.store, self.parts.config
        wave = Wave(self.stream, number, edits, settings(config, store))
        for step in run_waves([wave] if edits else [], store, config, self.parts, self.starting):
            found.known += len(step.admission.known)
            found.remarks += step.admission.remarked
            found.rejections += [
                Rejection(0, clash.edit.id, clash.field, clash.reason, "")
                for clash in step.admission.rejections
            ]
            if step.report is not None:
                found.report = step.report
                found.remarks += step.report.remarked
                self._count(step, step.report, found)
        remarks: dict[str, list[str]] = {}
        for remark in found.remarks:
            remarks.setdefault(remark.edit_id, []).append(remark.text)
        self.inbox.end(number, found.rejections, remarks)
        return found

    def _count(self, step: StreamStep, report: WaveReport, found: Drained) -> None:
        """Note what of a wave came into the ledger, or why it did not."""
        if report.version is not None:
            found.committed += len(step.admission.fresh)
            found.superseded += len(step.admission.supersedes)
            return
        reason = "; ".join(report.held_for) or "rejected"
        reason = f"wave {report.key} is not committed: {reason}; see `scen candidates`"
        found.rejections += [Rejection(0, e.id, "wave", reason, "") for e in step.admission.fresh]

    def _check(self, rows: list[dict[str, Any]], found: Drained) -> tuple[Edit, ...]:
        """The edits that this base can learn; the others are noted."""
        validator, fine = self.make_validator(), []
        for number, values in enumerate(rows, 1):
            checked = validator.check(RawRow(number, values, fields=values))
            if isinstance(checked, Rejection):
                found.rejections.append(checked)
            else:
                fine.append(checked)
        return tuple(fine)


def _at_once(limits: WaveConfig) -> WaveConfig:
    return limits.model_copy(update={"max_age_s": 0.0})


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
