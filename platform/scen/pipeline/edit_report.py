"""What a run of edits is, and what it comes to."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scen.data import Rejection
from scen.data.files import locate_input
from scen.data.read import Source, describe_source, digest_source
from scen.errors import InputError
from scen.evaluation.metrics import EvalReport
from scen.waves.run_stream import check_name, name_stream
from scen.waves.run_wave import WaveReport

KEPT_REJECTIONS = 1000


@dataclass(frozen=True)
class EditJob:
    """Edits, and how they are to be read. `source` is a file by path or URI, or the rows."""

    source: Source
    stream: str | None = None
    data_format: str = "auto"
    limit: int | None = None
    strict: bool = False
    locality: str | None = None
    is_tracked: bool = True

    @property
    def name(self) -> str:
        """What messages call the source."""
        return describe_source(self.source)

    @property
    def digest(self) -> str:
        """sha256 (hex) of the file's name, or of the content of the rows."""
        return digest_source(self.source)

    @property
    def stream_name(self) -> str:
        """The stream that was asked for, else one named by the file, or by the content of the
        rows: the same rows are the same stream. Raises ConfigError."""
        if self.stream:
            return check_name(self.stream)
        if isinstance(self.source, str | Path):
            return check_name(name_stream(str(self.source)))
        return f"rows-{self.digest[:12]}"

    def check(self) -> None:
        """Raises ConfigError and InputError for what can be seen before a base is loaded."""
        _ = self.stream_name
        if self.locality is not None:
            locate_input(self.locality)
        if isinstance(self.source, str | Path):
            locate_input(self.source)
        elif not self.source:
            raise InputError("edits: the list is empty: give at least one edit")


@dataclass
class EditReport:
    """What a run of edits came to.

    Counts of edits: `committed` ones are new in the ledger (their ids: `edit_ids`); `known` ones
    were committed before, letter for letter; `superseded` ones gave their place to some of the
    run's. `rejected` rows are in the Parquet file `quarantine`, and the first 1,000 of them in
    `rejections`, with the field and the reason. `waves` has each wave that was run, `held` the keys
    of those that the gate keeps from the ledger, with the reasons. `remarks` are worth a look.
    `version` is the newest of the ledger; `model` is registered in MLflow; `seconds` is the time of
    the whole run.
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
        """The versions that hold the run's waves, oldest first."""
        return [wave.version for wave in self.waves if wave.version is not None]

    @property
    def figures(self) -> EvalReport | None:
        """What was measured of the last wave, None where no wave was run."""
        return EvalReport(**self.waves[-1].evaluated["report"]) if self.waves else None

    def reject(self, rejections: Sequence[Rejection]) -> None:
        """Keep the first of them; all are counted from the quarantine."""
        self.rejections += rejections[: max(0, KEPT_REJECTIONS - len(self.rejections))]

    def require_edits(self, name: str) -> None:
        """Raises InputError where not one row of the source of this name was a usable edit."""
        if not self.waves and not self.known:
            see = f"; see {self.quarantine}" if self.quarantine else ""
            raise InputError(f"{name}: none of its rows is a usable edit{see}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, without the rows."""
        found = asdict(self)
        del found["edit_ids"], found["rejections"]
        return found
