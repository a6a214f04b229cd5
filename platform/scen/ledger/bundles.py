"""Bundles (the tensors of a wave in one safetensors file, named by its sha256), and the files of
a ledger on storage, including unreferenced ones.

`tensors` saves and loads bundles. Delta Lake's own vacuum is not used: it would commit versions
without events.
"""

import json
import re
import struct
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from scen.errors import IntegrityError, NotFoundError
from scen.fs import Storage, StoredFile
from scen.ledger.events import LedgerEntry
from scen.ledger.ledger import Ledger
from scen.ledger.table import FOLDER, open_table
from scen.ledger.view import NOTE, LogEntry, read_note
from scen.records import digest_bytes

_FOLDER, _SUFFIX = "bundles/", ".safetensors"
_DIGEST = re.compile(r"[0-9a-f]{64}")


def read_bundle(storage: Storage, digest: str) -> bytes:
    """The bytes of a bundle. Raises NotFoundError, or IntegrityError for damaged bytes."""
    path = bundle_path(digest)
    try:
        data = storage.read(path)
    except NotFoundError as err:
        raise NotFoundError(
            f"bundle {digest[:12]} is missing ({storage.child_uri(path)}): if `scen gc` deleted "
            "it, use a newer version; otherwise restore the file from a backup, or run its wave "
            "again in a new store"
        ) from err
    actual = digest_bytes(data)
    if actual != digest:
        raise IntegrityError(
            f"bundle {digest[:12]} is damaged ({storage.child_uri(path)} has sha256 "
            f"{actual[:12]}...): restore the file from a backup"
        )
    return data


def count_rows(data: bytes) -> int:
    """The number of rows of every tensor in a bundle, read from the header. Raises IntegrityError
    if there is no tensor or the numbers differ."""
    (length,) = struct.unpack("<Q", data[:8])
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    counts = {value["shape"][0] for name, value in header.items() if name != "__metadata__"}
    if len(counts) != 1:
        raise IntegrityError(f"bundle: its tensors have {sorted(counts)} rows, not one number")
    return int(counts.pop())


def bundle_path(digest: str) -> str:
    """The path of a bundle in its store. Raises IntegrityError for an invalid digest."""
    if not _DIGEST.fullmatch(digest):
        raise IntegrityError(f"bundle: {digest!r} is not a sha256 in hex")
    return f"bundles/{digest}.safetensors"


def stored_bundles(storage: Storage) -> dict[str, StoredFile]:
    """The bundles on storage, by digest."""
    by_digest = {f.path[len(_FOLDER) : -len(_SUFFIX)]: f for f in storage.files("bundles")}
    return {digest: file for digest, file in by_digest.items() if file.path.endswith(_SUFFIX)}


def edits_by_bundle(ledger: Ledger) -> Mapping[str, list[LedgerEntry]]:
    """The edits whose experts are in each bundle, active or not, except those whose expert was
    dropped."""
    state = ledger.snapshot().state
    by_bundle: dict[str, list[LedgerEntry]] = defaultdict(list)
    for entry in state.entries.values():
        gone = state.gone.get(entry.edit_id)
        if gone is None or not gone.is_dropped:
            by_bundle[entry.bundle].append(entry)
    return by_bundle


def router_bundles(ledger: Ledger) -> set[str]:
    """The routers of all versions: a rollback may return to any of them."""
    routers = (event.router for event in ledger.snapshot().state.routers)
    return {*ledger.manifest.artifacts.values(), *(digest for digest in routers if digest)}


def unfinished_bundles(storage: Storage, ledger: Ledger) -> set[str]:
    """The bundles of waves that were started and are neither committed nor rejected: a later run
    or `scen promote` continues them."""
    names = storage.names("waves")
    done = {entry.wave_key for entry in ledger.log()}
    done |= {name.split("/")[1] for name in names if name.endswith("/rejected.json")}
    digests: set[str] = set()
    for name in names:
        _, key, *rest = name.split("/")
        is_trained = rest == ["trained.json"] or rest[:1] == ["parts"]
        if key not in done and is_trained and name.endswith(".json"):
            digests.add(storage.read_json(name)["bundle"])
    return digests


def orphan_bundles(storage: Storage, ledger: Ledger) -> list[StoredFile]:
    """The bundles that no edit of the ledger, router of any version or unfinished wave
    references."""
    needed = {
        *edits_by_bundle(ledger),
        *router_bundles(ledger),
        *unfinished_bundles(storage, ledger),
    }
    stored = stored_bundles(storage)
    return [file for digest, file in stored.items() if digest not in needed]


