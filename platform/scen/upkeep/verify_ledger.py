"""Walks the files of a ledger: is every commit whole, every row there and as it was written?"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from scen.errors import IntegrityError, NotFoundError, ScenError
from scen.fs import Storage
from scen.registry.ledger import open_ledger
from scen.registry.rows import rows_digest
from scen.upkeep.findings import BACKUP, Finding
from scen.upkeep.ledger_files import (
    LOG_FOLDER,
    LogFile,
    cut_off_commits,
    data_files,
    log_paths,
    read_log_file,
    read_rows,
)


def verify_ledger(storage: Storage) -> Iterator[Finding]:
    """What is wrong with the ledger of a store."""
    paths = log_paths(storage)
    for version in sorted(set(range(max(paths, default=-1) + 1)) - set(paths)):
        yield _log_finding("missing", f"{LOG_FOLDER}/{version:020d}.json", "is not there")
    named: set[str] = set()
    is_log_whole = True
    for version, path in sorted(paths.items()):
        try:
            file = read_log_file(storage, version, path)
        except IntegrityError as err:
            is_log_whole = False
            yield _log_finding("damaged", path, str(err))
            continue
        named |= set(file.adds)
        yield from _verify_commit(storage, file)
    if is_log_whole:
        yield from _orphans(storage, named)
        yield from _verify_whole(storage)


def _verify_commit(storage: Storage, file: LogFile) -> Iterator[Finding]:
    """The data files of one commit: are they there, and do they hold what the log says?"""
    rows: list[dict[str, Any]] = []
    for path, size in file.adds.items():
        try:
            rows += read_rows(storage, path, size)
        except NotFoundError:
            yield Finding("missing", path, f"version {file.version} has its rows in it", BACKUP)
            return
        except IntegrityError as err:
            yield Finding("damaged", path, str(err), BACKUP)
            return
    if file.told is not None and rows_digest(rows) != file.told.rows:
        counts = dict(Counter(row["event"] for row in rows))
        what = (
            f"its rows are not those of version {file.version}, which tells of "
            f"{dict(file.told.counts)}; found are {counts}"
        )
        yield Finding("damaged", ", ".join(file.adds), what, BACKUP)


def _orphans(storage: Storage, named: set[str]) -> Iterator[Finding]:
    unnamed = [file for file in data_files(storage) if file.path not in named]
    for file in [*unnamed, *cut_off_commits(storage)]:
        what = "no commit names it: it was left by a commit that was cut off"
        yield Finding("orphan", file.path, what, "nothing needs it; `scen gc` deletes it")


def _verify_whole(storage: Storage) -> Iterator[Finding]:
    """Do the events, one after the other, make sense?"""
    try:
        open_ledger(storage).snapshot()
    except ScenError as err:
        yield Finding("contradiction", "ledger", str(err), "restore the ledger from a backup")


def _log_finding(kind: str, path: str, what: str) -> Finding:
    version = int(path[-25:-5])
    fix = (
        f"{BACKUP}; where there is none and it is the newest, move it away: that takes version "
        f"{version} back, and its wave or action can be done again"
    )
    return Finding(kind, path, what, fix)
