"""Apply edits: from rows to committed and tracked waves, with a report; promote a held wave; rebase
the active edits of a store to another base, optionally without some of them.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from scen.config import Config, WaveConfig
from scen.data import QuarantineFile, Rejection, ingest
from scen.data.files import locate_input
from scen.data.read import Source, describe_source, digest_source
from scen.data.rows import RawRow
from scen.errors import ConfigError, InputError
from scen.evaluation.metrics import EvalReport
from scen.fs import Storage
from scen.ledger.events import LedgerEntry
from scen.ledger.ledger import Ledger, open_ledger
from scen.pipeline.admit import Clash
from scen.pipeline.gate import promote, read_candidate
from scen.pipeline.local import LocalParts
from scen.pipeline.models import follow_ledger
from scen.pipeline.plan import Journal, Wave
from scen.pipeline.run_wave import WaveReport
from scen.pipeline.runtime import (
    Runtime,
    Steps,
    make_store,
    make_validator,
    open_parts,
    tracking_uri_of,
)
from scen.pipeline.stream import StreamStep, check_name, name_stream, prefetch, run_stream
from scen.pipeline.track import WaveTracking
from scen.records import Edit, edit_to_dict
from scen.snapshot.open import OpenStore
from scen.tracking.wave_runs import open_tracker

KEPT_REJECTIONS = 1000


@dataclass(frozen=True)
class EditJob:
    """A source of edits and how to read it. `source` is a file by path or URI, or the rows;
    `allow_null_text` as in `Validator`."""

    source: Source
    stream: str | None = None
    data_format: str = "auto"
    limit: int | None = None
    strict: bool = False
    locality: str | None = None
    is_tracked: bool = True
    allow_null_text: bool = False

    @property
    def name(self) -> str:
        """The name of the source in messages."""
        return describe_source(self.source)

    @property
    def digest(self) -> str:
        """sha256 (hex) of the file's name, or of the content of the rows."""
        return digest_source(self.source)

    @property
    def stream_name(self) -> str:
        """The name of the stream: as given, else from the file's name or the digest of the rows.
        Raises ConfigError."""
        if self.stream:
            return check_name(self.stream)
        if isinstance(self.source, str | Path):
            return check_name(name_stream(str(self.source)))
        return f"rows-{self.digest[:12]}"

    def check(self) -> None:
        """Raises ConfigError or InputError for problems that show before a base is loaded."""
        _ = self.stream_name
        if self.locality is not None:
            locate_input(self.locality)
        if isinstance(self.source, str | Path):
            locate_input(self.source)
        elif not self.source:
            raise InputError("edits: the list is empty: give at least one edit")


