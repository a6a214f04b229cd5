"""What `scen edit` and `scen demo` do: a file of edits becomes committed, tracked waves."""

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from scen.cli.model_sync import follow_ledger
from scen.cli.output import StepProgress, say, step_progress
from scen.config import Config
from scen.errors import InputError
from scen.fs import Storage
from scen.ingest import QuarantineFile, Rejection, Validator, ingest
from scen.ingest.location import locate_input
from scen.ingest.prompts import read_prompts
from scen.records import Edit, digest_json, edit_to_dict
from scen.samples import sample_path
from scen.snapshot.open import OpenStore, ReadElsewhere, create_store
from scen.tracking.open_tracker import open_tracker
from scen.tracking.tracker import NullTracker
from scen.tracking.tracking_uri import default_tracking_uri
from scen.waves.admit import Clash
from scen.waves.local import LocalParts
from scen.waves.plan import Wave
from scen.waves.prefetch import prefetch
from scen.waves.run_stream import check_name, name_stream, run_stream

_READ_AHEAD = 2  # batches of rows

MakeParts = Callable[..., LocalParts]  # called with the fields of `LocalParts`, in their order


@dataclass(frozen=True)
class EditJob:
    """A file of edits, and how it is to be read."""

    file: str
    stream: str | None = None
    data_format: str = "auto"
    limit: int | None = None
    strict: bool = False
    locality: str | None = None
    is_tracked: bool = True


@dataclass
class EditSummary:
    """What the run came to. `known` edits were committed before, letter for letter; `superseded`
    ones gave their place to some of the run's; `held` waves wait for `scen promote`, with the
    reasons; `remarks` are worth a look; `model` is registered in MLflow."""

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
    waves: list[dict[str, Any]] = field(default_factory=list)


# Yields the edits of a stream, batch by batch, puts the others to quarantine, and fills the row
# number of each edit by its id.
ReadEdits = Callable[[LocalParts, QuarantineFile, dict[str, int]], Iterator[list[Edit]]]


def apply_edits(
    job: EditJob,
    storage: Storage,
    config: Config,
    make_parts: MakeParts = LocalParts,
    elsewhere: ReadElsewhere | None = None,
) -> tuple[EditSummary, OpenStore]:
    """Ingest, train, evaluate, commit and track. Raises ScenError.

    `make_parts` says where the work is done: in this process, or on a cluster, whose workers then
    read what a new store needs of its base (`elsewhere`).
    """
    stream = check_name(job.stream or name_stream(job.file))
    locate_input(job.file)  # before a store is made for nothing
    streams = {stream: partial(_accepted, job)}
    return apply_streams(streams, job, storage, config, make_parts, elsewhere)


def apply_streams(
    streams: Mapping[str, ReadEdits],
    job: EditJob,
    storage: Storage,
    config: Config,
    make_parts: MakeParts = LocalParts,
    elsewhere: ReadElsewhere | None = None,
) -> tuple[EditSummary, OpenStore]:
    """Run these streams, one after the other. Raises ScenError."""
    began = time.perf_counter()
    if job.locality is not None:
        locate_input(job.locality)
    neutral = read_prompts(sample_path("nq_neutral.jsonl"))
    store = create_store(storage, config, neutral, say, elsewhere)
    uri = tracking_uri_of(storage) if job.is_tracked else None
    name = ", ".join(streams)
    summary = EditSummary(name, storage.uri, tracking_uri=uri)
    path = _quarantine_path(storage, name if len(streams) == 1 else "streams", job)
    with step_progress() as bars, QuarantineFile(path) as quarantine:
        parts = open_parts(store, config, bars, job.locality, uri, make_parts)
        for stream, read in streams.items():
            _run_waves(stream, read, parts, bars, quarantine, summary)
        summary.rejected = quarantine.num_rows
    if summary.rejected:
        summary.quarantine = path
        say(f"{summary.rejected} rows were rejected; the reasons are in {path}")
    if not summary.waves and not summary.known:
        raise InputError(f"{job.file}: none of its rows is a usable edit; see {path}")
    summary.version = store.ledger.version()
    if uri is not None:
        committed = [wave["version"] for wave in summary.waves if wave["version"] is not None]
        summary.model = follow_ledger(storage, uri, committed)
    summary.seconds = round(time.perf_counter() - began, 1)
    return summary, store


def open_parts(
    store: OpenStore,
    config: Config,
    bars: StepProgress,
    locality: str | None,
    tracking_uri: str | None,
    make_parts: MakeParts,
) -> LocalParts:
    """What runs waves, with the locality prompts of a file, or of the sample, and a tracker."""
    prompts = read_prompts(
        locality or sample_path("nq_locality.jsonl"), config.evaluation.locality_limit
    )
    tracker = open_tracker(tracking_uri) if tracking_uri else NullTracker()
    return make_parts(store, config, prompts, tracker, bars)


def tracking_uri_of(storage: Storage) -> str:
    """Where the waves of a store are tracked: the environment's MLflow, or one in the store."""
    return default_tracking_uri(storage.local_path if storage.is_local else None)


def make_validator(parts: LocalParts) -> Validator:
    """A validator that knows the tokens of the base."""
    tokenizer = copy.deepcopy(parts.store.base.tokenizer)  # used by the thread that reads ahead

    def tokenize(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    may_contradict = parts.config.waves.on_conflict != "quarantine"
    return Validator(
        tokenize=tokenize, unk_id=tokenizer.unk_token_id, may_contradict=may_contradict
    )


def _run_waves(
    stream: str,
    read: ReadEdits,
    parts: LocalParts,
    bars: StepProgress,
    quarantine: QuarantineFile,
    summary: EditSummary,
) -> None:
    rows: dict[str, int] = {}

    def starting(wave: Wave) -> None:
        bars.start_wave(f"wave {wave.index} of {stream}: {len(wave.edits)} edits")

    batches = read(parts, quarantine, rows)
    for step in run_stream(stream, batches, parts.store, parts.config, parts, starting):
        quarantine.add([_rejection(clash, rows) for clash in step.admission.rejections])
        summary.known += len(step.admission.known)
        summary.remarks += step.admission.remarks
        if step.report is not None:
            summary.waves.append(asdict(step.report))
            summary.remarks += step.report.remarks
            if step.report.version is None:
                summary.held[step.report.key] = list(step.report.held_for)
                continue
            summary.committed += len(step.admission.fresh)
            summary.superseded += len(step.admission.supersedes)


def _accepted(
    job: EditJob, parts: LocalParts, quarantine: QuarantineFile, rows: dict[str, int]
) -> Iterator[list[Edit]]:
    """The valid edits of a file."""
    validator = make_validator(parts)
    read = ingest(
        job.file, validator, data_format=job.data_format, limit=job.limit, strict=job.strict
    )
    for batch in prefetch(read, _READ_AHEAD):
        quarantine.add(batch.rejections)
        rows.update({e.id: row for e, row in zip(batch.edits, batch.rows, strict=True)})
        yield list(batch.edits)


def _rejection(clash: Clash, rows: dict[str, int]) -> Rejection:
    raw = str(edit_to_dict(clash.edit))
    return Rejection(rows[clash.edit.id], clash.edit.id, clash.field, clash.reason, raw)


def _quarantine_path(storage: Storage, stream: str, job: EditJob) -> str:
    """Beside the store's other files; one per stream and file, renewed by each run."""
    return storage.child_uri(f"quarantine/{stream}-{digest_json(job.file)[:8]}.parquet")
