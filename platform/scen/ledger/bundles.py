"""Bundles, the tensors of a wave in one safetensors file named by the sha256 of its bytes; and the
files of a ledger on storage, with those that nothing refers to.

`tensors` saves and loads bundles. Delta Lake's own vacuum is not used: it would commit versions
that change no edit.
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
    """The checked bytes of a bundle. Raises as `load_bundle` does."""
    path = bundle_path(digest)
    try:
        data = storage.read(path)
    except NotFoundError as err:
        raise NotFoundError(
            f"bundle {digest[:12]} is missing ({storage.child_uri(path)}): where `scen gc` deleted "
            "it, ask a newer version; else restore the file from a backup, or run the wave that "
            "made it again in a new store"
        ) from err
    actual = digest_bytes(data)
    if actual != digest:
        raise IntegrityError(
            f"bundle {digest[:12]} is damaged ({storage.child_uri(path)} has sha256 "
            f"{actual[:12]}...): restore the file from a backup"
        )
    return data


def count_rows(data: bytes) -> int:
    """How many rows all tensors of a bundle have, from its header alone. Raises IntegrityError
    where it has none or they differ."""
    (length,) = struct.unpack("<Q", data[:8])
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    counts = {value["shape"][0] for name, value in header.items() if name != "__metadata__"}
    if len(counts) != 1:
        raise IntegrityError(f"bundle: its tensors have {sorted(counts)} rows, not one number")
    return int(counts.pop())


def bundle_path(digest: str) -> str:
    """The path of a bundle in its store. Raises IntegrityError for what is not a digest."""
    if not _DIGEST.fullmatch(digest):
        raise IntegrityError(f"bundle: {digest!r} is not a sha256 in hex")
    return f"bundles/{digest}.safetensors"


def stored_bundles(storage: Storage) -> dict[str, StoredFile]:
    """The bundles that are there, by digest."""
    by_digest = {f.path[len(_FOLDER) : -len(_SUFFIX)]: f for f in storage.files("bundles")}
    return {digest: file for digest, file in by_digest.items() if file.path.endswith(_SUFFIX)}


def edits_by_bundle(ledger: Ledger) -> Mapping[str, list[LedgerEntry]]:
    """The edits whose experts are in each bundle, active or not, except those whose expert was
    deleted on purpose."""
    state = ledger.snapshot().state
    by_bundle: dict[str, list[LedgerEntry]] = defaultdict(list)
    for entry in state.entries.values():
        gone = state.gone.get(entry.edit_id)
        if gone is None or not gone.is_dropped:
            by_bundle[entry.bundle].append(entry)
    return by_bundle


def unfinished_bundles(storage: Storage, ledger: Ledger) -> set[str]:
    """The bundles of waves that are begun and neither committed nor rejected: a later run, or
    `scen promote`, goes on with them."""
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
    """The bundles that no edit of the ledger, method of the store or unfinished wave references."""
    needed = {
        *edits_by_bundle(ledger),
        *ledger.manifest.artifacts.values(),
        *unfinished_bundles(storage, ledger),
    }
    stored = stored_bundles(storage)
    return [file for digest, file in stored.items() if digest not in needed]


LOG_FOLDER = f"{FOLDER}/_delta_log"
_LOG = re.compile(rf"{LOG_FOLDER}/(\d{{20}})\.json")
_CUT_OFF = re.compile(rf"{LOG_FOLDER}/_commit_.*\.json\.tmp")


@dataclass(frozen=True)
class LogFile:
    """What the log file of a version says. `note` is the platform's own entry; `adds` are its data
    files by path under the store, with their sizes in bytes."""

    path: str
    version: int
    note: LogEntry | None = None
    adds: dict[str, int] = field(default_factory=dict)


def log_paths(storage: Storage) -> dict[int, str]:
    """The log files by version."""
    matches = (_LOG.fullmatch(name) for name in storage.names(LOG_FOLDER))
    return {int(match[1]): match[0] for match in matches if match}


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
    note = read_note(version, infos[0][NOTE]) if NOTE in infos[0] else None
    adds = [action["add"] for action in actions if "add" in action]
    if note is not None and not (adds and any("txn" in action for action in actions)):
        raise IntegrityError("is cut off: it names no data file, or no action")
    return LogFile(path, version, note, {f"{FOLDER}/{unquote(a['path'])}": a["size"] for a in adds})


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
    damaged, since the data that it names is then unknown."""
    data, table = data_files(storage), open_table(storage)
    if len(data) <= len(table.file_uris()):  # nothing but what the newest version has
        return cut_off_commits(storage)
    paths = log_paths(storage)
    missing = sorted(set(range(table.version() + 1)) - set(paths))
    if missing:
        raise IntegrityError(
            f"ledger: the log files of versions {missing[:5]} are missing; `scen verify` "
            "says what to do"
        )
    logs = [read_log_file(storage, version, path) for version, path in paths.items()]
    named = {name for log in logs for name in log.adds}
    return [file for file in data if file.path not in named] + cut_off_commits(storage)


def spare_checkpoints(storage: Storage, kept: Collection[int]) -> list[StoredFile]:
    """The checkpoints (what all commits up to a version come to, so that not all of them need be
    read) that are neither the last before a kept version nor the one that readers begin with.
    Without them each version is read from its commits."""
    by_version: dict[int, list[StoredFile]] = {}
    for file in storage.files(LOG_FOLDER):
        if match := _CHECKPOINT.fullmatch(file.path):
            by_version.setdefault(int(match[1]), []).append(file)
    if not by_version:
        return []
    needed = {max((at for at in by_version if at <= version), default=0) for version in kept}
    needed.add(max(by_version))
    if storage.exists(_FIRST_LOOK):
        needed.add(storage.read_json(_FIRST_LOOK)["version"])
    return [file for at, files in by_version.items() if at not in needed for file in files]
