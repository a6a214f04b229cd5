"""Rows of a file, by the ending of its name, or of a list."""

from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path

from scen.errors import InputError
from scen.ingest.formats import adapt, check_columns
from scen.ingest.location import Location, locate_input
from scen.ingest.read_csv import read_csv
from scen.ingest.read_json import read_json, read_json_lines
from scen.ingest.read_memory import Source, read_memory
from scen.ingest.read_parquet import read_parquet
from scen.ingest.rows import RawRow

ENDINGS = ".parquet .jsonl .ndjson .json .csv"


def read_rows(source: Source, data_format: str, batch_size: int) -> Generator[RawRow]:
    """Every row of a file or list in the fields of the edit schema. Raises InputError."""
    if isinstance(source, str | Path):
        rows = _reader(locate_input(source), data_format, batch_size)
    else:
        rows = read_memory(source)
    for row in rows:
        yield adapt(row, data_format)


def _reader(location: Location, data_format: str, batch_size: int) -> Iterator[RawRow]:
    check = partial(check_columns, data_format=data_format, uri=location.uri)
    match location.suffix:
        case ".parquet":
            return read_parquet(location, check, batch_size)
        case ".jsonl" | ".ndjson":
            return read_json_lines(location)
        case ".json":
            return read_json(location)
        case ".csv":
            return read_csv(location, check)
    raise InputError(
        f"{location.uri}: the ending {location.suffix!r} is not known: use one of {ENDINGS}"
    )
