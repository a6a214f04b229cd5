"""Drain the inbox: edits submitted one at a time become committed waves as they arrive."""

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
from scen.pipeline.change import expire_due
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
    """The outcome of the edits of a cut. `report` is None if none of them was new."""

    number: int
    committed: int = 0
    known: int = 0
    superseded: int = 0
    rejections: list[Rejection] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    report: WaveReport | None = None


@dataclass(frozen=True)
class Drain:
    """The waves of one inbox. Safe to kill at any time and to run concurrently: a cut is stored
    before its wave runs, and the ledger commits each wave once."""

    stream: str
    inbox: Inbox
    parts: LocalParts
    make_validator: Callable[[], Validator]
    """Called for each wave, since contradictions between waves are checked by admission."""
    starting: Callable[[Wave], None] = lambda _: None

    def step(self, *, is_last: bool = False) -> Drained | None:
        """Resume the newest cut if it is unfinished; else cut a wave if one is due, and run it.
        `is_last`: any waiting edits are due. None without a wave."""
        number = self.inbox.last_cut()
        if number >= 0 and self.inbox.is_open(number):
            return self._run(number)
        waiting, limits = self.inbox.waiting(), self.parts.config.waves
        count = count_due(waiting, _without_delay(limits) if is_last else limits, datetime.now(UTC))
        if not count:
            return None
        self.inbox.cut(number + 1, waiting[:count])
        return self._run(number + 1)

    def _run(self, number: int) -> Drained:
        drained = Drained(number)
        edits = self._check(self.inbox.rows(number), drained)
        store, config = self.parts.store, self.parts.config
        wave = Wave(self.stream, number, edits, settings(config, store))
        for step in run_waves([wave] if edits else [], store, config, self.parts, self.starting):
            drained.known += len(step.admission.known)
            drained.remarks += step.admission.remarked
            drained.rejections += [
                Rejection(0, clash.edit.id, clash.field, clash.reason, "")
                for clash in step.admission.rejections
            ]
            if step.report is not None:
                drained.report = step.report
                drained.remarks += step.report.remarked
                self._count(step, step.report, drained)
        remarks: dict[str, list[str]] = {}
        for remark in drained.remarks:
            remarks.setdefault(remark.edit_id, []).append(remark.text)
        self.inbox.end(number, drained.rejections, remarks)
        return drained

    def _count(self, step: StreamStep, report: WaveReport, drained: Drained) -> None:
        """Count the committed edits of a wave, or reject them with the reason it is held."""
        if report.version is not None:
            drained.committed += len(step.admission.fresh)
            drained.superseded += len(step.admission.supersedes)
            return
        reason = "; ".join(report.held_for) or "rejected"
        reason = f"wave {report.key} is not committed: {reason}; see `scen candidates`"
        drained.rejections += [Rejection(0, e.id, "wave", reason, "") for e in step.admission.fresh]

    def _check(self, rows: list[dict[str, Any]], drained: Drained) -> tuple[Edit, ...]:
        """The edits that are valid for this base; the others are rejected."""
        validator, valid = self.make_validator(), []
        for number, values in enumerate(rows, 1):
            checked = validator.check(RawRow(number, values, fields=values))
            if isinstance(checked, Rejection):
                drained.rejections.append(checked)
            else:
                valid.append(checked)
        return tuple(valid)


def _without_delay(limits: WaveConfig) -> WaveConfig:
    return limits.model_copy(update={"max_age_s": 0.0})


_POLL_S = 0.5


@dataclass(frozen=True)
class DrainJob:
    """The inbox of a stream; with `is_once`, the job ends when the inbox is empty."""

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
    """Run waves from the inbox and pass each outcome to `show`. Raises ScenError."""
    runtime = runtime or Runtime()
    if config.waves.on_conflict == "refuse":
        raise ConfigError(
            "--on-conflict: with refuse, the first contradiction would stop it for good; use "
            "quarantine or supersede"
        )
    inbox = Inbox(storage, job.stream)
    store = make_store(storage, config, runtime)
    uri = tracking_uri_of(storage) if job.is_tracked else None
    with runtime.steps() as steps:
        parts = open_parts(store, config, steps, job.locality, uri, runtime.make_parts)
        runtime.say(f"{storage.uri}/inbox/{job.stream} is drained; stop with Ctrl-C")
        drain = _drain(job.stream, inbox, parts, steps)
        for drained in run_drain(drain, is_once=job.is_once, say=runtime.say):
            show(drained)
    return store


def _drain(stream: str, inbox: Inbox, parts: LocalParts, steps: Steps) -> Drain:
    def starting(wave: Wave) -> None:
        steps.start_wave(f"wave {wave.index} of {stream}: {len(wave.edits)} edits")

    return Drain(
        stream, inbox, parts, lambda: make_validator(parts, allow_null_text=True), starting
    )


def run_drain(
    drain: Drain,
    *,
    is_once: bool,
    say: Callable[[str], None] = lambda _: None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Iterator[Drained]:
    """Run waves, and between them apply the `valid_from` and `valid_until` of edits that are due;
    with `is_once` until the inbox is empty."""
    while True:
        change = expire_due(drain.parts.store.ledger, clock())
        if change is not None:
            counts = ", ".join(f"{len(ids)} {kind}" for kind, ids in change.changed.items())
            say(f"valid_from or valid_until is reached: {counts} (version {change.version})")
        drained = drain.step(is_last=is_once)
        if drained is not None:
            yield drained
        elif is_once:
            return
        else:
            time.sleep(_POLL_S)
