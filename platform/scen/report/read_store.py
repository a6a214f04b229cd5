"""All that a report tells of a store, read from its ledger and its files."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from scen.errors import NotFoundError
from scen.fs import Storage
from scen.ledger.events import Event
from scen.ledger.ledger import open_ledger
from scen.ledger.log import LogEntry, LogFilter
from scen.ledger.manifest import StoreManifest
from scen.ledger.state import Snapshot
from scen.report.edit_rows import Answers, committed_rows, held_rows
from scen.report.read_evaluations import EvaluationFacts, EvaluationFile, newest_evaluations
from scen.report.read_probes import Rows, read_rows, summarise_rows
from scen.report.read_quarantine import count_refused, read_quarantine
from scen.report.read_waves import WaveFacts, WaveReader, held_edits, wave_rows

_ACTIVE_AFTER = {"committed", "activated", "restored"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a report is of, None for the newest version and for all streams; and how long it is:
    `limit` rows of a table on the page, plots of the newest `plots` waves and streams."""

    version: int | None = None
    stream: str | None = None
    limit: int = 50
    plots: int = 8


@dataclass(frozen=True)
class StoreFacts:
    """A store at a version, or one stream of it. `life` has the number of active edits after each
    version from 0 on; `waves` those of the ledger in its order, then those that are in no commit;
    `edits` a row per edit (see `edit_rows`); `refused` how many edits that were handed in one by
    one came into no wave."""

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
        """The version that is told of."""
        return self.snapshot.version

    @cached_property
    def measured_waves(self) -> tuple[WaveFacts, ...]:
        """The waves of the ledger that were measured, the oldest first."""
        return tuple(w for w in self.waves if w.commit is not None and w.report is not None)

    def waves_of(self, status: str) -> list[WaveFacts]:
        """The waves of one status."""
        return [wave for wave in self.waves if wave.status == status]


def read_store(storage: Storage, wanted: Wanted) -> StoreFacts:
    """Read a store. Raises NotFoundError for a store, version or stream that is not there,
    IntegrityError where a file is damaged."""
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
        refused=count_refused(storage, streams),
    )


def _waves(
    storage: Storage, log: Sequence[LogEntry], snapshot: Snapshot, *, is_newest: bool
) -> list[WaveFacts]:
    """The waves up to a version; those in no commit belong to the newest one only."""
    reader = WaveReader(storage)
    places = {e.wave_key: (e.stream, e.wave) for e in snapshot.state.entries.values()}
    told = [entry for entry in log if entry.wave_key in places]
    waves = [reader.committed(entry, *places[entry.wave_key]) for entry in told]
    return waves + (list(reader.loose({entry.wave_key for entry in log})) if is_newest else [])


def _streams(snapshot: Snapshot, waves: Iterable[WaveFacts], wanted: str | None) -> tuple[str, ...]:
    found = sorted({wave.stream for wave in waves})
    if wanted is None:
        return tuple(found)
    if wanted not in found:
        raise NotFoundError(
            f"--stream: {wanted!r} is not in version {snapshot.version}; it has "
            f"{', '.join(found) or 'no stream'}"
        )
    return (wanted,)


def _answers(
    storage: Storage, snapshot: Snapshot, waves: Iterable[WaveFacts], streams: Sequence[str]
) -> tuple[Answers, list[EvaluationFacts]]:
    """What each edit answered last, by its wave, by later waves and by evaluations."""
    answers, evaluations = Answers(), []
    found: list[WaveFacts | EvaluationFile] = [wave for wave in waves if wave.commit is not None]
    found += newest_evaluations(storage, snapshot.version)
    for measured in sorted(found, key=_place):
        if isinstance(measured, WaveFacts):
            answers.add(measured.version, wave_rows(storage, measured))
        else:
            rows = evaluation_rows(storage, measured, snapshot, streams)
            evaluations.append(EvaluationFacts(measured, summarise_rows(rows)))
            answers.add(measured.version, rows)
    return answers, evaluations


def _place(measured: WaveFacts | EvaluationFile) -> tuple[int, bool]:
    return measured.version or 0, isinstance(measured, EvaluationFile)


def evaluation_rows(
    storage: Storage, file: EvaluationFile, snapshot: Snapshot, streams: Sequence[str]
) -> Rows:
    """The outcomes of an evaluation, less those about edits of other streams. Raises
    IntegrityError."""
    entries = snapshot.state.entries
    return [
        row
        for row in read_rows(storage, file.path)
        if row["edit_id"] not in entries or entries[row["edit_id"]].stream in streams
    ]


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
            own.add(None, wave_rows(storage, wave))
            yield from held_rows(held_edits(storage, wave), wave.stream, wave.index, own)


def _life(events: Iterable[Event], snapshot: Snapshot, streams: Sequence[str]) -> tuple[int, ...]:
    entries = snapshot.state.entries
    by_version: dict[int, list[Event]] = {}
    for event in events:
        if event.version <= snapshot.version and entries[event.edit_id].stream in streams:
            by_version.setdefault(event.version, []).append(event)
    counts, active = [], set[str]()
    for version in range(snapshot.version + 1):
        for event in by_version.get(version, ()):
            change = active.add if event.kind in _ACTIVE_AFTER else active.discard
            change(event.edit_id)
        counts.append(len(active))
    return tuple(counts)
