"""The Delta table of a ledger: its columns, where it lies, how it is made, opened and read."""

from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, QueryBuilder
from deltalake.exceptions import CommitFailedError

from scen.errors import ConfigError, NotFoundError
from scen.fs import Storage

ROW = pa.schema(
    [
        ("edit_id", pa.string()),
        ("stream", pa.string()),
        ("wave", pa.int64()),
        ("wave_key", pa.string()),
        ("status", pa.string()),
        ("bundle", pa.string()),
        ("row", pa.int32()),
        ("version", pa.int64()),
        ("edit_digest", pa.string()),
        ("edit_json", pa.string()),
        ("prompt", pa.string()),
        ("target", pa.string()),
        ("subject", pa.string()),
        ("author", pa.string()),
        ("source", pa.string()),
        ("committed_at", pa.timestamp("us", tz="UTC")),
    ]
)
# Any version may be asked for again, so the log is kept for ten years.
_KEEP = {
    "delta.logRetentionDuration": "interval 3650 days",
    "delta.deletedFileRetentionDuration": "interval 3650 days",
}
# Delta Lake reads a folder as a URL: with these in it, it fails, or writes to another folder.
_UNSAFE = "%#?[]\\^|"


def create_table(storage: Storage) -> None:
    """Make the empty table, version 0, where there is none. Raises ConfigError for its place."""
    try:
        DeltaTable.create(
            _table_uri(storage),
            ROW,
            mode="ignore",
            configuration=_KEEP,
            storage_options=storage.options,
            # A second creator must fail: a retry would be a version of its own.
            commit_properties=CommitProperties(max_commit_retries=0),
        )
    except CommitFailedError:
        open_table(storage)


def open_table(storage: Storage, version: int | None = None) -> DeltaTable:
    """The table at a version (None: the newest). Raises NotFoundError naming the range."""
    table = DeltaTable(_table_uri(storage), storage_options=storage.options)
    newest = table.version()
    if version is not None and not 0 <= version <= newest:
        raise NotFoundError(f"--version: {version} is not one of 0 to {newest}")
    if version is not None:
        table.load_as_version(version)
    return table


def read_rows(table: DeltaTable) -> list[dict[str, Any]]:
    """All rows of a table at its version, in no order."""
    # Not to_pyarrow_table: Arrow's threads would still hold a Python file system when the process
    # ends, and now and then abort it after its work is done.
    found = QueryBuilder().register("ledger", table).execute("select * from ledger")
    rows: list[dict[str, Any]] = pa.table(found.read_all()).to_pylist()
    return rows


def _table_uri(storage: Storage) -> str:
    if not storage.is_local:
        return storage.child_uri("ledger")
    path = str(storage.local_path / "ledger")
    unsafe = sorted(set(path) & set(_UNSAFE))
    if unsafe:
        raise ConfigError(f"store: {storage.uri} has {' '.join(unsafe)} in it; rename the folder")
    return path
