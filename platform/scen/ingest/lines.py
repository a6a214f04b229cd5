"""Lines of a text file as bytes, in bounded memory whatever the file holds."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from scen.errors import InputError
from scen.ingest.location import Location
from scen.ingest.rows import FieldError

CHUNK_BYTES = 1 << 20
MAX_LINE_BYTES = 4 << 20
SHOWN_BYTES = 2000
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its end. `data` is only the beginning where `fault` says it is too long."""

    number: int
    data: bytes
    fault: FieldError | None = None


def read_lines(location: Location) -> Iterator[Line]:
    """Every line of the file, numbered from 1. Raises InputError for a file that is no UTF-8 text
    from its first bytes on, or that breaks off inside its packing.
    """
    with location.reading(), location.open_stream() as stream:
        first = True
        for line in _split(stream):
            if first and line.data.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise InputError(f"{location.uri}: is UTF-16: save it as UTF-8")
            yield Line(1, line.data.removeprefix(BOM), line.fault) if first else line
            first = False


def too_long() -> FieldError:
    """Why a row over the size limit is rejected."""
    return FieldError("row", f"is over {MAX_LINE_BYTES >> 20} MiB long: shorten it or split it")


def _split(stream: Any) -> Iterator[Line]:
    number, held = 1, bytearray()
    while chunk := stream.read(CHUNK_BYTES):
        for index, part in enumerate(chunk.split(b"\n")):
            if index:
                yield _line(number, held)
                number, held = number + 1, bytearray()
            held += part[: MAX_LINE_BYTES + 1 - len(held)]
    if held:
        yield _line(number, held)


def _line(number: int, held: bytearray) -> Line:
    if len(held) > MAX_LINE_BYTES:
        return Line(number, bytes(held[:SHOWN_BYTES]), too_long())
    return Line(number, bytes(held))
