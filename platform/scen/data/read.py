"""Rows of a file (by its suffix) or of a list; and files of prompts."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from scen.data.files import MAX_LINE_BYTES, Location, locate_input, read_lines
from scen.data.formats import adapt, check_columns
from scen.data.read_json import read_json
from scen.data.read_tables import read_csv, read_parquet
from scen.data.rows import FieldError, RawRow
from scen.data.validate import read_text
from scen.errors import InputError
from scen.records import Edit, digest_bytes, digest_json, edit_to_dict

Row = Edit | Mapping[str, Any]
ENDINGS = ".parquet .jsonl .ndjson .json .csv .tsv"
Source = str | Path | Sequence[Row]  # a file by path or URI, or the rows themselves

_PROMPT_FIELDS = ("prompt", "question", "text")


def read_rows(source: Source, data_format: str, batch_size: int) -> Generator[RawRow]:
    """Every row of a file or list in the fields of the edit schema. Raises InputError."""
    if isinstance(source, str | Path):
        location = locate_input(source)
        check = partial(check_columns, data_format=data_format, uri=location.uri)
        rows = _read_file(location, check, batch_size)
    else:
        rows = read_memory(source)
    for row in rows:
        yield adapt(row, data_format)


def read_prompts(source: str | Path, limit: int | None = None) -> list[str]:
    """The prompts of a file, such as unrelated questions that no edit may change: one per
    line, or in the formats of edit files the field `prompt`, `question` or `text` of each row.
    Raises InputError naming the line or row."""
    prompts: list[str] = []
    location = locate_input(source)
    rows = _read_fields(location) if location.suffix in ENDINGS.split() else _read_lines(location)
    with closing(rows):
        for where, value in islice(rows, limit):
            try:
                prompts.append(read_text(value, "prompt", MAX_LINE_BYTES))
            except FieldError as err:
                raise InputError(f"{location.uri}: {where} {err}") from err
    return prompts


def read_memory(rows: Sequence[Row]) -> Iterator[RawRow]:
    """One row per element, numbered from 1."""
    for number, row in enumerate(rows, 1):
        if isinstance(row, Edit | Mapping):
            yield RawRow(number, _row_values(row))
        else:
            reason = 'is neither an Edit nor a dict: write {"prompt": ..., "target": ...}'
            yield RawRow(number, {}, repr(row), FieldError("row", reason))


def describe_source(source: Source) -> str:
    """Its name in messages: the file, or the number of rows."""
    return str(source) if isinstance(source, str | Path) else f"{len(source)} rows"


def digest_source(source: Source) -> str:
    """sha256 (hex) of a file's path or URI, or of the content of rows."""
    if isinstance(source, str | Path):
        return digest_json(str(source))
    known = [sorted(row.items()) for row in map(_readable, source)]
    return digest_bytes(repr(known).encode())


def _read_file(
    location: Location, check_columns: Callable[[list[str]], None], batch_size: int
) -> Iterator[RawRow]:
    """The rows of a file, before conversion to the edit schema."""
    match location.suffix:
        case ".parquet":
            return read_parquet(location, check_columns, batch_size)
        case ".jsonl" | ".ndjson" | ".json":
            return read_json(location)
        case ".csv":
            return read_csv(location, check_columns)
        case ".tsv":
            return read_csv(location, check_columns, delimiter="\t")
    raise InputError(
        f"{location.uri}: the ending {location.suffix!r} is not known: use one of {ENDINGS}"
    )


def _read_lines(location: Location) -> Generator[tuple[str, str]]:
    """The position and text of each line that is not blank."""
    for line in read_lines(location):
        where = f"line {line.number}"
        if line.fault is not None:
            raise InputError(f"{location.uri}: {where} {line.fault.reason}")
        try:
            text = line.data.decode().strip()
        except UnicodeDecodeError as err:
            raise InputError(f"{location.uri}: {where} is not UTF-8: save it as UTF-8") from err
        if text:
            yield where, text


def _read_fields(location: Location) -> Generator[tuple[str, str]]:
    """The position and prompt of each row."""
    names = ", ".join(_PROMPT_FIELDS)

    def check_columns(columns: list[str]) -> None:
        if not set(columns) & set(_PROMPT_FIELDS):
            raise InputError(f"{location.uri}: has none of the columns {names}: name one so")

    for row in _read_file(location, check_columns, batch_size=1024):
        where = f"row {row.number}" if row.text is None else f"line {row.number}"
        if row.fault is not None:
            raise InputError(f"{location.uri}: {where}: {row.fault}")
        candidates = [row.values.get(name) for name in _PROMPT_FIELDS]
        text = next(
            (value for value in candidates if isinstance(value, str) and value.strip()), None
        )
        if text is None:
            raise InputError(f"{location.uri}: {where} has no text in any of the fields {names}")
        yield where, text


def _row_values(row: Row) -> dict[str, Any]:
    """The fields as JSON types: lists for tuples, names as text."""
    values = edit_to_dict(row) if isinstance(row, Edit) else row
    return {str(k): list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def _readable(row: object) -> dict[str, Any]:
    return _row_values(row) if isinstance(row, Edit | Mapping) else {"": row}
