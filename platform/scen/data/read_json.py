"""JSON lines and JSON documents as rows. A broken record never affects other records."""

import json
import math
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
from scen.data.formats import detect_format
from scen.data.rows import NO_NUMBER, FieldError, RawRow
from scen.errors import InputError

MAX_LIST_BYTES = 512 << 20
STRUCTURE = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["\[\]{},]', re.DOTALL)
COLON = re.compile(rb"\s*:")
Span = tuple[int, int]


def parse_json_strict(data: bytes | str) -> Any:
    """The value of a JSON text from a file or a client.

    Raises FieldError naming the field, as in `metadata.note`: for a repeated key of an object, and
    for numbers that JSON does not have (NaN, Infinity, 1e999). The field is "row" if the text is
    not JSON at all.
    """
    faults: list[Any] = []

    def read_number(text: str) -> Any:
        number = float(text)
        return number if math.isfinite(number) else fault(_NoNumber())

    def read_object(pairs: list[tuple[str, Any]]) -> Any:
        values = dict(pairs)
        return values if len(values) == len(pairs) else fault(_Repeats(pairs))

    def fault(value: Any) -> Any:
        faults.append(value)
        return value

    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        value = json.loads(
            text.removeprefix("\ufeff"),
            parse_constant=read_number,
            parse_float=read_number,
            object_pairs_hook=read_object,
        )
        if faults and (error := _find_fault(value, "")) is not None:
            raise error
    except UnicodeDecodeError as err:
        raise FieldError("row", f"is not UTF-8 at byte {err.start}: save it as UTF-8") from err
    except FieldError:
        raise
    except ValueError as err:
        raise FieldError("row", f"is not valid JSON ({err}): write one object a row") from err
    except RecursionError as err:
        raise FieldError("row", "is nested too deeply: flatten it") from err
    return value


def parse_object(data: bytes) -> dict[str, Any]:
    """The object in the JSON text. Raises FieldError."""
    value = parse_json_strict(data)
    if not isinstance(value, dict):
        raise FieldError("row", 'is not a JSON object: write {"prompt": ..., "target": ...}')
    return value


def read_json(location: Location) -> Iterator[RawRow]:
    """Rows of a file of objects: one per line, a list, a list within one object such as
    {"data": [...]}, or consecutive objects over several lines. Raises InputError."""
    with location.reading(), location.open_stream() as stream:
        head = stream.read(CHUNK_BYTES).removeprefix(BOM).lstrip()
    if head.startswith(b"[") and location.suffix == ".json":
        return _read_document(_read_whole(location), location.uri)
    if _may_be_document(head):
        data = _read_whole(location)
        if _is_document(data) or not any(map(_is_object, data.split(b"\n"))):
            return _read_document(data, location.uri)
    return _read_json_lines(location)


def _read_json_lines(location: Location) -> Iterator[RawRow]:
    """One row per line; blank lines are skipped."""
    for line in read_lines(location):
        if line.fault is not None:
            yield RawRow(line.number, {}, _decode(line.data), line.fault)
        elif not line.data.isspace() and line.data:
            yield _row(line.number, line.data)


def _may_be_document(head: bytes) -> bool:
    """True if a file may be one JSON text over several lines, or one object that wraps the rows,
    rather than one row per line, perhaps with a broken first one."""
    first, end, rest = head.partition(b"\n")
    value = _parse_loosely(first)
    if isinstance(value, dict):
        return bool(_wrapping_keys(value)) and not rest.strip()
    if isinstance(value, list):
        return all(isinstance(item, dict) for item in value) and not rest.strip()
    is_open = first.rstrip().endswith((b"{", b"[", b","))
    return head.startswith((b"{", b"[")) and (is_open or not end)


def _is_document(data: bytes) -> bool:
    """True for a list, or for consecutive objects."""
    decoder, kinds, at = json.JSONDecoder(), [], 0
    try:
        text = data.decode().strip()
        while at < len(text):
            value, at = decoder.raw_decode(text, at)
            kinds.append(type(value))
            at += len(text[at : at + 4096]) - len(text[at : at + 4096].lstrip())
    except (ValueError, RecursionError):
        return False
    return kinds == [list] or set(kinds) == {dict}


def _is_object(line: bytes) -> bool:
    return isinstance(_parse_loosely(line), dict)


def _parse_loosely(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _wrapping_keys(value: dict[str, Any]) -> list[str]:
    """The keys that hold lists of objects; empty if the object itself is a row."""
    if detect_format(value) is not None:
        return []
    return [
        key
        for key, held in value.items()
        if isinstance(held, list) and held and all(isinstance(item, dict) for item in held)
    ]


def _read_document(data: bytes, uri: str) -> Iterator[RawRow]:
    """One row per element or object. The whole text is checked before the first row is returned, so
    a truncated file is rejected as a whole."""
    if data.lstrip().startswith(b"["):
        spans = _elements(data, uri)
    else:
        spans = _objects(data, uri)
        if len(spans) == 1:
            spans = _unwrap(data, uri)
    for number, (start, stop) in enumerate(spans, 1):
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
    return bytes(held.removeprefix(BOM))


def _elements(data: bytes, uri: str, begin: int = 0, is_inner: bool = False) -> list[Span]:
    """The spans of the elements of the first list at or after `begin`. Raises InputError."""
    spans: list[Span] = []
    depth, start, end = 0, data.index(b"[", begin) + 1, None
    for token in STRUCTURE.finditer(data, begin):
        mark = token.group()
        depth += (mark in b"[{") - (mark in b"]}")
        if depth == 0 or (depth == 1 and mark == b","):
            spans.append((start, token.start()))
            start = token.end()
        if depth == 0 or mark == b'"':
            end = token.end() if mark == b"]" else None
            break
    if end is None or (data[end:].strip() and not is_inner):
        raise InputError(
            f"{uri}: the JSON list is not closed, or continues after its end, near element "
            f"{len(spans) + 1}: write it again, or save it as .jsonl to keep its good lines"
        )
    is_bare = len(spans) == 1 and not data[slice(*spans[0])].strip()
    return [] if is_bare else spans


def _objects(data: bytes, uri: str) -> list[Span]:
    """The spans of consecutive objects. Raises InputError."""
    spans: list[Span] = []
    depth, start = 0, 0
    for token in STRUCTURE.finditer(data):
        mark = token.group()
        if depth == 0 and (mark != b"{" or data[start : token.start()].strip()):
            break
        depth += (mark in b"[{") - (mark in b"]}")
        if mark == b'"':
            break
        if depth == 0:
            spans.append((start, token.end()))
            start = token.end()
    if data[start:].strip():
        line = data.count(b"\n", 0, start) + 1
        raise InputError(
            f"{uri}: the JSON object that begins near line {line} is not closed, or is followed by "
            "something else: write the file again, or save it as .jsonl, one object a line"
        )
    return spans


def _unwrap(data: bytes, uri: str) -> list[Span]:
    """The spans of the rows in a single object: the object itself, or the elements of its list.
    Raises InputError."""
    value = _parse_loosely(data)
    if not isinstance(value, dict) or detect_format(value) is not None:
        return [(0, len(data))]
    keys = _wrapping_keys(value)
    if len(keys) != 1:
        raise InputError(
            f"{uri}: is one object with the keys {list(value)[:8]}, "
            + ("several of which hold" if keys else "none of which holds")
            + ' a list of rows: give the list alone, [{"prompt": ...}, ...], or one object a line'
        )
    return _elements(data, uri, _find_value(data, keys[0]), is_inner=True)


def _find_value(data: bytes, key: str) -> int:
    """The start of the value of a key of the outermost object; of its last one if repeated."""
    depth, at = 0, -1
    for token in STRUCTURE.finditer(data):
        mark = token.group()
        depth += (mark in b"[{") - (mark in b"]}")
        if depth == 1 and COLON.match(data, token.end()) and json.loads(mark) == key:
            at = token.end()
    return at


class _NoNumber:
    """Stands for NaN or an infinity."""


class _Repeats(dict[str, Any]):
    """An object with a repeated key."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.repeated = next(name for name in names if names.count(name) > 1)


def _find_fault(value: Any, path: str) -> FieldError | None:
    """The error of the first fault in a value, with its path."""
    if isinstance(value, _NoNumber):
        return FieldError(path or "row", f"{NO_NUMBER}: write a number or null")
    inner: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        if isinstance(value, _Repeats):
            field = f"{path}.{value.repeated}".removeprefix(".")
            return FieldError(field, "is there twice in one object: keep one of them")
        inner = [(f"{path}.{name}".removeprefix("."), held) for name, held in value.items()]
    elif isinstance(value, list):
        inner = [(f"{path}[{index}]", held) for index, held in enumerate(value)]
    faults = (_find_fault(held, name) for name, held in inner)
    return next((error for error in faults if error is not None), None)


def _row(number: int, data: bytes) -> RawRow:
    text = _decode(data)
    try:
        return RawRow(number, parse_object(data), text)
    except FieldError as err:
        return RawRow(number, {}, text, err)


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
