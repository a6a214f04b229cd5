"""Rows of a file, by the ending of its name, or of a list; and files of bare prompts."""

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from scen.data.files import Location, locate_input
from scen.data.formats import adapt, check_columns
from scen.data.read_csv import read_csv
from scen.data.read_json import read_json, read_json_lines
from scen.data.read_parquet import read_parquet
from scen.data.rows import FieldError, RawRow
from scen.errors import InputError
from scen.records import Edit, digest_bytes, digest_json, edit_to_dict

Row = Edit | Mapping[str, Any]
Source = str | Path | Sequence[Row]  # a file by path or URI, or the rows themselves


def read_memory(rows: Sequence[Row]) -> Iterator[RawRow]:
    """One row an element, numbered from 1."""
    for number, row in enumerate(rows, 1):
        if isinstance(row, Edit | Mapping):
            yield RawRow(number, _row_values(row))
        else:
            reason = 'is neither an Edit nor a dict: write {"prompt": ..., "target": ...}'
            yield RawRow(number, {}, repr(row), FieldError("row", reason))


def describe_source(source: Source) -> str:
    """What messages call it: the file's name, or how many rows."""
    return str(source) if isinstance(source, str | Path) else f"{len(source)} rows"


def digest_source(source: Source) -> str:
    """sha256 (hex): of a file its path or URI, of rows their content."""
    if isinstance(source, str | Path):
        return digest_json(str(source))
    known = [sorted(row.items()) for row in map(_readable, source)]
    return digest_bytes(repr(known).encode())


def _row_values(row: Row) -> dict[str, Any]:
    """The fields as JSON has them: lists for tuples, names as text."""
    values = edit_to_dict(row) if isinstance(row, Edit) else row
    return {str(k): list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def _readable(row: object) -> dict[str, Any]:
    return _row_values(row) if isinstance(row, Edit | Mapping) else {"": row}


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


_FIELDS = ("prompt", "question", "text")


def read_prompts(path: str | Path, limit: int | None = None) -> list[str]:
    """The prompts of a file: a line each in .txt, a `prompt`, `question` or `text` field each in
    .jsonl. Raises InputError naming the line."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise InputError(f"{path}: cannot be read as a UTF-8 file of prompts ({err})") from err
    is_json = Path(path).suffix in (".jsonl", ".ndjson")
    found: list[str] = []
    for number, line in enumerate(lines, 1):
        if limit is not None and len(found) == limit:
            break
        if line.strip():
            found.append(_prompt_of(line, f"{path}: line {number}") if is_json else line.strip())
    return found


def _prompt_of(line: str, where: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as err:
        raise InputError(f"{where} is not JSON ({err})") from err
    for name in _FIELDS:
        if isinstance(row, dict) and isinstance(row.get(name), str) and row[name].strip():
            return str(row[name]).strip()
    raise InputError(f"{where} has no text in any of the fields {', '.join(_FIELDS)}")
