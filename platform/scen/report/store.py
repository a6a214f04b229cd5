"""The facts about a store for a report, read from its ledger and files."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scen.errors import IntegrityError, NotFoundError
from scen.evaluation.metrics import EvalReport, Outcome, summarise
from scen.fs import Storage, StoredFile
from scen.ledger.events import Event
from scen.ledger.ledger import open_ledger
from scen.ledger.manifest import StoreManifest
from scen.ledger.state import Snapshot
from scen.ledger.view import LogEntry, LogFilter
from scen.pipeline.wave_facts import (
    Answers,
    WaveFacts,
    WaveReader,
    committed_rows,
    held_edits,
    held_rows,
    read_outcomes,
    wave_outcomes,
)

_ACTIVE_AFTER = {"committed", "activated", "restored"}
_EVALUATION = re.compile(r"evaluations/v(\d+)-[0-9a-f]+\.jsonl")
_MAX_EVALUATIONS = 20
# The parts that differ between reasons of one kind: quoted words, ids, numbers.
_PARTICULAR = re.compile(r"""'[^']*'|"[^"]*"|\b(?:edit|row|wave) \S+|\d+""")


@dataclass(frozen=True, slots=True)
class Wanted:
    """The options of a report: `version` (None: the newest), `stream` (None: all), at most `limit`
    rows of a table on the page, and plots of the newest `plots` waves and streams."""

    version: int | None = None
    stream: str | None = None
    limit: int = 50
    plots: int = 8


@dataclass(frozen=True, slots=True)
class EvaluationFacts:
    """An evaluation of a version by `scen eval`; `path` is its file of outcomes."""

    version: int
    measured_at: datetime
    path: str
    report: EvalReport


@dataclass(frozen=True)
class StoreFacts:
    """A store at a version, or one stream of it.

    `life` is the number of active edits after each version from 0 on; `waves` are those of the
    ledger in its order, then those in no commit; `edits` has a row per edit;
    `refused` counts edits submitted one by one that no wave took.
    """

    uri: str
    manifest: StoreManifest
    newest: int
    snapshot: Snapshot
    stream: str | None
    streams: tuple[str, ...]
    commits: tuple[LogEntry, ...]
    life: tuple[int, ...]
    waves: tuple[WaveFacts, ...]
    evaluations: tuple[EvaluationFacts, ...]
    edits: tuple[Mapping[str, Any], ...]
    quarantine: tuple[Mapping[str, Any], ...]
    refused: int

    @property
    def version(self) -> int:
        """The version of the report."""
        return self.snapshot.version

    @cached_property
    def measured_waves(self) -> tuple[WaveFacts, ...]:
        """The committed waves that were measured, the oldest first."""
        return tuple(w for w in self.waves if w.commit is not None and w.report is not None)

    def waves_of(self, status: str) -> list[WaveFacts]:
        """The waves of one status."""
        return [wave for wave in self.waves if wave.status == status]


def read_store(storage: Storage, wanted: Wanted) -> StoreFacts:
    """Read a store. Raises NotFoundError for a missing store, version or stream, IntegrityError if
    a file is damaged."""
    ledger = open_ledger(storage)
    snapshot, log = ledger.snapshot(wanted.version), ledger.log()
    newest = snapshot.version if wanted.version is None else ledger.version()
    waves = _waves(storage, log, snapshot, is_newest=snapshot.version == newest)
    streams = _streams(snapshot, waves, wanted.stream)
    waves = [wave for wave in waves if wave.stream in streams]
    commits = LogFilter(wanted.stream).keep(e for e in log if e.version <= snapshot.version)
    answers, evaluations = _answers(storage, snapshot, waves, streams)
    return StoreFacts(
        uri=storage.uri,
        manifest=ledger.manifest,
        newest=newest,
        snapshot=snapshot,
        stream=wanted.stream,
        streams=streams,
        commits=tuple(commits),
        life=_life(ledger.events(), snapshot, streams),
        waves=tuple(waves),
        evaluations=tuple(evaluations),
        edits=tuple(_edits(storage, snapshot, waves, streams, answers)),
        quarantine=tuple(read_quarantine(storage, wanted.stream)),
        refused=sum(len(storage.names(f"inbox/{stream}/rejected")) for stream in streams),
    )


def newest_evaluations(storage: Storage, version: int) -> list[tuple[int, StoredFile]]:
    """The files of the last 20 evaluations up to a version, the oldest version first."""
    matches = [
        (int(match[1]), file)
        for file in storage.files("evaluations")
        if (match := _EVALUATION.fullmatch(file.path)) is not None and int(match[1]) <= version
    ]
    return sorted(matches, key=lambda pair: (pair[0], pair[1].written_at))[-_MAX_EVALUATIONS:]


