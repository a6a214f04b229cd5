"""Parquet rows. A cell that Python cannot hold costs its row only."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scen.data.files import Location
from scen.data.formats import NAMES
from scen.data.rows import FieldError, RawRow
from scen.errors import InputError

# bad UTF-8, a time finer than microseconds, a year beyond 9999, a map with a key twice
UNREADABLE = (ValueError, OverflowError, pa.ArrowException)


def read_parquet(
    location: Location, check_columns: Callable[[list[str]], None], batch_size: int
) -> Iterator[RawRow]:
    """One row a record. Raises InputError for a damaged or truncated file: at once where the
    footer is gone, else when the damaged part is reached.
    """
    number = 1
    with (
        location.reading(),
        location.filesystem.open_input_file(location.path) as source,
        pq.ParquetFile(source, buffer_size=1 << 20, page_checksum_verification=True) as file,
    ):
        names = file.schema_arrow.names
        if len(set(names)) < len(names):
            raise InputError(f"{location.uri}: two columns share a name in {names}: rename one")
        check_columns(names)
        num_rows = _count_rows(file, location)
        index = _index_columns(file.schema_arrow)
        for batch in file.iter_batches(batch_size):
            yield from _rows(batch.drop_columns(index) if index else batch, number)
            number += batch.num_rows
        if number - 1 != num_rows:
            raise _contradiction(location, num_rows, number - 1)


def _index_columns(schema: pa.Schema) -> list[str]:
    """The columns that hold only the index of the pandas frame that was written: they number rows
    and say nothing of an edit, unless they are named as one of its fields."""
    try:
        about = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
        named = [name for name in about["index_columns"] if isinstance(name, str)]
    except (ValueError, KeyError, TypeError):
        named = []
    return [name for name in schema.names if name in named and name not in NAMES]


def _count_rows(file: Any, location: Location) -> int:
    """How many rows the footer promises. Raises InputError when it contradicts itself."""
    metadata = file.metadata
    in_groups: int = sum(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
    if metadata.num_rows != in_groups:
        raise _contradiction(location, metadata.num_rows, in_groups)
    return in_groups


def _contradiction(location: Location, promised: int, actual: int) -> InputError:
    return InputError(
        f"{location.uri}: promises {promised} rows and has {actual}: it is damaged, write it again"
    )


def _rows(batch: pa.RecordBatch, first: int) -> Iterator[RawRow]:
    faults: dict[int, FieldError] = {}
    columns = [
        _cells(column, name, faults)
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    ]
    for index, cells in enumerate(zip(*columns, strict=True)):
        values = dict(zip(batch.schema.names, cells, strict=True))
        yield RawRow(first + index, values, None, faults.get(index))


def _cells(column: pa.Array, name: str, faults: dict[int, FieldError]) -> list[Any]:
    """The column as Python values; None and a fault where a cell cannot be one."""
    is_map = pa.types.is_map(column.type)
    try:
        cells = column.to_pylist()
        return [_as_object(cell) for cell in cells] if is_map else cells
    except UNREADABLE:
        return [_cell(column, index, name, faults) for index in range(len(column))]


def _cell(column: pa.Array, index: int, name: str, faults: dict[int, FieldError]) -> Any:
    try:
        cell = column[index].as_py()
        return _as_object(cell) if pa.types.is_map(column.type) else cell
    except UNREADABLE as err:
        fault = FieldError(name, f"cannot be read ({err}): write it as UTF-8 text")
        faults.setdefault(index, fault)
        return None


def _as_object(pairs: list[tuple[Any, Any]] | None) -> dict[Any, Any] | None:
    if pairs is None:
        return None
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key is there twice")
    return values