@dataclass
class EditReport:
    """The result of a run of edits.

    Counts of edits: `committed` ones are new in the ledger (their ids: `edit_ids`); `known` ones
    were committed before with identical content; `superseded` ones were replaced by edits of this
    run. `rejected` rows are in the Parquet file `quarantine`, and the first 1,000 of them in
    `rejections`, with the field and the reason. `waves` has the report of each wave, `held` the
    keys of those that the gate held back, with the reasons. `remarks` are notes for the user.
    `version` is the newest of the ledger, `model` the name of the registered model in MLflow,
    `seconds` the duration of the whole run.
    """

    stream: str
    store: str
    version: int = 0
    committed: int = 0
    known: int = 0
    superseded: int = 0
    rejected: int = 0
    quarantine: str | None = None
    held: dict[str, list[str]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    tracking_uri: str | None = None
    model: str | None = None
    seconds: float = 0.0
    waves: list[WaveReport] = field(default_factory=list)
    edit_ids: list[str] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)

    @property
    def versions(self) -> list[int]:
        """The versions that committed the waves of the run, oldest first."""
        return [wave.version for wave in self.waves if wave.version is not None]

    @property
    def figures(self) -> EvalReport | None:
        """The evaluation of the last wave; None without waves."""
        return EvalReport(**self.waves[-1].evaluated["report"]) if self.waves else None

    def reject(self, rejections: Sequence[Rejection]) -> None:
        """Keep the first `KEPT_REJECTIONS` of the run."""
        self.rejections += rejections[: max(0, KEPT_REJECTIONS - len(self.rejections))]

    def require_edits(self, name: str) -> None:
        """Raises InputError if no row of the source `name` was a usable edit."""
        if not self.waves and not self.known:
            see = f"; see {self.quarantine}" if self.quarantine else ""
            raise InputError(f"{name}: none of its rows is a usable edit{see}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, without the rows."""
        fields = asdict(self)
        del fields["edit_ids"], fields["rejections"]
        return fields


_READ_AHEAD = 2  # batches of rows


class Sink:
    """Collects the rejected rows of a run; `rows` maps edit ids to row numbers."""

    def __init__(self, quarantine: QuarantineFile, report: EditReport) -> None:
        self.rows: dict[str, int] = {}
        self._quarantine, self._report = quarantine, report

    def reject(self, rejections: Sequence[Rejection]) -> None:
        """Add rows to the quarantine and the report."""
        self._quarantine.add(rejections)
        self._report.reject(rejections)
        self._report.rejected = self._quarantine.num_rows

    def clash(self, clashes: Sequence[Clash]) -> None:
        """Reject edits that were not admitted."""
        self.reject([clash.as_rejection(self.rows[clash.edit.id]) for clash in clashes])


# Yields the valid edits of a stream in batches; rejected rows go to the sink.
ReadEdits = Callable[[LocalParts, Sink], Iterator[list[Edit]]]


def apply_edits(
    job: EditJob, storage: Storage, config: Config, runtime: Runtime | None = None
) -> tuple[EditReport, OpenStore]:
    """Open or create the store; ingest, train, evaluate, commit and track. Raises ScenError."""
    job.check()
    streams: dict[str, ReadEdits] = {job.stream_name: partial(_accepted, job)}
    return apply_streams(streams, job, storage, config, runtime)


def apply_streams(
    streams: Mapping[str, ReadEdits],
    job: EditJob,
    storage: Storage,
    config: Config,
    runtime: Runtime | None = None,
) -> tuple[EditReport, OpenStore]:
    """Open or create the store and run the streams. Raises ScenError."""
    began, runtime = time.perf_counter(), runtime or Runtime()
    store = make_store(storage, config, runtime)
    report = run_streams(streams, job, store, config, runtime)
    report.seconds = round(time.perf_counter() - began, 1)
    return report, store


def run_edits(job: EditJob, store: OpenStore, config: Config, runtime: Runtime) -> EditReport:
    """`apply_edits` on a store that is open for editing. Raises ScenError."""
    job.check()
    return run_streams({job.stream_name: partial(_accepted, job)}, job, store, config, runtime)


def run_streams(
    streams: Mapping[str, ReadEdits],
    job: EditJob,
    store: OpenStore,
    config: Config,
    runtime: Runtime,
) -> EditReport:
    """Run the streams one after the other. Raises ScenError."""
    began, storage = time.perf_counter(), store.storage
    uri = tracking_uri_of(storage) if job.is_tracked else None
    name = ", ".join(streams)
    report = EditReport(name, storage.uri, tracking_uri=uri)
    path = _quarantine_path(storage, name if len(streams) == 1 else "streams", job)
    with runtime.steps() as steps, QuarantineFile(path) as quarantine:
        parts = open_parts(store, config, steps, job.locality, uri, runtime.make_parts)
        sink = Sink(quarantine, report)
        for stream, read in streams.items():
            _run_waves(stream, read(parts, sink), parts, steps, sink, report)
    if report.rejected:
        report.quarantine = path
        runtime.say(f"{report.rejected} rows were rejected; the reasons are in {path}")
    report.version = store.ledger.version()
    if uri is not None and (report.waves or report.known):
        report.model = follow_ledger(storage, uri, report.versions)
    report.seconds = round(time.perf_counter() - began, 1)
    return report


def _run_waves(
    stream: str,
    batches: Iterator[list[Edit]],
    parts: LocalParts,
    steps: Steps,
    sink: Sink,
    report: EditReport,
) -> None:
    def starting(wave: Wave) -> None:
        steps.start_wave(f"wave {wave.index} of {stream}: {len(wave.edits)} edits")

    for step in run_stream(stream, batches, parts.store, parts.config, parts, starting):
        sink.clash(step.admission.rejections)
        _note(step, report)


def _note(step: StreamStep, report: EditReport) -> None:
    """Add the result of a wave to the report."""
    report.known += len(step.admission.known)
    report.remarks += step.admission.remarks
    if step.report is None:
        return
    report.waves.append(step.report)
    report.remarks += step.report.remarks
    if step.report.version is None:
        report.held[step.report.key] = list(step.report.held_for)
        return
    report.committed += len(step.admission.fresh)
    report.edit_ids += [edit.id for edit in step.admission.fresh]
    report.superseded += len(step.admission.supersedes)


def _accepted(job: EditJob, parts: LocalParts, sink: Sink) -> Iterator[list[Edit]]:
    """The valid edits of a file or of rows."""
    read = ingest(
        job.source,
        make_validator(parts, job.allow_null_text),
        data_format=job.data_format,
        limit=job.limit,
        strict=job.strict,
    )
    for batch in prefetch(read, _READ_AHEAD):
        sink.reject(batch.rejections)
        sink.rows.update({e.id: row for e, row in zip(batch.edits, batch.rows, strict=True)})
        yield list(batch.edits)


def _quarantine_path(storage: Storage, stream: str, job: EditJob) -> str:
    """In the store; one file per stream and source, overwritten by each run."""
    return storage.child_uri(f"quarantine/{stream}-{job.digest[:8]}.parquet")


def promote_wave(storage: Storage, key: str, rules: WaveConfig, *, is_tracked: bool) -> int:
    """Commit and track a held wave; returns its version. Raises what `promote` raises."""
    ledger = open_ledger(storage)
    version = promote(storage, ledger, key, rules)
    if is_tracked:
        _track(storage, ledger, key, version)
    return version


def _track(storage: Storage, ledger: Ledger, key: str, version: int) -> None:
    journal = Journal(storage, key)
    tracker = open_tracker(tracking_uri_of(storage))
    tracking = WaveTracking(storage, tracker, str(ledger.manifest.base["name"]))
    results = journal.read("evaluated") | {"losses": journal.read("trained")["losses"]}
    tracking.track(read_candidate(storage, key).wave, journal, results, version)


_BATCH = 1000


@dataclass(frozen=True)
class RebaseJob:
    """The edits that are active or scheduled at a version of the store `old` (None: the newest),
    except the ids in `without`."""

    old: str
    version: int | None = None
    without: Collection[str] = ()
    locality: str | None = None
    is_tracked: bool = True


def rebase(
    job: RebaseJob, new: Storage, config: Config, runtime: Runtime | None = None
) -> EditReport:
    """Train the edits of the old ledger into the new store. Raises ScenError."""
    runtime, old = runtime or Runtime(), Storage(job.old)
    if old.uri == new.uri:
        raise ConfigError("--store: the edits need a store of their own, not the one they are in")
    ledger = open_ledger(old)
    snapshot = ledger.snapshot(job.version)
    for edit_id in job.without:
        ledger.history(edit_id)  # raises for an unknown id, which would not be erased
    valid = (*snapshot.entries, *snapshot.state.scheduled)
    entries = [entry for entry in valid if entry.edit_id not in set(job.without)]
    if not entries:
        raise ConfigError(f"{job.old}: no edit to take is active at version {snapshot.version}")
    if job.locality is not None:
        locate_input(job.locality)
    runtime.say(f"{len(entries)} edits of {old.uri} at version {snapshot.version} are taken")
    by_stream: dict[str, list[LedgerEntry]] = {}
    for entry in entries:
        by_stream.setdefault(entry.stream, []).append(entry)
    streams: dict[str, ReadEdits] = {
        name: partial(_read, entries) for name, entries in by_stream.items()
    }
    edit_job = EditJob(job.old, locality=job.locality, is_tracked=job.is_tracked)
    return apply_streams(streams, edit_job, new, config, runtime)[0]


def _read(entries: Sequence[LedgerEntry], parts: LocalParts, sink: Sink) -> Iterator[list[Edit]]:
    """The edits that are valid for the new base; the others are rejected."""
    validator = make_validator(parts, allow_null_text=True)
    for begin in range(0, len(entries), _BATCH):
        valid: list[Edit] = []
        for number, entry in enumerate(entries[begin : begin + _BATCH], begin + 1):
            values = edit_to_dict(entry.edit)
            checked = validator.check(RawRow(number, values, fields=values))
            if isinstance(checked, Rejection):
                sink.reject([checked])
                continue
            sink.rows[checked.id] = number
            valid.append(checked)
        yield valid
