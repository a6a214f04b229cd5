"""Locating input files, and reading their lines as bytes in bounded memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from pyarrow.fs import FileSystem, FileType, LocalFileSystem

from scen.data.rows import FieldError
from scen.errors import InputError

# UnicodeDecodeError: names in a damaged Parquet footer
READ_ERRORS = (OSError, pa.ArrowException, UnicodeDecodeError)
PACKED = (".gz", ".bz2", ".zst", ".lz4")


@dataclass(frozen=True, slots=True)
class Location:
    """A path on a file system, and the URI or path that the user gave."""

    uri: str
    filesystem: Any
    path: str

    @property
    def suffix(self) -> str:
        """The file type in lower case, without the ending of a compressed file: `.jsonl` of
        a.jsonl.gz."""
        name = PurePosixPath(self.path.lower())
        return PurePosixPath(name.stem).suffix if name.suffix in PACKED else name.suffix

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn errors of the file system or pyarrow while the file is read into InputError."""
        try:
            yield
        except READ_ERRORS as err:
            raise InputError(
                f"{self.uri}: cannot be read ({_first_line(err)}): check that you may read it and "
                "that it is what its name says, or write it again"
            ) from err

    def open_stream(self) -> Any:
        """The bytes from the start, decompressed if the name ends in .gz, .bz2, .zst or .lz4."""
        return self.filesystem.open_input_stream(self.path)


def locate(uri: str | Path) -> Location:
    """The location of a path or URI. Raises InputError if no pyarrow file system opens it."""
    text = str(uri)
    if "://" not in text:
        return Location(text, LocalFileSystem(), str(Path(text).expanduser().absolute()))
    try:
        filesystem, path = FileSystem.from_uri(text)
    except (OSError, ValueError, pa.ArrowException) as err:
        raise InputError(
            f"{text}: no file system opens this URI ({_first_line(err)}): "
            "use a path, file://, s3://, gs:// or abfs://"
        ) from err
    return Location(text, filesystem, path)


def locate_input(uri: str | Path) -> Location:
    """`locate` for a file that must exist and not be empty. Raises InputError."""
    location = locate(uri)
    with location.reading():
        info = location.filesystem.get_file_info(location.path)
    if info.type == FileType.NotFound:
        raise InputError(f"{uri}: does not exist: check the path")
    if info.type == FileType.Directory:
        raise InputError(f"{uri}: is a folder: name one file in it")
    if info.size == 0:
        raise InputError(f"{uri}: is empty: give a file with at least one edit")
    return location


def _first_line(err: BaseException) -> str:
    return (str(err) or type(err).__name__).splitlines()[0]


CHUNK_BYTES = 1 << 20
MAX_LINE_BYTES = 4 << 20
SHOWN_BYTES = 2000
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its end. `data` is only the beginning if it is too long (see `fault`)."""

    number: int
    data: bytes
    fault: FieldError | None = None


def read_lines(location: Location) -> Iterator[Line]:
    """Every line of the file, numbered from 1, without a byte order mark (joined files have them in
    the middle). Lines end with a line feed only: U+2028 and the like are text. Raises InputError
    for a file in UTF-16 or UTF-32 or a truncated compressed file.
    """
    with location.reading(), location.open_stream() as stream:
        for line in _split(stream):
            encoding = _wide_encoding(line.data) if line.number == 1 else None
            if encoding:
                raise InputError(f"{location.uri}: is {encoding}: save it as UTF-8")
            has_mark = line.data.startswith(BOM)
            yield replace(line, data=line.data.removeprefix(BOM)) if has_mark else line


def too_long() -> FieldError:
    """The error of a row over the size limit."""
    return FieldError("row", f"is over {MAX_LINE_BYTES >> 20} MiB long: shorten it or split it")


def _wide_encoding(data: bytes) -> str | None:
    """UTF-32 or UTF-16, by the byte order mark of a first line or by the zero bytes around its
    ASCII characters; None for anything else."""
    if data.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        return "UTF-32"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    zeros = [not byte for byte in data[:8]]
    for name, width in (("UTF-32", 4), ("UTF-16", 2)):
        for at in (0, width - 1):  # the place of the ASCII byte: little or big endian
            wanted = [index % width != at for index in range(len(zeros))]
            if len(data) >= 2 * width and zeros == wanted:
                return name
    return None


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
