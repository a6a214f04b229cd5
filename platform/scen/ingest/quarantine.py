"""Rejected rows in a Parquet file, which is there whole or not at all."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import LocalFileSystem

from scen.errors import ConfigError
from scen.ingest.location import locate
from scen.ingest.rows import Rejection

QUARANTINE_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("id", pa.string()),
        pa.field("field", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("raw", pa.string(), nullable=False),
    ]
)


class QuarantineFile:
    """Takes rejections batch by batch; the file appears at `uri` when the `with` block ends well.

    It appears without rows too: an empty quarantine says that nothing was rejected.
    """

    def __init__(self, uri: str | Path) -> None:
        self._location = locate(uri)
        self._is_local = isinstance(self._location.filesystem, LocalFileSystem)
        self.num_rows = 0

    def __enter__(self) -> "QuarantineFile":
        target = Path(self._location.path)
        folder = target.parent if self._is_local else Path(tempfile.gettempdir())
        self._part = folder / f"{target.name}.{uuid4().hex}.part"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._part, QUARANTINE_SCHEMA)
        except OSError as err:
            raise ConfigError(
                f"quarantine: {self._location.uri} cannot be written ({err}): choose another path"
            ) from err
        return self

    def add(self, rejections: Sequence[Rejection]) -> None:
        """Write some rejections."""
        if rejections:
            rows = [asdict(rejection) for rejection in rejections]
            self._writer.write_table(pa.Table.from_pylist(rows, schema=QUARANTINE_SCHEMA))
            self.num_rows += len(rows)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._writer.close()
            if kind is None:
                self._publish()
        finally:
            self._part.unlink(missing_ok=True)

    def _publish(self) -> None:
        location = self._location
        if self._is_local:
            self._part.replace(location.path)
            return
        with (
            self._part.open("rb") as part,
            location.filesystem.open_output_stream(location.path) as sink,
        ):
            shutil.copyfileobj(part, sink)
