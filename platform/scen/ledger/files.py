"""The files of a ledger as they lie on storage, read without Delta Lake; and the unreferenced ones.

Delta Lake's own vacuum is not used: it would commit versions that change no edit.
"""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from scen.errors import IntegrityError
from scen.fs import Storage, StoredFile
from scen.ledger.log import NOTE, LogEntry, read_note
from scen.ledger.table import FOLDER, open_table

LOG_FOLDER = f"{FOLDER}/_delta_log"
_LOG = re.compile(rf"{LOG_FOLDER}/(\d{{20}})\.json")
_CUT_OFF = re.compile(rf"{LOG_FOLDER}/_commit_.*\.json\.tmp")


@dataclass(frozen=True)
class LogFile:
    """What the log file of a version says. `told` is the platform's own note; `adds` are its data
    files by path under the store, with their sizes in bytes."""

    path: str
    version: int
    told: LogEntry | None = None
    adds: dict[str, int] = field(default_factory=dict)


def log_paths(storage: Storage) -> dict[int, str]:
    """The log files by version."""
    found = (_LOG.fullmatch(name) for name in storage.names(LOG_FOLDER))
    return {int(match[1]): match[0] for match in found if match}


def read_log_file(storage: Storage, version: int, path: str) -> LogFile:
    """The log file of a version. Raises IntegrityError where it is cut off or not JSON."""
    try:
        lines = storage.read(path).decode().splitlines()
        actions = [json.loads(line) for line in lines if line.strip()]
    except ValueError as err:
        raise IntegrityError(f"is cut off or changed ({err})") from err
    infos = [action["commitInfo"] for action in actions if "commitInfo" in action]
    if len(infos) != 1:
        raise IntegrityError("is cut off: it does not say which commit it is")
    told = read_note(version, infos[0][NOTE]) if NOTE in infos[0] else None
    adds = [action["add"] for action in actions if "add" in action]
    if told is not None and not (adds and any("txn" in action for action in actions)):
        raise IntegrityError("is cut off: it names no data file, or no action")
    return LogFile(path, version, told, {f"{FOLDER}/{unquote(a['path'])}": a["size"] for a in adds})


def data_files(storage: Storage) -> list[StoredFile]:
    """All data files, named in the log or not."""
    files = storage.files(FOLDER)
    return [f for f in files if f.path.endswith(".parquet") and not f.path.startswith(LOG_FOLDER)]


def cut_off_commits(storage: Storage) -> list[StoredFile]:
    """Log files that a writer began and did not put in their place."""
    return [file for file in storage.files(LOG_FOLDER) if _CUT_OFF.fullmatch(file.path)]


def read_rows(storage: Storage, path: str, size: int) -> list[dict[str, Any]]:
    """The rows of a data file. Raises NotFoundError, or IntegrityError where it is damaged."""
    data = storage.read(path)
    if len(data) != size:
        raise IntegrityError(f"has {len(data)} bytes, not {size}")
    try:
        rows: list[dict[str, Any]] = pq.read_table(BytesIO(data)).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as err:
        raise IntegrityError(f"cannot be read ({str(err).splitlines()[0][:200]})") from err
    return rows


_CHECKPOINT = re.compile(rf"{LOG_FOLDER}/(\d{{20}})\.checkpoint\..*parquet")
_FIRST_LOOK = f"{LOG_FOLDER}/_last_checkpoint"  # names the checkpoint that readers begin with


def stray_files(storage: Storage) -> list[StoredFile]:
    """What writers left behind that were killed amid a commit: data files that no commit names, and
    commits that were not put in their place. Raises IntegrityError where a log file is missing or
    damaged, as nobody knows then which data it names."""
    data, table = data_files(storage), open_table(storage)
    if len(data) <= len(table.file_uris()):  # nothing but what the newest version has
        return cut_off_commits(storage)
    paths = log_paths(storage)
    missing = sorted(set(range(table.version() + 1)) - set(paths))
    if missing:
        raise IntegrityError(
            f"ledger: the log files of versions {missing[:5]} are missing; `scen verify` tells "
            "what to do"
        )
    logs = [read_log_file(storage, version, path) for version, path in paths.items()]
    named = {name for log in logs for name in log.adds}
    return [file for file in data if file.path not in named] + cut_off_commits(storage)


def spare_checkpoints(storage: Storage, kept: Collection[int]) -> list[StoredFile]:
    """The checkpoints (what all commits up to a version come to, so that not all of them need be
    read) that are neither the last before a kept version nor the one that readers begin with.
    Without them each version is read from its commits."""
    found: dict[int, list[StoredFile]] = {}
    for file in storage.files(LOG_FOLDER):
        if match := _CHECKPOINT.fullmatch(file.path):
            found.setdefault(int(match[1]), []).append(file)
    if not found:
        return []
    needed = {max((at for at in found if at <= version), default=0) for version in kept}
    needed.add(max(found))
    if storage.exists(_FIRST_LOOK):
        needed.add(storage.read_json(_FIRST_LOOK)["version"])
    return [file for at, files in found.items() if at not in needed for file in files]
