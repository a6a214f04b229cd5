"""Waves and edits of a store, and their measurements, for a report."""

import json
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from scen.errors import IntegrityError
from scen.evaluation.metrics import EvalReport, Outcome
from scen.fs import Storage
from scen.ledger.events import LedgerEntry
from scen.ledger.state import State
from scen.ledger.view import LogEntry
from scen.pipeline.plan import Journal
from scen.records import Edit, edit_from_dict

Status = Literal["committed", "promoted", "held", "rejected", "unfinished"]


@dataclass(frozen=True)
class WaveFacts:
    """A wave according to its journal and the ledger.

    `commit` is None if the ledger does not have it (see `status`); `report`, `seconds` and
    `bytes_per_edit` are None if it was not measured or its journal is gone. `threshold` (the score
    above which an edit answers) and `latency` are missing in journals of earlier releases.
    `reasons` are the gate's.
    """

    key: str
    stream: str
    index: int
    num_edits: int
    status: Status
    commit: LogEntry | None = None
    report: EvalReport | None = None
    seconds: float | None = None
    bytes_per_edit: float | None = None
    outcomes_path: str | None = None
    threshold: float | None = None
    latency: Mapping[str, float] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    held_at: datetime | None = None

    @property
    def version(self) -> int | None:
        """The version that committed it."""
        return None if self.commit is None else self.commit.version

    @property
    def name(self) -> str:
        """For people: `news, wave 3`."""
        return f"{self.stream}, wave {self.index}"

    @property
    def edits_per_second(self) -> float | None:
        """The speed of training."""
        return self.num_edits / self.seconds if self.seconds else None


class WaveReader:
    """Reads the journals of a store's waves."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._steps: dict[str, set[str]] = defaultdict(set)
        for name in storage.names("waves"):
            _, key, *rest = name.split("/")
            if len(rest) == 1 and rest[0].endswith(".json"):
                self._steps[key].add(rest[0].removesuffix(".json"))

    def committed(self, commit: LogEntry, stream: str, index: int) -> WaveFacts:
        """The wave of a commit, with the facts of its journal if that still exists."""
        key, count = commit.wave_key, commit.num_edits
        status: Status = "promoted" if "promoted" in self._steps[key] else "committed"
        return WaveFacts(key, stream, index, count, status, commit, **self._measured(key))

    def uncommitted(self, committed: Container[str]) -> Iterator[WaveFacts]:
        """The planned waves that are in no commit, in the order of their keys."""
        for key in sorted(self._steps):
            steps = self._steps[key]
            if key in committed or "planned" not in steps:
                continue
            status: Status = "unfinished"
            if "rejected" in steps:
                status = "rejected"
            elif "held" in steps:
                status = "held"
            planned, facts = _read(Journal(self._storage, key), "planned"), self._measured(key)
            stream, index, count = planned["stream"], planned["index"], len(planned["edit_ids"])
            yield WaveFacts(key, stream, index, count, status, **facts)

    def _measured(self, key: str) -> dict[str, Any]:
        """The fields of `WaveFacts` from the journal."""
        journal, steps, facts = Journal(self._storage, key), self._steps[key], {}
        if "evaluated" in steps:
            evaluated = _read(journal, "evaluated")
            facts = {name: evaluated[name] for name in ("seconds", "bytes_per_edit")} | {
                "report": EvalReport(**evaluated["report"]),
                "outcomes_path": evaluated["per_edit_path"],
                "threshold": evaluated.get("threshold"),
                "latency": evaluated.get("latency", {}),
            }
        if "held" in steps:
            held = _read(journal, "held")
            at = datetime.fromisoformat(held["at"])
            facts |= {"reasons": tuple(held["reasons"]), "held_at": at}
        return facts


def wave_outcomes(storage: Storage, wave: WaveFacts) -> list[Outcome]:
    """The outcomes of a wave's probes; empty if it was not measured. Raises NotFoundError,
    IntegrityError."""
    return [] if wave.outcomes_path is None else read_outcomes(storage, wave.outcomes_path)


def measured_outcomes(storage: Storage, wave_key: str) -> list[Outcome]:
    """As `wave_outcomes`, by the wave's key; empty also if its journal is gone."""
    journal = Journal(storage, wave_key)
    if not journal.has("evaluated"):
        return []
    return read_outcomes(storage, _read(journal, "evaluated")["per_edit_path"])


def wave_losses(storage: Storage, wave: WaveFacts) -> list[list[float]]:
    """The loss curve of each edit of a wave; empty if it was not trained or its journal is gone."""
    journal = Journal(storage, wave.key)
    return list(_read(journal, "trained")["losses"]) if journal.has("trained") else []


