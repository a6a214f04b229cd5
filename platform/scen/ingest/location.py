"""Where a file of edits lies: a local path or any URI that pyarrow.fs opens."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from pyarrow.fs import FileSystem, FileType, LocalFileSystem

from scen.errors import InputError

# the last one: names in a damaged Parquet footer
READ_ERRORS = (OSError, pa.ArrowException, UnicodeDecodeError)
PACKED = (".gz", ".bz2", ".zst", ".lz4")


@dataclass(frozen=True, slots=True)
class Location:
    """A path on a file system, and the words the user gave for it."""

    uri: str
    filesystem: Any
    path: str

    @property
    def suffix(self) -> str:
        """The file type in lower case, less the ending of a packed file: `.jsonl` of a.jsonl.gz."""
        name = PurePosixPath(self.path.lower())
        return PurePosixPath(name.stem).suffix if name.suffix in PACKED else name.suffix

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn what the file system or pyarrow raise while the file is read into InputError."""
        try:
            yield
        except READ_ERRORS as err:
            raise InputError(
                f"{self.uri}: cannot be read ({_first_line(err)}): check that you may read it and "
                "that it is what its name says, or write it again"
            ) from err

    def open_stream(self) -> Any:
        """The bytes from the start, unpacked where the name ends in .gz, .bz2, .zst or .lz4."""
        return self.filesystem.open_input_stream(self.path)


def locate(uri: str | Path) -> Location:
    """Where a path or URI points. Raises InputError when no pyarrow file system opens it."""
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
    """`locate`, for a file that must be there with something in it. Raises InputError."""
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
