"""Forecast the outcome of a run of edits. Nothing is trained or written."""

import contextlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from scen.calibration.choose_expert import bare_model
from scen.config import Config
from scen.data import Rejection, Validator, ingest
from scen.data.read import read_prompts
from scen.errors import NotFoundError
from scen.fs import Storage
from scen.ledger.actions import WaveCommit, wave_events
from scen.ledger.ledger import open_ledger
from scen.ledger.manifest import read_manifest
from scen.ledger.state import Snapshot, fold
from scen.pipeline.admit import Admission, admit
from scen.pipeline.apply import EditJob
from scen.pipeline.local import LocalParts
from scen.pipeline.near import Near, NearFinder, require_keys, set_aside
from scen.pipeline.plan import Wave, cut_waves
from scen.pipeline.runtime import count_probes, make_validator, measure_speed
from scen.pipeline.stream import with_later
from scen.records import Edit
from scen.samples import sample_path
from scen.snapshot.ask import VersionModel
from scen.snapshot.open import OpenStore, Say, load_store_base, open_store
from scen.tracking.client import NullTracker


@dataclass(frozen=True)
class Look:
    """What a forecast uses the base for: to compare prompts by the router's keys, and to answer the
    prompts of the first `answers` edits."""

    has_keys: bool = True
    answers: int = 0


@dataclass
class ForecastEdit:
    """An edit that would be committed and replace the edits `replaces` (ids), and the current
    answer to its prompt if requested."""

    id: str
    prompt: str
    target: str
    replaces: list[str]
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """An edit whose prompt the router also matches to another edit, committed or of the same run,
    with the score (see `scen.snapshot.ask.Answer`)."""

    id: str
    other: str
    score: float


@dataclass
class Forecast:
    """`admitted` are the edits that would be committed: the answers to their prompts are meant to
    change. `collisions` are near-duplicates by the router's keys, None if they were not checked.
    `waves` and `known` are counts as in `EditReport`, `version` is the current one of the ledger.
    Times are in seconds, None if unknown, and guesses if `is_rough`."""

    stream: str
    store: str
    version: int
    waves: int = 0
    known: int = 0
    admitted: list[ForecastEdit] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    collisions: list[NearDuplicate] | None = None
    train_seconds: float | None = None
    eval_seconds: float | None = None
    is_rough: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        fields = asdict(self) | {"dry_run": True}
        for row in fields["admitted"]:
            if row["answer"] is None:
                del row["answer"]
        fields["rejected"] = [
            {"id": row.id, "field": row.field, "reason": row.reason} for row in self.rejections
        ]
        del fields["rejections"]
        return fields


def forecast(
    job: EditJob,
    storage: Storage,
    config: Config,
    look: Look | None = None,
    say: Say = lambda _: None,
    opened: OpenStore | None = None,
) -> Forecast:
    """Read edits and admit them wave by wave, as if each wave were committed. `opened` is the store
    if it is open already. Raises what reading a file of edits raises, and BaseError for a base that
    cannot be loaded."""
    look = look or Look()
    stream = job.stream_name
    snapshot = now = _newest(storage)
    result = Forecast(stream, storage.uri, now.version)
    parts = _open(storage, config, look, say, opened)
    finder = _finder(parts, look, say)
    result.collisions = None if finder is None else []
    limit = config.evaluation.locality_limit
    locality = read_prompts(job.locality or sample_path("nq_locality.jsonl"), limit)
    probes = 0
    rows: dict[str, int] = {}
    batches = _batches(job, _validator(parts, config, job.allow_null_text), result, rows)
    queue = deque[Wave]()
    waves = cut_waves(stream, batches, config.waves.size, {}, config.waves.max_bytes)
    for wave in with_later(waves, queue):
        admission = admit(wave.edits, snapshot, config.waves.on_conflict)
        if finder is not None:
            admission = _compare(admission, finder.find(admission, snapshot), config, result)
        _note(admission, result, rows)
        if admission.later:
            queue.append(Wave(wave.stream, wave.index, admission.later, wave.settings))
        if admission.fresh:
            result.waves += 1
            num_earlier = len(snapshot.entries) - len(admission.supersedes)
            probes += count_probes(admission.fresh, num_earlier, len(locality), config)
            snapshot = _as_if_committed(wave, admission, snapshot)
    _estimate(result, probes, storage, config)
    if look.answers:
        edits = result.admitted[: look.answers]
        say(f"asking {len(edits)} prompts")
        if edits:
            model = _current_model(parts, now, storage, config, say)
            for edit in edits:
                edit.answer = model.ask(edit.prompt, config.evaluation.max_new_tokens).answer
    return result


