"""The entry point: a file or list of edits as batches of checked edits and rejected rows."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import LocalFileSystem

from scen.data.files import locate
from scen.data.formats import ADAPTERS
from scen.data.read import Source, describe_source, read_rows
from scen.data.rows import Rejection
from scen.data.validate import Validator
from scen.errors import ConfigError, InputError
from scen.records import Edit

SHOWN_REJECTIONS = 5


@dataclass(frozen=True, slots=True)
class IngestBatch:
    """The results of some rows, in order: each row is either an edit or a rejection.

    `rows[i]` is the number of the row of `edits[i]` in the file or list, counted from 1.
    """

    edits: tuple[Edit, ...]
    rejections: tuple[Rejection, ...]
    rows: tuple[int, ...]


def ingest(
    source: Source,
    validator: Validator,
    *,
    data_format: str = "auto",
    limit: int | None = None,
    batch_size: int = 1024,
    strict: bool = False,
) -> Iterator[IngestBatch]:
    """Batches of up to `batch_size` rows, until the source ends or `limit` edits were read.

    With `strict` the whole source is checked first, and rejected if it has a bad row. Raises
    ConfigError, and InputError for an unusable file: before the first batch if its header or
    footer shows the damage, otherwise on reaching it; earlier batches are valid.
    """
    if data_format not in ("auto", *ADAPTERS):
        raise ConfigError(f"data_format: {data_format!r} is none of auto, {', '.join(ADAPTERS)}")
    if batch_size < 1 or (limit is not None and limit < 0):
        raise ConfigError("batch_size: must be at least 1, and limit at least 0")
    if strict:
        _refuse_bad_rows(source, validator.fork(), data_format, batch_size)
    return _batches(source, validator, data_format, limit, batch_size)


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How a file of edits is read, by every command that takes one: the format of its rows, the
    maximum number of edits, and `allow_null_text` as in `Validator`."""

    data_format: str = "auto"
    limit: int | None = None
    allow_null_text: bool = False


def read_edits(source: Source, options: ReadOptions) -> tuple[list[Edit], list[Rejection]]:
    """All edits of a source, without checks against a base, and the rows that cannot be used.
    Raises as `ingest` does."""
    edits: list[Edit] = []
    rejections: list[Rejection] = []
    validator = Validator(allow_null_text=options.allow_null_text)
    for batch in ingest(source, validator, data_format=options.data_format, limit=options.limit):
        edits.extend(batch.edits)
        rejections.extend(batch.rejections)
    return edits, rejections


def describe_rejections(rejections: Sequence[Rejection], name: str) -> str:
    """How many rows of a file cannot be used, and why the first of them cannot."""
    first, rows = rejections[0], "row" if len(rejections) == 1 else "rows"
    why = f"row {first.row}: {first.field} {first.reason}"
    return f"{len(rejections)} {rows} of {name} cannot be used, the first: {why}"


def _batches(
    source: Source, validator: Validator, data_format: str, limit: int | None, batch_size: int
) -> Iterator[IngestBatch]:
    left = limit
    with closing(read_rows(source, data_format, batch_size)) as rows:
        while left is None or left > 0:
            # read no more rows than edits are needed: the validator remembers every row it sees
            count = batch_size if left is None else min(batch_size, left)
            results = [(row.number, validator.check(row)) for row in islice(rows, count)]
            if not results:
                return
            accepted = [(number, result) for number, result in results if isinstance(result, Edit)]
            rejections = tuple(result for _, result in results if isinstance(result, Rejection))
            edits, numbers = tuple(e for _, e in accepted), tuple(n for n, _ in accepted)
            yield IngestBatch(edits, rejections, numbers)
            left = None if left is None else left - len(edits)


def _refuse_bad_rows(
    source: Source, validator: Validator, data_format: str, batch_size: int
) -> None:
    """Raises InputError with the counts and the first few rejections."""
    num_edits = num_rejected = 0
    shown: list[str] = []
    for batch in _batches(source, validator, data_format, None, batch_size):
        num_edits += len(batch.edits)
        num_rejected += len(batch.rejections)
        room = SHOWN_REJECTIONS - len(shown)
        shown += [f"row {r.row}: {r.field} {r.reason}" for r in batch.rejections[:room]]
    if num_rejected:
        name, count = describe_source(source), num_edits + num_rejected
        raise InputError(
            f"{name}: {num_rejected} of {count} rows are bad, and strict takes all or none: mend "
            "them, or run without strict\n  " + "\n  ".join(shown)
        )


QUARANTINE_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("id", pa.string()),
        pa.field("field", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("raw", pa.string(), nullable=False),
    ]
)


class QuarantineFile:
    """Takes rejections batch by batch; the file appears at `uri` if the `with` block succeeds.

    It is written without rows too: an empty quarantine means that nothing was rejected.
    """

    def __init__(self, uri: str | Path) -> None:
        self._location = locate(uri)
        self._is_local = isinstance(self._location.filesystem, LocalFileSystem)
        self.num_rows = 0

    def __enter__(self) -> "QuarantineFile":
        target = Path(self._location.path)
        folder = target.parent if self._is_local else Path(tempfile.gettempdir())
        self._part = folder / f"{target.name}.{uuid4().hex}.part"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._part, QUARANTINE_SCHEMA)
        except OSError as err:
            raise ConfigError(
                f"quarantine: {self._location.uri} cannot be written ({err}): choose another path"
            ) from err
        return self

    def add(self, rejections: Sequence[Rejection]) -> None:
        """Write some rejections."""
        if rejections:
            rows = [asdict(rejection) for rejection in rejections]
            self._writer.write_table(pa.Table.from_pylist(rows, schema=QUARANTINE_SCHEMA))
            self.num_rows += len(rows)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._writer.close()
            if kind is None:
                self._publish()
        finally:
            self._part.unlink(missing_ok=True)

    def _publish(self) -> None:
        location = self._location
        if self._is_local:
            self._part.replace(location.path)
            return
        with (
            self._part.open("rb") as part,
            location.filesystem.open_output_stream(location.path) as sink,
        ):
            shutil.copyfileobj(part, sink)