def held_edits(storage: Storage, wave: WaveFacts) -> list[Edit]:
    """The edits of a wave that the gate holds."""
    return [edit_from_dict(row) for row in _read(Journal(storage, wave.key), "held")["edits"]]


def frequent_sources(waves: Iterable[WaveFacts]) -> list[str]:
    """The sources of rephrases, most frequent first."""
    counts: Counter[str] = Counter()
    for wave in waves:
        if wave.report is not None:
            for source in wave.report.generality:
                counts[source] += wave.report.counts[f"generality_{source}"]
    return [source for source, _ in counts.most_common()]


def read_outcomes(storage: Storage, path: str) -> list[Outcome]:
    """The outcomes of an evaluation, one JSON line each. Raises NotFoundError, IntegrityError where
    the file is truncated or changed."""
    try:
        rows = [json.loads(line) for line in storage.read(path).splitlines()]
        return [Outcome.from_row(row) for row in rows]
    except (ValueError, TypeError) as err:
        raise IntegrityError(
            f"{storage.child_uri(path)} is cut off or changed ({err}): restore it from a backup, "
            "or delete it to have a report without it"
        ) from err


def _read(journal: Journal, step: str) -> dict[str, Any]:
    """The result of a step. Raises NotFoundError, IntegrityError if it is damaged."""
    try:
        return journal.read(step)
    except ValueError as err:
        raise IntegrityError(
            f"{journal.folder}/{step}.json is cut off or changed ({err}): restore it from a backup"
        ) from err


class Answers:
    """The latest measured answer of each edit. Measurements are added in the order of their
    versions, and later ones replace earlier ones."""

    def __init__(self) -> None:
        self._answers: dict[str, dict[str, Any]] = {}

    def add(self, version: int | None, outcomes: Iterable[Outcome]) -> None:
        """Add the outcomes measured on a version (for a wave: the version that it made; None if the
        ledger does not have it)."""
        hits: dict[tuple[str, str], list[bool]] = defaultdict(list)
        for o in outcomes:
            edit_id, kind = o.probe.edit_id, o.probe.kind
            if edit_id is None:
                continue
            if kind in ("reliability", "retention"):
                answer: dict[str, Any] = {
                    "before": o.before,
                    "after": o.after,
                    "routed_to": o.routed_to,
                }
                answer |= {"score": o.score, "exact": o.is_exact, "measured_at": version}
                self._of(edit_id).update(answer)
            elif kind == "generality":
                hits[edit_id, "rephrases"].append(o.is_exact)
            elif kind == "near_miss":
                hits[edit_id, "near_misses"].append(o.is_unchanged)
        for (edit_id, name), right in hits.items():
            self._of(edit_id).update({name: len(right), f"{name}_right": sum(right)})

    def of(self, edit_id: str) -> Mapping[str, Any]:
        """The measurements of an edit; empty if there are none."""
        return self._answers.get(edit_id, {})

    def _of(self, edit_id: str) -> dict[str, Any]:
        return self._answers.setdefault(edit_id, {})


def committed_rows(
    entries: Iterable[LedgerEntry], state: State, answers: Answers
) -> Iterator[dict[str, Any]]:
    """A row per edit of the ledger, active or not."""
    for entry in entries:
        status = "active" if state.is_active(entry.edit_id) else state.describe(entry.edit_id)
        place = {"stream": entry.stream, "wave": entry.wave, "version": entry.version}
        yield _row(entry.edit, answers) | place | {"status": status}


def held_rows(
    edits: Iterable[Edit], stream: str, wave: int, answers: Answers
) -> Iterator[dict[str, Any]]:
    """A row per edit of a wave that the gate holds."""
    for edit in edits:
        place = {"stream": stream, "wave": wave, "version": None, "status": "held"}
        yield _row(edit, answers) | place


def worst(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The active and held edits whose prompt is not answered exactly, or not by the edit itself,
    worst first."""

    def rank(row: Mapping[str, Any]) -> tuple[bool, bool]:
        return row["exact"], row["routed_to"] == row["edit_id"]

    measured = [
        row for row in rows if row["status"] in ("active", "held") and row.get("exact") is not None
    ]
    return sorted((row for row in measured if rank(row) != (True, True)), key=rank)


def answered_by(row: Mapping[str, Any]) -> str:
    """The source of the answer to an edit's prompt, in words."""
    if row["routed_to"] is None:
        return "the base"
    return "itself" if row["routed_to"] == row["edit_id"] else f"edit {row['routed_to']}"


def _row(edit: Edit, answers: Answers) -> dict[str, Any]:
    return {"edit_id": edit.id, "prompt": edit.prompt, "target": edit.target} | dict(
        answers.of(edit.id)
    )
