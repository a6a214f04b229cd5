"""Edits become committed, tracked waves: what `Store.edit`, `scen edit` and its job do."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from scen.config import Config
from scen.data import QuarantineFile, Rejection, ingest
from scen.fs import Storage
from scen.pipeline.edit_report import EditJob, EditReport
from scen.pipeline.model_sync import follow_ledger
from scen.pipeline.runtime import (
    Runtime,
    Steps,
    make_store,
    make_validator,
    open_parts,
    tracking_uri_of,
)
from scen.records import Edit
from scen.snapshot.open import OpenStore
from scen.waves.admit import Clash
from scen.waves.local import LocalParts
from scen.waves.plan import Wave
from scen.waves.prefetch import prefetch
from scen.waves.run_stream import StreamStep, run_stream

_READ_AHEAD = 2  # batches of rows


class Sink:
    """Takes the rejected rows of a run, and knows the row number of each edit by its id."""

    def __init__(self, quarantine: QuarantineFile, report: EditReport) -> None:
        self.rows: dict[str, int] = {}
        self._quarantine, self._report = quarantine, report

    def reject(self, rejections: Sequence[Rejection]) -> None:
        """Write them down and report them."""
        self._quarantine.add(rejections)
        self._report.reject(rejections)
        self._report.rejected = self._quarantine.num_rows

    def clash(self, clashes: Sequence[Clash]) -> None:
        """Reject edits that do not go with others."""
        self.reject([clash.as_rejection(self.rows[clash.edit.id]) for clash in clashes])


# Yields the edits of a stream, batch by batch, and gives the others to the sink.
ReadEdits = Callable[[LocalParts, Sink], Iterator[list[Edit]]]


def apply_edits(
    job: EditJob, storage: Storage, config: Config, runtime: Runtime | None = None
) -> tuple[EditReport, OpenStore]:
    """Open or make the store, then ingest, train, evaluate, commit and track. Raises ScenError."""
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
    """Open or make the store, and run these streams. Raises ScenError."""
    began, runtime = time.perf_counter(), runtime or Runtime()
    store = make_store(storage, config, runtime)
    report = run_streams(streams, job, store, config, runtime)
    report.seconds = round(time.perf_counter() - began, 1)
    return report, store


def run_edits(job: EditJob, store: OpenStore, config: Config, runtime: Runtime) -> EditReport:
    """The same as `apply_edits` in a store that is open for editing. Raises ScenError."""
    job.check()
    return run_streams({job.stream_name: partial(_accepted, job)}, job, store, config, runtime)


def run_streams(
    streams: Mapping[str, ReadEdits],
    job: EditJob,
    store: OpenStore,
    config: Config,
    runtime: Runtime,
) -> EditReport:
    """Run these streams, one after the other. Raises ScenError."""
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
    """Count what a wave came to."""
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
        make_validator(parts),
        data_format=job.data_format,
        limit=job.limit,
        strict=job.strict,
    )
    for batch in prefetch(read, _READ_AHEAD):
        sink.reject(batch.rejections)
        sink.rows.update({e.id: row for e, row in zip(batch.edits, batch.rows, strict=True)})
        yield list(batch.edits)


def _quarantine_path(storage: Storage, stream: str, job: EditJob) -> str:
    """Beside the store's other files; one per stream and source, renewed by each run."""
    return storage.child_uri(f"quarantine/{stream}-{job.digest[:8]}.parquet")