def _newest(storage: Storage) -> Snapshot:
    try:
        return open_ledger(storage).snapshot()
    except NotFoundError:
        return Snapshot(0)


def _open(
    storage: Storage, config: Config, look: Look, say: Say, opened: OpenStore | None
) -> LocalParts | None:
    """The store with its base; None if the store does not exist or the base is not needed."""
    if not (look.has_keys or look.answers):
        return None
    try:
        manifest = read_manifest(storage)
    except NotFoundError:
        return None
    needs_weights = bool(look.answers) or "router" in manifest.artifacts
    store = opened or open_store(storage, config.base, say, weights=needs_weights)
    if config.waves.on_collision == "quarantine":
        require_keys(store)
    return LocalParts(store, config, (), NullTracker())


def _finder(parts: LocalParts | None, look: Look, say: Say) -> NearFinder | None:
    if parts is None or parts.store.loader.router is None or not look.has_keys:
        return None
    say("reading the keys of the new prompts")
    return NearFinder(parts.store, parts.read_keys)


def _validator(parts: LocalParts | None, config: Config, allow_null_text: bool) -> Validator:
    """A validator; it checks token counts if the base is loaded."""
    if parts is not None:
        return make_validator(parts, allow_null_text)
    return Validator(
        may_contradict=config.waves.on_conflict != "quarantine", allow_null_text=allow_null_text
    )


def _batches(
    job: EditJob, validator: Validator, result: Forecast, rows: dict[str, int]
) -> Iterator[list[Edit]]:
    read = ingest(
        job.source, validator, data_format=job.data_format, limit=job.limit, strict=job.strict
    )
    for batch in read:
        result.rejections += batch.rejections
        rows.update({e.id: row for e, row in zip(batch.edits, batch.rows, strict=True)})
        yield list(batch.edits)


def _compare(
    admission: Admission, near: Sequence[Near], config: Config, result: Forecast
) -> Admission:
    """Record near-duplicates, and set them aside if the run would."""
    assert result.collisions is not None
    result.collisions += [
        NearDuplicate(pair.edit.id, pair.other_id, round(pair.score, 4)) for pair in near
    ]
    is_strict = config.waves.on_collision == "quarantine"
    return set_aside(admission, near) if is_strict else admission


def _note(admission: Admission, result: Forecast, rows: Mapping[str, int]) -> None:
    replaced: dict[str, list[str]] = {}
    for older, newer in admission.supersedes.items():
        replaced.setdefault(newer, []).append(older)
    result.known += len(admission.known)
    result.remarks += admission.remarks
    result.rejections += [clash.as_rejection(rows[clash.edit.id]) for clash in admission.rejections]
    result.admitted += [
        ForecastEdit(e.id, e.prompt, e.target, replaced.get(e.id, [])) for e in admission.fresh
    ]


def _as_if_committed(wave: Wave, admission: Admission, snapshot: Snapshot) -> Snapshot:
    version = snapshot.version + 1
    commit = WaveCommit(
        wave.key,
        wave.stream,
        wave.index,
        "",
        admission.fresh,
        supersedes=admission.supersedes,
        as_of=admission.as_of,
    )
    events = wave_events(commit, snapshot.state, version, datetime.now(UTC))
    return Snapshot(version, fold(snapshot.state, events))


def _estimate(result: Forecast, probes: int, storage: Storage, config: Config) -> None:
    name = config.base.name
    with contextlib.suppress(NotFoundError):
        name = str(read_manifest(storage).base["name"])
    speed = measure_speed(storage, name)
    if speed is not None:
        result.train_seconds = round(speed.per_edit * len(result.admitted), 3)
        result.eval_seconds = round(speed.per_probe * probes, 3)
        result.is_rough = speed.is_rough


def _current_model(
    parts: LocalParts | None, snapshot: Snapshot, storage: Storage, config: Config, say: Say
) -> VersionModel:
    """The model of the store, or the bare base if there is no store yet."""
    if parts is not None:
        return parts.store.at(snapshot)
    base = load_store_base(storage, config.base, say)
    return VersionModel(base, bare_model(base), (), 0, 1.0)
