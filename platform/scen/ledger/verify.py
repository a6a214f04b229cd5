"""`verify_store`: checks ledger and bundles; each finding names a remedy."""

import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from scen.errors import IntegrityError, NotFoundError, ScenError
from scen.fs import Storage
from scen.ledger.bundles import (
    LOG_FOLDER,
    LogFile,
    bundle_path,
    count_rows,
    data_files,
    edits_by_bundle,
    interrupted_commits,
    log_paths,
    orphan_bundles,
    read_bundle,
    read_log_file,
    read_rows,
    router_bundles,
)
from scen.ledger.events import LedgerEntry
from scen.ledger.ledger import Ledger, open_ledger
from scen.ledger.manifest import read_manifest
from scen.ledger.rows import rows_digest


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem with one file or commit. `kind` is damaged, missing, contradiction or orphan;
    orphans (unreferenced files) are not damage."""

    kind: str
    where: str
    what: str
    fix: str

    @property
    def is_damage(self) -> bool:
        """True for every kind but orphan."""
        return self.kind != "orphan"


Progress = Callable[[int, int], None]  # (bundles read since the last call, all bundles)
BACKUP = "restore the file from a backup"


def verify_store(
    storage: Storage, progress: Progress = lambda _done, _total: None
) -> Iterator[Finding]:
    """All findings, ledger first. Raises NotFoundError if there is no store."""
    try:
        read_manifest(storage)
    except NotFoundError:
        open_ledger(storage)  # raises an error that says how to create a store
    except IntegrityError as err:
        yield Finding("damaged", "store.json", str(err), BACKUP)
        return
    is_sound = True
    for finding in verify_ledger(storage):
        is_sound = is_sound and not finding.is_damage
        yield finding
    try:
        ledger = open_ledger(storage)
        by_bundle = edits_by_bundle(ledger)
    except ScenError as err:
        if is_sound:
            raise
        yield Finding(
            "contradiction",
            "bundles",
            f"not checked: {err}",
            "repair the ledger, then verify again",
        )
        return
    yield from _verify_bundles(storage, ledger, by_bundle, progress)


def verify_ledger(storage: Storage) -> Iterator[Finding]:
    """The findings about the ledger of a store."""
    paths = log_paths(storage)
    for version in sorted(set(range(max(paths, default=-1) + 1)) - set(paths)):
        yield _log_finding("missing", f"{LOG_FOLDER}/{version:020d}.json", "is not there")
    referenced: set[str] = set()
    is_log_complete = True
    for version, path in sorted(paths.items()):
        try:
            file = read_log_file(storage, version, path)
        except IntegrityError as err:
            is_log_complete = False
            yield _log_finding("damaged", path, str(err))
            continue
        referenced |= set(file.adds)
        yield from _verify_commit(storage, file)
    if is_log_complete:
        yield from _orphans(storage, referenced)
        yield from _verify_replay(storage)


def _verify_commit(storage: Storage, file: LogFile) -> Iterator[Finding]:
    """Check that the data files of a commit exist and hold the rows that the log records."""
    rows: list[dict[str, Any]] = []
    for path, size in file.adds.items():
        try:
            rows += read_rows(storage, path, size)
        except NotFoundError:
            yield Finding("missing", path, f"it holds rows of version {file.version}", BACKUP)
            return
        except IntegrityError as err:
            yield Finding("damaged", path, str(err), BACKUP)
            return
    if file.note is not None and rows_digest(rows) != file.note.rows:
        counts = dict(Counter(row["event"] for row in rows))
        what = (
            f"its rows are not those of version {file.version}: the log records "
            f"{dict(file.note.counts)}, the file holds {counts}"
        )
        yield Finding("damaged", ", ".join(file.adds), what, BACKUP)


def _orphans(storage: Storage, referenced: set[str]) -> Iterator[Finding]:
    unreferenced_files = [file for file in data_files(storage) if file.path not in referenced]
    for file in [*unreferenced_files, *interrupted_commits(storage)]:
        what = "no commit references it: it was left behind by an interrupted commit"
        yield Finding("orphan", file.path, what, "unreferenced; `scen gc` deletes it")


def _verify_replay(storage: Storage) -> Iterator[Finding]:
    """Check that the events can be replayed."""
    try:
        open_ledger(storage).snapshot()
    except ScenError as err:
        yield Finding("contradiction", "ledger", str(err), "restore the ledger from a backup")


def _log_finding(kind: str, path: str, what: str) -> Finding:
    version = int(path[-25:-5])
    fix = (
        f"{BACKUP}; without a backup, if it is the newest version, move the file away: this undoes "
        f"version {version}, and its wave or action can be repeated"
    )
    return Finding(kind, path, what, fix)


def _verify_bundles(
    storage: Storage,
    ledger: Ledger,
    by_bundle: Mapping[str, list[LedgerEntry]],
    progress: Progress,
) -> Iterator[Finding]:
    digests = dict.fromkeys([*sorted(router_bundles(ledger)), *by_bundle])
    for digest in digests:
        entries = by_bundle.get(digest, [])
        yield from _verify_bundle(storage, digest, entries)
        progress(1, len(digests))
    for file in orphan_bundles(storage, ledger):
        yield Finding(
            "orphan", file.path, f"its {file.size} bytes are unreferenced", "`scen gc` deletes it"
        )


def _verify_bundle(storage: Storage, digest: str, entries: list[LedgerEntry]) -> Iterator[Finding]:
    path = bundle_path(digest)
    content = f"the experts of {len(entries)} edits" if entries else "a router of the store"
    try:
        data = read_bundle(storage, digest)
        rows = count_rows(data) if entries else 0
    except NotFoundError:
        fix = f"{BACKUP}; or revoke its edits and commit them again under other ids"
        yield Finding("missing", path, f"it held {content}", fix if entries else BACKUP)
        return
    except (IntegrityError, ValueError, struct.error) as err:
        yield Finding("damaged", path, f"it holds {content}: {err}", BACKUP)
        return
    beyond = [entry.edit_id for entry in entries if entry.row >= rows]
    if beyond:
        what = f"it has {rows} rows, and none for {beyond[:5]}"
        yield Finding("contradiction", path, what, BACKUP)
