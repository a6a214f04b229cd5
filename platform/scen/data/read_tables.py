"""Tables as rows: Parquet and Arrow, CSV and TSV."""

import csv
import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scen.data.files import Line, Location, read_lines
from scen.data.formats import NAMES
from scen.data.read_json import parse_json_strict
from scen.data.rows import FieldError, Quoted, RawRow, is_null_text
from scen.errors import InputError

# bad UTF-8, a time finer than microseconds, a year beyond 9999, a map with a key twice
UNREADABLE = (ValueError, OverflowError, pa.ArrowException)


def read_parquet(
    location: Location, check_columns: Callable[[list[str]], None], batch_size: int
) -> Iterator[RawRow]:
    """One row per record. Raises InputError for a damaged or truncated file: at once if the footer
    is missing, otherwise when the damaged part is reached.
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
    """The columns with the index of a pandas frame, unless one is named like a field of an edit."""
    try:
        about = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
        named = [name for name in about["index_columns"] if isinstance(name, str)]
    except (ValueError, KeyError, TypeError):
        named = []
    return [name for name in schema.names if name in named and name not in NAMES]


def _count_rows(file: Any, location: Location) -> int:
    """The number of rows according to the footer. Raises InputError if it contradicts itself."""
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
    """The column as Python values; None and a fault for an unreadable cell."""
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


MAX_LINES_A_ROW = 1000
JSON_COLUMNS = frozenset(
    {"rephrases", "near_misses", "locality_prompts", "metadata", "rephrase_src", "target_true"}
    | {"answers", "ground_truth", "locality", "portability", "requested_rewrite", "flags"}
    | {"paraphrase_prompts", "paraphrase_src", "neighborhood_prompts", "subject_locality"}
)


def read_csv(
    location: Location, check_columns: Callable[[list[str]], None], delimiter: str = ","
) -> Iterator[RawRow]:
    """Rows of cells below a header row; lists and objects as JSON text, an empty cell is a missing
    value. Where the header has no `delimiter`, cells are divided by another (`;`, tab, `|`), or by
    the one in a line such as `sep=;` before it, as Excel writes it. Raises InputError.
    """
    lines = _Lines(read_lines(location), delimiter)
    header = _header(lines, location.uri)
    check_columns(header)
    while lines.skip_blank():
        number = lines.next_number
        taken: list[str] = []
        try:
            cells = _next_record(lines, taken)
            text = "".join(taken)
            if any(map(is_null_text, cells)):
                cells = _mark_quoted(cells, text, lines.delimiter)
            yield RawRow(number, _values(header, cells), text)
        except FieldError as err:
            yield RawRow(number, {}, "".join(taken), err)


class _Lines:
    """The physical lines; those consumed by a broken row can be given back."""

    def __init__(self, lines: Iterator[Line], delimiter: str) -> None:
        self._lines = lines
        self.delimiter = delimiter
        self._ahead: deque[Line] = deque()

    @property
    def next_number(self) -> int:
        return self._ahead[0].number

    def skip_blank(self) -> bool:
        """Skip to the next line that is not blank; False at the end."""
        while self._fill():
            if self._ahead[0].data.strip():
                return True
            self._ahead.popleft()
        return False

    def feed(self, taken: list[Line]) -> Iterator[str]:
        """Lines for one record, appended to `taken`, at most MAX_LINES_A_ROW."""
        while len(taken) < MAX_LINES_A_ROW and self._fill():
            line = self._ahead.popleft()
            taken.append(line)
            if line.fault is not None:
                raise line.fault
            yield _decode(line)

    def peek(self) -> str:
        """The next line. Raises FieldError if it cannot be read."""
        line = self._ahead[0]
        if line.fault is not None:
            raise line.fault
        return _decode(line)

    def drop(self) -> None:
        """Leave out the next line."""
        self._ahead.popleft()

    def give_back(self, lines: Iterable[Line]) -> None:
        self._ahead.extendleft(reversed(list(lines)))

    def _fill(self) -> bool:
        if not self._ahead:
            self._ahead.extend([line] if (line := next(self._lines, None)) else [])
        return bool(self._ahead)


def _header(lines: _Lines, uri: str) -> list[str]:
    """The column names. Raises InputError."""
    if not lines.skip_blank():
        raise InputError(f"{uri}: has no header row: name the columns in its first line")
    try:
        names = [name.strip() for name in _divide(lines)]
    except FieldError as err:
        raise InputError(f"{uri}: the header row {err.reason}") from err
    if len(names) > 1 and not names[0]:
        names[0] = "Unnamed: 0"  # the index of a pandas frame, as pandas itself reads it
    if len(set(names)) < len(names) or "" in names:
        raise InputError(f"{uri}: the header names {names} are not all different and filled in")
    return names


def _divide(lines: _Lines) -> list[str]:
    """The cells of the header; sets the delimiter of the file. Raises FieldError."""
    first = lines.peek().strip()
    if re.fullmatch(r"sep=[^\w\s\"]", first, re.I):
        lines.delimiter = first[-1]
        lines.drop()
        if not lines.skip_blank():
            raise FieldError("row", "is missing: name the columns below `sep=`")
    elif lines.delimiter not in first:
        lines.delimiter = max(",;\t|", key=first.count)
    return _next_record(lines, [])


def _next_record(lines: _Lines, text: list[str]) -> list[str]:
    """The cells of the next record; its lines go to `text`. If its quoting is broken, only
    its first line is consumed, and the following lines are read again. Raises FieldError.
    """
    taken: list[Line] = []
    try:
        return next(csv.reader(lines.feed(taken), strict=True, delimiter=lines.delimiter))
    except (csv.Error, FieldError) as err:
        lines.give_back(taken[1:])
        del taken[1:]
        if isinstance(err, FieldError):
            raise
        raise FieldError(
            "row", f"is not valid CSV ({err}): close every quote, and double quotes inside quotes"
        ) from err
    finally:
        text.extend(_decode(line) for line in taken)


def _mark_quoted(cells: list[str], text: str, delimiter: str) -> list[str]:
    """The cells of a record; those in quotes in its text as `Quoted`."""
    cell = re.compile(rf'"(?:[^"]|"")*"|[^{re.escape(delimiter)}]*')
    marked: list[str] = []
    at = 0
    for value in cells:
        match = cell.match(text, at)
        assert match is not None  # the second alternative matches anything
        marked.append(Quoted(value) if match[0].startswith('"') else value)
        at = match.end() + 1
    return marked


def _values(header: list[str], cells: list[str]) -> dict[str, Any]:
    if len(cells) != len(header):
        # a row of several lines stays one row: text inside quotes must not become rows
        raise FieldError(
            "row",
            f"has {len(cells)} cells, the header {len(header)}: quote cells that hold delimiters",
        )
    return {name: _value(name, cell) for name, cell in zip(header, cells, strict=True)}


def _value(name: str, cell: str) -> Any:
    if not cell.strip():
        return None
    if not cell.isascii() and any("\udc80" <= char <= "\udcff" for char in cell):
        raise FieldError(name, "is not UTF-8: save the file as UTF-8")
    if name not in JSON_COLUMNS or not cell.lstrip().startswith(("[", "{")):
        return cell
    try:
        return parse_json_strict(cell)
    except FieldError as err:
        if err.field != "row":
            inner = err.field if err.field.startswith("[") else f".{err.field}"
            raise FieldError(f"{name}{inner}", err.reason) from err
        raise FieldError(name, f'is not JSON text ({err}): write a list as ["..."]') from err


def _decode(line: Line) -> str:
    return line.data.decode("utf-8", "surrogateescape") + "\n"
