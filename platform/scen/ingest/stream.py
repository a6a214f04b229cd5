"""The one way in: a file or list of edits as batches of checked edits and rejected rows."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

from scen.errors import ConfigError, InputError
from scen.ingest.formats import ADAPTERS
from scen.ingest.read_memory import Source, describe_source
from scen.ingest.readers import read_rows
from scen.ingest.rows import Rejection
from scen.ingest.validate import Validator
from scen.records import Edit

SHOWN_REJECTIONS = 5


@dataclass(frozen=True, slots=True)
class IngestBatch:
    """What came of some rows in their order; every row is in one of the two.

    `rows[i]` is the number in the file or list of `edits[i]`, counted from 1.
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
    """Batches of up to `batch_size` rows, until the source ends or `limit` edits are out.

    With `strict` the whole source is checked first, and refused for one bad row. Raises
    ConfigError, and InputError for a file that cannot be used: before the first batch where that
    can be seen from its frame, else on reaching the damage; batches that came out earlier are
    sound.
    """
    if data_format not in ("auto", *ADAPTERS):
        raise ConfigError(f"data_format: {data_format!r} is none of auto, {', '.join(ADAPTERS)}")
    if batch_size < 1 or (limit is not None and limit < 0):
        raise ConfigError("batch_size: must be at least 1, and limit at least 0")
    if strict:
        _refuse_bad_rows(source, validator.fork(), data_format, batch_size)
    return _batches(source, validator, data_format, limit, batch_size)


def _batches(
    source: Source, validator: Validator, data_format: str, limit: int | None, batch_size: int
) -> Iterator[IngestBatch]:
    left = limit
    with closing(read_rows(source, data_format, batch_size)) as rows:
        while left is None or left > 0:
            # no more rows than edits are wanted, so that the validator sees none in vain
            count = batch_size if left is None else min(batch_size, left)
            results = [(row.number, validator.check(row)) for row in islice(rows, count)]
            if not results:
                return
            taken = [(number, result) for number, result in results if isinstance(result, Edit)]
            rejections = tuple(result for _, result in results if isinstance(result, Rejection))
            edits, numbers = tuple(e for _, e in taken), tuple(n for n, _ in taken)
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