def evaluation_outcomes(
    storage: Storage, path: str, snapshot: Snapshot, streams: Sequence[str]
) -> list[Outcome]:
    """The outcomes of an evaluation, without those about edits of other streams. Raises
    IntegrityError."""
    entries = snapshot.state.entries
    return [
        outcome
        for outcome in read_outcomes(storage, path)
        if (edit_id := outcome.probe.edit_id or "") not in entries
        or entries[edit_id].stream in streams
    ]


def read_quarantine(storage: Storage, stream: str | None) -> list[dict[str, Any]]:
    """The rows that the latest run of each file set aside (file, row, id, field, reason, raw), of
    one stream or all. Raises IntegrityError if a file is damaged."""
    own = ".*" if stream is None else rf"{re.escape(stream)}-[0-9a-f]{{8}}"
    set_aside = []
    for name in storage.names("quarantine"):
        file = name.rpartition("/")[2]
        if not re.fullmatch(rf"{own}\.parquet", file):
            continue
        try:
            rows = pq.read_table(BytesIO(storage.read(name))).to_pylist()
        except (OSError, ValueError, pa.ArrowException) as err:
            raise IntegrityError(
                f"{storage.child_uri(name)} cannot be read ({str(err).splitlines()[0][:200]}): run "
                "its file of edits again, or delete it"
            ) from err
        set_aside += [{"file": file} | row for row in rows]
    return set_aside


def group_reasons(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Kinds of reasons, most frequent first, with the number of rows and the first row of each."""
    counts: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in rows:
        kind = (row["field"], _PARTICULAR.sub("", row["reason"]))
        counts[kind] += 1
        first.setdefault(kind, row)
    return [{"rows": count, **first[kind]} for kind, count in counts.most_common()]


def _waves(
    storage: Storage, log: Sequence[LogEntry], snapshot: Snapshot, *, is_newest: bool
) -> list[WaveFacts]:
    """The waves up to a version; uncommitted ones belong to the newest version only."""
    reader = WaveReader(storage)
    places = {e.wave_key: (e.stream, e.wave) for e in snapshot.state.entries.values()}
    commits = [entry for entry in log if entry.wave_key in places]
    waves = [reader.committed(commit, *places[commit.wave_key]) for commit in commits]
    return waves + (
        list(reader.uncommitted({entry.wave_key for entry in log})) if is_newest else []
    )


def _streams(snapshot: Snapshot, waves: Iterable[WaveFacts], wanted: str | None) -> tuple[str, ...]:
    known = sorted({wave.stream for wave in waves})
    if wanted is None:
        return tuple(known)
    if wanted not in known:
        raise NotFoundError(
            f"--stream: {wanted!r} is not in version {snapshot.version}; it has "
            f"{', '.join(known) or 'no stream'}"
        )
    return (wanted,)


def _answers(
    storage: Storage, snapshot: Snapshot, waves: Iterable[WaveFacts], streams: Sequence[str]
) -> tuple[Answers, list[EvaluationFacts]]:
    """The latest answer of each edit, from its wave, later waves and evaluations."""
    answers, evaluations = Answers(), []
    waves = [wave for wave in waves if wave.version is not None]
    measured: list[tuple[int, WaveFacts | StoredFile]] = [(w.version or 0, w) for w in waves]
    measured += newest_evaluations(storage, snapshot.version)
    for version, source in sorted(measured, key=lambda pair: pair[0]):  # stable: evaluations last
        if isinstance(source, WaveFacts):
            outcomes = wave_outcomes(storage, source)
        else:
            outcomes = evaluation_outcomes(storage, source.path, snapshot, streams)
            figures = summarise(outcomes)
            evaluations.append(EvaluationFacts(version, source.written_at, source.path, figures))
        answers.add(version, outcomes)
    return answers, evaluations


def _edits(
    storage: Storage,
    snapshot: Snapshot,
    waves: Iterable[WaveFacts],
    streams: Sequence[str],
    answers: Answers,
) -> Iterable[dict[str, Any]]:
    entries = [e for e in snapshot.state.entries.values() if e.stream in streams]
    yield from committed_rows(entries, snapshot.state, answers)
    for wave in waves:
        if wave.status == "held":
            own = Answers()
            own.add(None, wave_outcomes(storage, wave))
            yield from held_rows(held_edits(storage, wave), wave.stream, wave.index, own)


def _life(events: Iterable[Event], snapshot: Snapshot, streams: Sequence[str]) -> tuple[int, ...]:
    entries = snapshot.state.entries
    by_version: dict[int, list[Event]] = {}
    for event in events:
        entry = entries.get(event.edit_id)  # None: a change of the router
        if entry and event.version <= snapshot.version and entry.stream in streams:
            by_version.setdefault(event.version, []).append(event)
    counts, active = [], set[str]()
    for version in range(snapshot.version + 1):
        for event in by_version.get(version, ()):
            change = active.add if event.kind in _ACTIVE_AFTER else active.discard
            change(event.edit_id)
        counts.append(len(active))
    return tuple(counts)
