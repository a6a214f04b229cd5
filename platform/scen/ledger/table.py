"""The Delta table of a ledger: columns, creation, queries; and the full edits."""

import json
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, QueryBuilder
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from scen.errors import ConfigError, IntegrityError, NotFoundError
from scen.fs import Storage
from scen.records import Edit, edit_from_dict, edit_to_dict

FOLDER = "ledger"
_MOMENT = pa.timestamp("us", tz="UTC")
# One row per event of an edit, in the order of `version`, then of `seq`. Columns that
# only `committed` events have are null in the rows of other events.
ROW = pa.schema(
    [
        ("version", pa.int64()),
        ("seq", pa.int32()),
        ("event", pa.string()),
        ("edit_id", pa.string()),
        ("by", pa.string()),
        ("at", _MOMENT),
        ("stream", pa.string()),
        ("wave", pa.int64()),
        ("wave_key", pa.string()),
        ("bundle", pa.string()),
        ("row", pa.int32()),
        ("edit_digest", pa.string()),
        ("edit_json", pa.string()),
        ("prompt", pa.string()),
        ("target", pa.string()),
        ("subject", pa.string()),
        ("author", pa.string()),
        ("source", pa.string()),
        ("prompt_key", pa.string()),
        ("fact_key", pa.string()),
        ("target_key", pa.string()),
        ("valid_until", _MOMENT),
    ]
)
# Any version may be read later, so the log is kept for ten years.
_KEEP = {
    "delta.logRetentionDuration": "interval 3650 days",
    "delta.deletedFileRetentionDuration": "interval 3650 days",
}
# Delta Lake parses a path as a URL: these characters make it fail or write to another folder.
_UNSAFE = "%#?[]\\^|"


def create_table(storage: Storage) -> None:
    """Create the empty table (version 0) if missing. Raises ConfigError for an unsafe path."""
    try:
        DeltaTable.create(
            _table_uri(storage),
            ROW,
            mode="ignore",
            configuration=_KEEP,
            storage_options=storage.options,
            # A second creator must fail: a retry would commit another version.
            commit_properties=CommitProperties(max_commit_retries=0),
        )
    except CommitFailedError:
        open_table(storage)


def open_table(storage: Storage, version: int | None = None) -> DeltaTable:
    """The table at a version (None: the newest). Raises NotFoundError naming the range,
    IntegrityError if its log is damaged."""
    try:
        table = DeltaTable(_table_uri(storage), storage_options=storage.options)
        newest = table.version()
        if version is not None and not 0 <= version <= newest:
            raise NotFoundError(f"--version: {version} is not one of 0 to {newest}")
        if version is not None:
            table.load_as_version(version)
    except TableNotFoundError:
        raise
    except DeltaError as err:
        raise IntegrityError(_unreadable(storage, err)) from err
    return table


def read_columns(
    table: DeltaTable, columns: Sequence[str], where: str, order: str = "version, seq"
) -> list[list[Any]]:
    """The values of these columns, a list each, in the rows that match an SQL condition. Raises
    IntegrityError if the table's files are damaged."""
    # Not to_pyarrow_table: Arrow's threads would hold a Python file system at exit, which
    # occasionally aborts the process.
    names = ", ".join(f'"{name}"' for name in columns)
    query = f"select {names} from ledger where {where} order by {order}"
    try:
        rows = pa.table(QueryBuilder().register("ledger", table).execute(query).read_all())
    except Exception as err:  # deltalake has no common class for errors of its reader
        raise IntegrityError(
            f"ledger: a data file cannot be read ({str(err).splitlines()[0][:200]}); `scen verify` "
            "says which"
        ) from err
    return [column.to_pylist() for column in rows.columns]


def _unreadable(storage: Storage, err: DeltaError) -> str:
    return (
        f"ledger: the log in {storage.child_uri(FOLDER)}/_delta_log cannot be read "
        f"({str(err).splitlines()[0][:200]}); `scen verify` names the damaged file"
    )


def _table_uri(storage: Storage) -> str:
    if not storage.is_local:
        return storage.child_uri(FOLDER)
    path = str(storage.local_path / FOLDER)
    unsafe = sorted(set(path) & set(_UNSAFE))
    if unsafe:
        raise ConfigError(f"store: {storage.uri} has {' '.join(unsafe)} in it; rename the folder")
    return path


_TEXT_COLUMNS = ("edit_id", "edit_json")


class EditTexts:
    """Edits by id. Committed edits never change, so each is read and parsed once."""

    def __init__(self, storage: Storage | None = None) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._read_to = 0  # the version up to which all texts were read
        self._texts: dict[str, str] = {}
        self._edits: dict[str, Edit] = {}

    @classmethod
    def of(cls, edits: Iterable[Edit]) -> "EditTexts":
        """These edits, without storage."""
        texts = cls()
        texts._edits = {edit.id: edit for edit in edits}
        return texts

    def get(self, edit_id: str) -> Edit:
        """A committed edit. Raises NotFoundError."""
        with self._lock:
            if edit_id not in self._edits:
                if edit_id not in self._texts:
                    self._read_newer()
                if edit_id not in self._texts:
                    raise NotFoundError(f"edit: {edit_id!r} is not in the ledger")
                self._edits[edit_id] = edit_from_dict(json.loads(self._texts.pop(edit_id)))
            return self._edits[edit_id]

    def _read_newer(self) -> None:
        if self._storage is None:
            return
        table = open_table(self._storage)
        where = f"version > {self._read_to} and event = 'committed'"
        ids, texts = read_columns(table, _TEXT_COLUMNS, where)
        self._texts.update(zip(ids, texts, strict=True))
        self._read_to = table.version()


def edit_text(edit: Edit) -> str:
    """The JSON of an edit in the ledger."""
    return json.dumps(edit_to_dict(edit), ensure_ascii=False)
