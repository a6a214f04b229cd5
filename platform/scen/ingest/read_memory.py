"""Rows that a program has in hand, in place of a file."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scen.ingest.rows import FieldError, RawRow
from scen.records import Edit, digest_bytes, digest_json, edit_to_dict

Row = Edit | Mapping[str, Any]
Source = str | Path | Sequence[Row]  # a file by path or URI, or the rows themselves


def read_memory(rows: Sequence[Row]) -> Iterator[RawRow]:
    """One row an element, numbered from 1."""
    for number, row in enumerate(rows, 1):
        if isinstance(row, Edit | Mapping):
            yield RawRow(number, _values(row))
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


def _values(row: Row) -> dict[str, Any]:
    """The fields as JSON has them: lists for tuples, names as text."""
    values = edit_to_dict(row) if isinstance(row, Edit) else row
    return {str(k): list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def _readable(row: object) -> dict[str, Any]:
    return _values(row) if isinstance(row, Edit | Mapping) else {"": row}
