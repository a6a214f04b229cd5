"""JSON lines and JSON lists as rows. One broken record never costs another one."""

import json
import re
from collections.abc import Iterator
from typing import Any

from scen.data.files import (
    BOM,
    CHUNK_BYTES,
    MAX_LINE_BYTES,
    SHOWN_BYTES,
    Location,
    read_lines,
    too_long,
)
from scen.data.rows import FieldError, RawRow
from scen.errors import InputError

MAX_LIST_BYTES = 512 << 20
STRUCTURE = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["\[\]{},]', re.DOTALL)


def read_json(location: Location) -> Iterator[RawRow]:
    """A .json file: a list of objects, or else one object a line. Raises InputError."""
    with location.reading(), location.open_stream() as stream:
        start = stream.read(CHUNK_BYTES)
    is_list = start.removeprefix(BOM).lstrip().startswith(b"[")
    return _read_list(location) if is_list else read_json_lines(location)


def read_json_lines(location: Location) -> Iterator[RawRow]:
    """One row a line; blank lines are not rows. Raises InputError."""
    for line in read_lines(location):
        if line.fault is not None:
            yield RawRow(line.number, {}, _decode(line.data), line.fault)
        elif not line.data.isspace() and line.data:
            yield _row(line.number, line.data)


def _read_list(location: Location) -> Iterator[RawRow]:
    """One row an element. The list is checked to its end before the first row comes out, so that
    a file that breaks off is refused whole.
    """
    data = _read_whole(location)
    for number, (start, stop) in enumerate(_elements(data, location.uri), 1):
        if stop - start > MAX_LINE_BYTES:
            yield RawRow(number, {}, _decode(data[start : start + SHOWN_BYTES]), too_long())
        else:
            yield _row(number, data[start:stop].strip())


def _read_whole(location: Location) -> bytes:
    held = bytearray()
    with location.reading(), location.open_stream() as stream:
        while chunk := stream.read(CHUNK_BYTES):
            held += chunk
            if len(held) > MAX_LIST_BYTES:
                limit = f"{MAX_LIST_BYTES >> 20} MiB"
                raise InputError(f"{location.uri}: a JSON list may have {limit}: save it as .jsonl")
    return bytes(held)


def _elements(data: bytes, uri: str) -> list[tuple[int, int]]:
    """Where each element of the outer list starts and stops. Raises InputError."""
    spans: list[tuple[int, int]] = []
    depth, start, end = 0, data.index(b"[") + 1, None
    for found in STRUCTURE.finditer(data):
        mark = found.group()
        depth += (mark in b"[{") - (mark in b"]}")
        if depth == 0 or (depth == 1 and mark == b","):
            spans.append((start, found.start()))
            start = found.end()
        if depth == 0 or mark == b'"':
            end = found.end() if mark == b"]" else None
            break
    if end is None or data[end:].strip():
        raise InputError(
            f"{uri}: the JSON list is not closed, or goes on behind its end, near element "
            f"{len(spans) + 1}: write it again, or save it as .jsonl to keep its good lines"
        )
    is_bare = len(spans) == 1 and not data[slice(*spans[0])].strip()
    return [] if is_bare else spans


def _row(number: int, data: bytes) -> RawRow:
    text = _decode(data)
    try:
        return RawRow(number, parse_object(data), text)
    except FieldError as err:
        return RawRow(number, {}, text, err)


def parse_object(data: bytes) -> dict[str, Any]:
    """The object in the JSON text. Raises FieldError."""
    try:
        value = json.loads(
            data.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_no_repeats
        )
    except UnicodeDecodeError as err:
        raise FieldError("row", f"is not UTF-8 at byte {err.start}: save it as UTF-8") from err
    except ValueError as err:
        raise FieldError("row", f"is not valid JSON ({err}): write one object a row") from err
    except RecursionError as err:
        raise FieldError("row", "is nested too deeply: flatten it") from err
    if not isinstance(value, dict):
        raise FieldError("row", 'is not a JSON object: write {"prompt": ..., "target": ...}')
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return values


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
