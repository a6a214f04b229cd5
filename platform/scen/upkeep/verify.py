"""`verify_store`: walks ledger and bundles, and tells all that is wrong, each with its remedy."""

import struct
from collections.abc import Callable, Iterator, Mapping

from scen.errors import IntegrityError, NotFoundError, ScenError
from scen.fs import Storage
from scen.registry.entry import LedgerEntry
from scen.registry.ledger import Ledger, open_ledger
from scen.registry.manifest import read_manifest
from scen.store.bundles import bundle_path, count_rows, read_bundle
from scen.upkeep.findings import BACKUP, Finding
from scen.upkeep.needed import edits_by_bundle, orphan_bundles
from scen.upkeep.verify_ledger import verify_ledger

Progress = Callable[[int, int], None]  # bundles read now, of how many


def verify_store(
    storage: Storage, progress: Progress = lambda _done, _total: None
) -> Iterator[Finding]:
    """All findings, ledger first. Raises NotFoundError where there is no store."""
    try:
        read_manifest(storage)
    except NotFoundError:
        open_ledger(storage)  # its error says how to make one
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
            "contradiction", "bundles", f"not checked: {err}", "mend the ledger, verify again"
        )
        return
    yield from _verify_bundles(storage, ledger, by_bundle, progress)


def _verify_bundles(
    storage: Storage,
    ledger: Ledger,
    by_bundle: Mapping[str, list[LedgerEntry]],
    progress: Progress,
) -> Iterator[Finding]:
    wanted = dict.fromkeys([*ledger.manifest.artifacts.values(), *by_bundle])
    for digest in wanted:
        entries = by_bundle.get(digest, [])
        yield from _verify_bundle(storage, digest, entries)
        progress(1, len(wanted))
    for file in orphan_bundles(storage, ledger):
        yield Finding(
            "orphan", file.path, f"nothing needs its {file.size} bytes", "`scen gc` deletes it"
        )


def _verify_bundle(storage: Storage, digest: str, entries: list[LedgerEntry]) -> Iterator[Finding]:
    path = bundle_path(digest)
    whose = f"the experts of {len(entries)} edits" if entries else "the router of the store"
    try:
        data = read_bundle(storage, digest)
        rows = count_rows(data) if entries else 0
    except NotFoundError:
        fix = f"{BACKUP}; or revoke its edits and commit them again under other ids"
        yield Finding("missing", path, f"it held {whose}", fix if entries else BACKUP)
        return
    except (IntegrityError, ValueError, struct.error) as err:
        yield Finding("damaged", path, f"it holds {whose}: {err}", BACKUP)
        return
    beyond = [entry.edit_id for entry in entries if entry.row >= rows]
    if beyond:
        what = f"it has {rows} rows, and none for {beyond[:5]}"
        yield Finding("contradiction", path, what, BACKUP)