LOG_FOLDER = f"{FOLDER}/_delta_log"
_LOG = re.compile(rf"{LOG_FOLDER}/(\d{{20}})\.json")
_INTERRUPTED = re.compile(rf"{LOG_FOLDER}/_commit_.*\.json\.tmp")


@dataclass(frozen=True)
class LogFile:
    """The log file of a version. `note` is the platform's own entry; `adds` maps the paths of its
    data files in the store to their sizes in bytes."""

    path: str
    version: int
    note: LogEntry | None = None
    adds: dict[str, int] = field(default_factory=dict)


def log_paths(storage: Storage) -> dict[int, str]:
    """The log files by version."""
    matches = (_LOG.fullmatch(name) for name in storage.names(LOG_FOLDER))
    return {int(match[1]): match[0] for match in matches if match}


def read_log_file(storage: Storage, version: int, path: str) -> LogFile:
    """Read the log file of a version. Raises IntegrityError if it is truncated or not JSON."""
    try:
        lines = storage.read(path).decode().splitlines()
        actions = [json.loads(line) for line in lines if line.strip()]
    except ValueError as err:
        raise IntegrityError(f"is cut off or changed ({err})") from err
    infos = [action["commitInfo"] for action in actions if "commitInfo" in action]
    if len(infos) != 1:
        raise IntegrityError("is cut off: it does not say which commit it is")
    note = read_note(version, infos[0][NOTE]) if NOTE in infos[0] else None
    adds = [action["add"] for action in actions if "add" in action]
    if note is not None and not (adds and any("txn" in action for action in actions)):
        raise IntegrityError("is cut off: it names no data file, or no action")
    return LogFile(path, version, note, {f"{FOLDER}/{unquote(a['path'])}": a["size"] for a in adds})


def data_files(storage: Storage) -> list[StoredFile]:
    """All data files, referenced by the log or not."""
    files = storage.files(FOLDER)
    return [f for f in files if f.path.endswith(".parquet") and not f.path.startswith(LOG_FOLDER)]


def interrupted_commits(storage: Storage) -> list[StoredFile]:
    """Log files that a writer started and did not move into place."""
    return [file for file in storage.files(LOG_FOLDER) if _INTERRUPTED.fullmatch(file.path)]


def read_rows(storage: Storage, path: str, size: int) -> list[dict[str, Any]]:
    """The rows of a data file. Raises NotFoundError, or IntegrityError if it is damaged."""
    data = storage.read(path)
    if len(data) != size:
        raise IntegrityError(f"has {len(data)} bytes, not {size}")
    try:
        rows: list[dict[str, Any]] = pq.read_table(BytesIO(data)).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as err:
        raise IntegrityError(f"cannot be read ({str(err).splitlines()[0][:200]})") from err
    return rows


_CHECKPOINT = re.compile(rf"{LOG_FOLDER}/(\d{{20}})\.checkpoint\..*parquet")
_LAST_CHECKPOINT = f"{LOG_FOLDER}/_last_checkpoint"  # names the checkpoint that readers start from


def stray_files(storage: Storage) -> list[StoredFile]:
    """Files left behind by writers that were killed during a commit: data files that no commit
    references, and log files that were not moved into place. Raises IntegrityError if a log file
    is missing or damaged, since the data files that it references are then unknown."""
    data, table = data_files(storage), open_table(storage)
    if len(data) <= len(table.file_uris()):  # only those of the newest version
        return interrupted_commits(storage)
    paths = log_paths(storage)
    missing = sorted(set(range(table.version() + 1)) - set(paths))
    if missing:
        raise IntegrityError(
            f"ledger: the log files of versions {missing[:5]} are missing; `scen verify` "
            "says what to do"
        )
    logs = [read_log_file(storage, version, path) for version, path in paths.items()]
    referenced = {name for log in logs for name in log.adds}
    return [file for file in data if file.path not in referenced] + interrupted_commits(storage)


def spare_checkpoints(storage: Storage, kept: Collection[int]) -> list[StoredFile]:
    """The checkpoints that can be deleted: neither the last one before a kept version nor the one
    that readers start from. A checkpoint sums up all commits up to its version; without one, a
    version is read from its commits."""
    by_version: dict[int, list[StoredFile]] = {}
    for file in storage.files(LOG_FOLDER):
        if match := _CHECKPOINT.fullmatch(file.path):
            by_version.setdefault(int(match[1]), []).append(file)
    if not by_version:
        return []
    needed = {max((at for at in by_version if at <= version), default=0) for version in kept}
    needed.add(max(by_version))
    if storage.exists(_LAST_CHECKPOINT):
        needed.add(storage.read_json(_LAST_CHECKPOINT)["version"])
    return [file for at, files in by_version.items() if at not in needed for file in files]
