"""The waves of a store, from its log and their journals."""

from collections import defaultdict
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from scen.errors import IntegrityError
from scen.evaluation.metrics import EvalReport
from scen.fs import Storage
from scen.ledger.log import LogEntry
from scen.pipeline.plan import Journal
from scen.records import Edit, edit_from_dict
from scen.report.read_probes import read_rows

Status = Literal["committed", "promoted", "held", "rejected", "unfinished"]


@dataclass(frozen=True)
class WaveFacts:
    """A wave as its journal and the ledger tell of it. `commit` is None where the ledger has it not
    (then see `status`); `report`, `seconds` and `bytes_per_edit` where it was not measured, or its
    journal is gone. `threshold` (the score above which an edit speaks) and `latency` are not in the
    journals of earlier releases. `reasons` are those of the gate."""

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
        """Of training."""
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
        """The wave of a commit, with what its journal, where it is still there, tells of it."""
        key, count = commit.wave_key, commit.num_edits
        status: Status = "promoted" if "promoted" in self._steps[key] else "committed"
        return WaveFacts(key, stream, index, count, status, commit, **self._measured(key))

    def loose(self, committed: Container[str]) -> Iterator[WaveFacts]:
        """The waves that are planned and in no commit, by name."""
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
        """The fields of a wave's facts that its journal has."""
        journal, steps, found = Journal(self._storage, key), self._steps[key], {}
        if "evaluated" in steps:
            told = _read(journal, "evaluated")
            found = {name: told[name] for name in ("seconds", "bytes_per_edit")} | {
                "report": EvalReport(**told["report"]),
                "outcomes_path": told["per_edit_path"],
                "threshold": told.get("threshold"),
                "latency": told.get("latency", {}),
            }
        if "held" in steps:
            held = _read(journal, "held")
            found |= {
                "reasons": tuple(held["reasons"]),
                "held_at": datetime.fromisoformat(held["at"]),
            }
        return found


def wave_rows(storage: Storage, wave: WaveFacts) -> list[dict[str, Any]]:
    """The outcomes of a wave's probes; none where it was not measured. Raises NotFoundError,
    IntegrityError."""
    return [] if wave.outcomes_path is None else read_rows(storage, wave.outcomes_path)


def wave_losses(storage: Storage, wave: WaveFacts) -> list[list[float]]:
    """The loss curve of each edit of a wave; none where it was not trained or its journal is
    gone."""
    journal = Journal(storage, wave.key)
    return list(_read(journal, "trained")["losses"]) if journal.has("trained") else []


def held_edits(storage: Storage, wave: WaveFacts) -> list[Edit]:
    """The edits of a wave that the gate holds."""
    return [edit_from_dict(row) for row in _read(Journal(storage, wave.key), "held")["edits"]]


def _read(journal: Journal, step: str) -> dict[str, Any]:
    """The result of a step. Raises NotFoundError, IntegrityError where it is cut off or changed."""
    try:
        return journal.read(step)
    except ValueError as err:
        raise IntegrityError(
            f"{journal.folder}/{step}.json is cut off or changed ({err}): restore it from a backup"
        ) from err
